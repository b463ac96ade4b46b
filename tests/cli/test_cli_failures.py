import errno
import os
import subprocess
import sys

import pytest
import typer

from tutelage.cli.failures import reported_failures
from tutelage.errors import (
    CacheError,
    ConfigError,
    DataError,
    DiskError,
    IntegrityError,
    MemoryExhaustedError,
    NumericsError,
    PreemptedError,
)
from tutelage.store.causes import CAUSES

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"


class OutOfMemoryError(RuntimeError):
    """Named like torch's, which is recognised without importing torch."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("found x"), 1),
        (DataError("found x"), 1),
        (IntegrityError("found x"), 3),
        (CacheError("found x"), 3),
        (DiskError("found x"), 4),
        (OSError(errno.ENOSPC, "No space left on device", "/a/file"), 4),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/a/file"), 4),
        (MemoryError(), 5),
        (MemoryExhaustedError("found x"), 5),
        (OutOfMemoryError("CUDA out of memory"), 5),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 5),
        (NumericsError("found x"), 6),
        (PreemptedError("saved"), 75),
        (KeyboardInterrupt(), 130),
        *((OSError(number, os.strerror(number), "/a/file"), 1) for number in CAUSES),
        (OSError(errno.EMFILE, "Too many open files"), 1),
        (FileNotFoundError(2, "x", b"/a/\xff"), 1),
        (OSError(errno.ENODEV, "No such device", "/a/file"), 1),
    ],
)
def test_a_failure_is_one_line_and_its_documented_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(typer.Exit) as caught, reported_failures():
        raise error

    assert caught.value.exit_code == code
    shown = capsys.readouterr().err
    assert shown.startswith({75: "stopped: ", 130: "interrupted: "}.get(code, "error: "))  # a stop is no error
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [OSError("no number"), OSError(errno.ENODEV, "x"), RuntimeError("a bug"), ValueError("a bug"), KeyError("k")],
)
def test_a_bug_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error)), reported_failures():
        raise error


def test_tokens_and_control_characters_are_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-shape")
    with pytest.raises(typer.Exit), reported_failures():
        raise DataError(f"row \x1b[2J\x07\u202e {TOKEN} a-token-of-another-shape")

    shown = capsys.readouterr().err
    assert shown == "error: row [2J (token not shown) (token not shown)\n"


def test_an_uncaught_exception_is_shown_without_tokens_and_exits_1():
    code = (
        "import tutelage.cli.app as app\n"
        "@app.app.command()\n"
        f"def broken():\n    raise ValueError('{TOKEN}')\n"
        "import sys; sys.argv = ['tutelage', 'broken']\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: (token not shown)" in done.stderr
    assert TOKEN not in done.stderr + done.stdout


def test_a_reader_that_leaves_early_is_no_traceback():
    done = subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {sys.executable} -m tutelage.cli schema --json | head -c 1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
