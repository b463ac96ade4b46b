"""What a user registers from a file of his own: losses; and how such a file is loaded.

In: the recipe's `plugins`, and which of them whoever starts the command allowed. Out: ``OwnLoss`` by name, each with a
digest of its source, which goes into the keys of the runs that use it. Torch is not imported here.
"""

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType
from typing import Any, Literal, TypeVar, get_args, get_origin

from typing_extensions import override

from tutelage.errors import ConfigError, TutelageError

LOSS_GROUP = "tutelage.losses"  # entry points of installed packages: NAME = "module:function"
SETTING_TYPES = (float, int, bool, str)
TEMPERATURE = "temperature"
Reads = Literal["logits", "record", "labels"]
Function = TypeVar("Function", bound=Callable[..., Any])

# What can go wrong in somebody else's file. Ctrl-C and the like pass through.
PLUGIN_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where something was registered: a file or a package, and the digest of the file's bytes."""

    name: str
    digest: str


@dataclass(frozen=True)
class OwnLoss:
    """A loss that a user registered: what it computes, what it reads, and its settings with types and defaults."""

    name: str
    compute: Callable[..., Any]
    reads: Reads
    source: Source
    settings: dict[str, inspect.Parameter] = field(default_factory=dict)


_LOSSES: dict[str, OwnLoss] = {}
_loading: ContextVar[Source | None] = ContextVar("loading", default=None)


def register_loss(name: str, *, reads: Reads = "logits") -> Callable[[Function], Function]:
    """Register a loss, so that a recipe may list it under ``losses`` with ``kind: NAME``.

    The function gets the student's logits [N, V] and, by ``reads``, the teacher's logits [N, V], the teacher's record
    or the labels [N], and returns a ``LossSum``: a sum over the N positions that carries a gradient to the student,
    and N. Its keyword-only arguments are the settings that a recipe may write; ``temperature`` is needed where the
    teacher is read, and the power of the temperature belongs into the sum::

        @tutelage.register_loss("hellinger")
        def hellinger(student_logits, teacher_logits, *, temperature: float, power: float = 2.0):
            ...
            return tutelage.LossSum(total, len(student_logits))

    Args:
        name: Letters, digits and underscores; none of the package's own losses.
        reads: logits, record (any signal; see ``tutelage.losses``) or labels.

    Raises:
        ConfigError: If the name or a setting is not valid, or another file registered the name.
    """

    def register(compute: Function) -> Function:
        if not name.isidentifier():
            raise ConfigError(f"the loss {name!r} has no valid name; expected letters, digits and underscores")
        loss = OwnLoss(name, compute, reads, _loading.get() or source_of(compute), _settings(name, compute, reads))
        other = _LOSSES.get(name)
        if other is not None and other.source.name != loss.source.name:
            raise ConfigError(
                f"the loss {name!r} is registered by {other.source.name} and by {loss.source.name}; rename one of them"
            )
        _LOSSES[name] = loss
        return compute

    return register


def find_own_loss(name: str) -> OwnLoss | None:
    """Return the registered loss of a name; an installed package's is imported when its name is first asked for.

    Raises:
        ConfigError: If the package cannot be imported or does not register the name.
    """
    if name not in _LOSSES and (point := _entry_points(LOSS_GROUP).get(name)) is not None:
        _load_entry_point(point)
        if name not in _LOSSES:
            raise ConfigError(
                f"the entry point {name} = {point.value} of {LOSS_GROUP} registered no loss {name!r}; expected a "
                f"function with @tutelage.register_loss({name!r})"
            )
    return _LOSSES.get(name)


def own_loss_names() -> list[str]:
    """List the registered losses, and those that installed packages offer."""
    return sorted({*_LOSSES, *_entry_points(LOSS_GROUP)})


@contextmanager
def forgotten_after() -> Iterator[None]:
    """Put the registered names back at the end as they were."""
    before = dict(_LOSSES)
    try:
        yield
    finally:
        _LOSSES.clear()
        _LOSSES.update(before)


def source_of(registered: Callable[..., Any]) -> Source:
    """Say where something is defined; in a notebook, where there is no file, its own text counts.

    Raises:
        ConfigError: If neither can be read: a changed loss could then not be told from the former one.
    """
    try:
        path = Path(inspect.getsourcefile(registered) or "")
        if path.is_file():
            return Source(str(path), _digest(path.read_bytes()))
        return Source(registered.__module__, _digest(inspect.getsource(registered).encode()))
    except (OSError, TypeError):
        raise ConfigError(
            f"the source of {registered!r} cannot be read, so a later change of it could not be noticed; define it in "
            "a file"
        ) from None


