"""The workspace can hold results.

In: a ``Look``. Out: a refusal where its path is a file, a note where nothing can be written.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from tutelage.experiment.checks.findings import Finding, Note, Refusal
from tutelage.experiment.checks.look import Look
from tutelage.store import is_writable

KEY = ("workspace",)


def workspace_is_usable(look: Look) -> Iterator[Finding]:
    """Look at the experiment's folder, or at the nearest one above it that exists.

    A finished experiment that can only be read is worth a plan and a report, so that is a note.
    """
    folder = nearest_existing(look.context.folders.root)
    if not folder.is_dir():
        yield Refusal(KEY, f"{folder} is a file, expected a folder for results. Move the file, or name another folder.")
    elif not is_writable(folder):
        yield Note(KEY, f"{_shown(folder)} cannot be written to: what is finished there can be read, but nothing runs")


def nearest_existing(folder: Path) -> Path:
    """Return a folder, or the first above it that exists; it may be a file, in which no folder can be made."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


def _shown(folder: Path) -> str:
    return "the current folder" if folder == Path() else str(folder)
