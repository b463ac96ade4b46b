"""The exception tree: every failure a user can meet, each with its documented exit code.

In: nothing. Out: exception classes; ``cli`` turns ``exit_code`` into the process's exit status.
"""


class TutelageError(Exception):
    """Root of everything this package raises on purpose.

    A message says what was found, what was expected and what to do, with the key, path or row.
    """

    exit_code = 1


class ConfigError(TutelageError, ValueError):
    """A recipe, an override or an environment variable is not valid."""


class DataError(TutelageError, ValueError):
    """A data file, a row or a template is not valid."""


class ModelError(TutelageError, ValueError):
    """A model cannot be loaded, or does not behave as the code needs it to."""


class AlignmentError(TutelageError, ValueError):
    """Two grids (positions, vocabularies, layers) do not fit together."""


class CapabilityError(TutelageError, ValueError):
    """A combination of source, signal, divergence and temperature is not defined."""


class TrainingError(TutelageError, RuntimeError):
    """A training run cannot go on, for a reason other than a non-finite number."""


class IntegrityError(TutelageError, RuntimeError):
    """Stored bytes are not what was committed."""

    exit_code = 3


class CacheError(IntegrityError):
    """A teacher cache is damaged, or does not hold what was asked of it."""


class LockedError(TutelageError, RuntimeError):
    """Another live process owns the folder."""


class DiskError(TutelageError, OSError):
    """The disk is full, or too small for what is about to be written."""

    exit_code = 4


class MemoryExhaustedError(TutelageError, MemoryError):
    """The machine's or the device's memory does not suffice."""

    exit_code = 5


class NumericsError(TutelageError, ArithmeticError):
    """A loss, a gradient or a teacher signal is not finite, or a loss is exactly zero."""

    exit_code = 6


class PreemptedError(BaseException):
    """A signal asked the process to stop; its state was saved and the next run resumes.

    No ``TutelageError``, and no ``Exception``: no code that goes on after a failure may take it for one.
    """

    exit_code = 75