def load_plugin(path: Path) -> None:
    """Run a file that registers things. Its bytes are read once: what is hashed is what runs, never a stale .pyc.

    Raises:
        ConfigError: If it cannot be read, fails, or registers nothing.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); expected a Python file") from None
    source = Source(str(path), _digest(content))
    if any(loss.source == source for loss in _LOSSES.values()):
        return
    for name in [name for name, loss in _LOSSES.items() if loss.source.name == source.name]:
        del _LOSSES[name]  # the file has changed since: what it does not register any more is gone
    spec = importlib.util.spec_from_loader(
        f"tutelage_plugin_{path.stem}_{source.digest[:8]}", _OwnFile(path, content), origin=str(path)
    )
    assert spec is not None, "a loader was given"
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up by its name
    token = _loading.set(source)
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except TutelageError as error:
        raise ConfigError(f"{path}: {error}") from error
    except PLUGIN_ERRORS as error:
        raise ConfigError(f"{path}{_line(error, path)}: {type(error).__name__}: {error}") from error
    finally:
        _loading.reset(token)
    if not any(loss.source == source for loss in _LOSSES.values()):
        raise ConfigError(f"{path} registers nothing; expected a function with @tutelage.register_loss(NAME)")


def allow(written: Sequence[str], allowed: Sequence[str], *, folder: Path) -> Iterator[tuple[int, Path, str | None]]:
    """Yield, for every entry of a recipe's ``plugins``, its number, its path, and why it may not run (None: it may).

    Args:
        written: What the recipe lists, from the recipe's folder.
        allowed: What the caller named: the text that the recipe has, or a path from the current folder.
        folder: The recipe's.
    """
    named = {Path(each).resolve() for each in allowed} | {(folder / each).resolve() for each in allowed}
    for number, entry in enumerate(written):
        path = (folder / entry).resolve()
        if path.suffix != ".py" or not path.is_file():
            yield (
                number,
                path,
                f"{entry!r} is no Python file; expected one such as my_loss.py, from the recipe's folder",
            )
        elif path not in named:
            yield (
                number,
                path,
                f"{entry!r} is Python that would run with your rights, and was not asked for by name; read it, then "
                f'add `--plugin {entry}` (in Python: plugins=["{entry}"])',
            )
        else:
            yield number, path, None


class _OwnFile(importlib.abc.InspectLoader):
    """Compiles the bytes that were hashed."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    @override
    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.content)

    @override
    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.content, str(self.path))


def _settings(name: str, compute: Callable[..., Any], reads: Reads) -> dict[str, inspect.Parameter]:
    """Read the settings off the keyword-only arguments."""
    parameters = inspect.signature(compute, eval_str=True).parameters
    settings = {key: each for key, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
    positional = [
        each for each in parameters.values() if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) != 2:
        second = {"logits": "teacher_logits", "record": "teacher", "labels": "labels"}[reads]
        raise ConfigError(
            f"the loss {name!r} takes {len(positional)} positional arguments; expected (student_logits, {second}, *, "
            "settings)"
        )
    reads_teacher = reads != "labels"
    if reads_teacher != (TEMPERATURE in settings):
        expected = "needs a keyword-only `temperature`" if reads_teacher else "reads labels, which have no temperature"
        raise ConfigError(f"the loss {name!r} {expected}")
    settings.pop(TEMPERATURE, None)
    for key, each in settings.items():
        if each.annotation not in SETTING_TYPES and get_origin(each.annotation) is not Literal:
            raise ConfigError(
                f"the setting {key!r} of the loss {name!r} has no type that a recipe can write; expected float, int, "
                "bool, str or Literal[...]"
            )
        if key in ("kind", "weight"):
            raise ConfigError(f"the loss {name!r} cannot have a setting {key!r}: every loss has one; rename it")
        if get_origin(each.annotation) is Literal and not all(
            isinstance(one, str) for one in get_args(each.annotation)
        ):
            raise ConfigError(f"the setting {key!r} of the loss {name!r}: expected texts in its Literal")
    return settings


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _load_entry_point(point: EntryPoint) -> None:
    try:
        point.load()
    except PLUGIN_ERRORS as error:
        raise ConfigError(
            f"the entry point {point.name} = {point.value} of an installed package fails: {type(error).__name__}: "
            f"{error}. Mend or uninstall that package."
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _line(error: BaseException, path: Path) -> str:
    """Find the line of the file that failed."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line is not None else ""
