"""What ran, with what, on what: the audit log and the provenance of an artifact.

In: a stage's name and figures. Out: one JSON line per event; a provenance record.
"""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tutelage import __version__
from tutelage.store import make_folder, without_tokens

RECORDED_PACKAGES = (
    "tutelage", "torch", "transformers", "accelerate", "peft", "datasets", "numpy", "safetensors", "tokenizers",
    "scipy",
)  # fmt: skip


def append_event(folder: Path, event: dict[str, Any]) -> None:
    """Append one event to ``audit.jsonl``, with the time; a line is written in one call."""
    make_folder(folder)
    line = json.dumps({"time": now(), "pid": os.getpid(), **event}, ensure_ascii=False, sort_keys=True)
    line = without_tokens(line)
    with (folder / "audit.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def now() -> str:
    """Return the local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a number."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def code_commit() -> str:
    """Return the commit of the checkout this package runs from, ``-dirty`` when changed; else the version.

    A checkout that merely surrounds an installed copy is not ours and is not named.
    """
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return f"version {__version__}"
    try:
        described = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return described.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return f"version {__version__}"


def host_facts() -> dict[str, Any]:
    """Return what a timing depends on: host, processor, cores, memory, load average."""
    return {
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def peak_memory_bytes() -> int:
    """Return the largest resident set this process has had."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
