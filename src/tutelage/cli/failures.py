"""From an exception to one line and a documented exit code.

In: whatever a command raises. Out: ``error: ...`` on standard error and the process's exit status.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import typer

from tutelage.cli.terminal import say
from tutelage.errors import DiskError, MemoryExhaustedError, PreemptedError, TutelageError
from tutelage.store.causes import os_cause
from tutelage.store.disk import DISK_FULL

INTERRUPTED = 128 + 2  # as shells report SIGINT; only where this runs inside another program's own process
BROKEN_PIPE = 128 + 13  # as shells report SIGPIPE
EXIT_CODES = (
    "Exit codes: 0 ok, 1 user error, 2 usage, 3 integrity, 4 disk full, 5 memory, 6 non-finite numbers, "
    "75 saved and stopped by a signal (run again to go on)."
)


@contextmanager
def reported_failures() -> Iterator[None]:
    """Turn the failures that a user can do something about into one line; bugs keep their traceback."""
    try:
        yield
    except PreemptedError as error:
        raise _exit(error.exit_code, error, title="stopped") from None
    except TutelageError as error:
        raise _exit(error.exit_code, error) from None
    except KeyboardInterrupt:
        again = "the same command goes on from the last finished part"
        raise _exit(INTERRUPTED, again, title="interrupted") from None
    except BrokenPipeError:
        # Whoever read our output has gone (`tutelage ls | head -1`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
    except MemoryError:
        raise _exit(MemoryExhaustedError.exit_code, MEMORY_ADVICE) from None
    except OSError as error:
        if error.errno in DISK_FULL:
            full = f"no space left on the disk ({error.filename or error}); free some"
            raise _exit(DiskError.exit_code, full) from None
        if (cause := os_cause(error)) is None:
            raise
        raise _exit(TutelageError.exit_code, cause) from None
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise _exit(MemoryExhaustedError.exit_code, MEMORY_ADVICE) from None


MEMORY_ADVICE = (
    "memory does not suffice; lower `train.token_budget` and `evaluate.token_budget`, set "
    "`gradient_checkpointing: true` for the student, or train it with `adapter: {kind: lora}`"
)


def hide_secrets_in_tracebacks() -> None:
    """Make Python print uncaught exceptions with access tokens blanked out."""
    sys.excepthook = _redacted_traceback


def _redacted_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)).rstrip(), to_errors=True)


def _exit(code: int, cause: object, *, title: str = "error") -> typer.Exit:
    say(f"{title}: {cause}", to_errors=True)
    return typer.Exit(code)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Recognise torch's errors without importing torch: the class on a device, the text on a CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
