"""What a committed folder holds, and whether it still holds it.

In: a folder. Out: its ``Manifest``, or the reason why there is none.
"""

import hashlib
import json
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tutelage.errors import IntegrityError
from tutelage.store.secrets import without_tokens

MANIFEST = "MANIFEST.json"
MANIFEST_VERSION = 1
NOT_CONTENT = frozenset({MANIFEST, "provenance.json"})  # times and host: left out of the digest


@dataclass(frozen=True)
class Manifest:
    """What a committed folder holds: one entry per file, and what it was made from."""

    kind: str
    format_version: int
    files: dict[str, dict[str, Any]]  # name -> {"bytes": int, "sha256": hex}
    content_digest: str
    fields: dict[str, Any]


def to_json(content: Any) -> str:
    """Dump with sorted keys, two spaces, a final newline; NaN and infinity are refused, access tokens left out."""
    return without_tokens(_dumped(content))


def _dumped(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def manifest_text(manifest: Manifest) -> str:
    """Return the content of ``MANIFEST.json``; it carries a digest of itself."""
    raw = {
        "manifest_version": MANIFEST_VERSION,
        "kind": manifest.kind,
        "format_version": manifest.format_version,
        "files": manifest.files,
        "content_digest": manifest.content_digest,
        "fields": manifest.fields,
    }
    # Not `to_json`: names of files stay as they are, so that they are found again.
    return _dumped(raw | {"manifest_digest": _text_digest(_dumped(raw))})


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """Hash names, sizes and SHA-256 of the files; times and host (``provenance.json``) are left out."""
    content = {name: entry for name, entry in files.items() if PurePosixPath(name).name not in NOT_CONTENT}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of an artifact, or None when nothing valid was committed there.

    Names and sizes of the files are compared; :func:`verify_artifact` also reads their content.
    """
    found = _inspect(path)
    return found if isinstance(found, Manifest) else None


def verify_artifact(path: Path) -> Manifest:
    """Read every file of an artifact and compare it with its manifest.

    Raises:
        IntegrityError: If there is no valid manifest, or a file differs from it.
    """
    manifest = _inspect(path)
    if not isinstance(manifest, Manifest):
        raise IntegrityError(
            f"{path} is no finished artifact: {manifest}. It was interrupted, or changed. Delete it and run again."
        )
    for name, entry in manifest.files.items():
        found = _sha256(path / name)
        if found != entry["sha256"]:
            raise IntegrityError(
                f"{path / name} is damaged: SHA-256 {found[:12]}..., its manifest says {entry['sha256'][:12]}... "
                f"Delete {path} and run again; only this part is made anew."
            )
    return manifest


def _inspect(path: Path) -> Manifest | str:
    """Return the manifest if it is whole and every file has its size, else the first thing wrong."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        raw = json.loads(text)
        if raw["manifest_version"] != MANIFEST_VERSION:
            return f"{MANIFEST} has version {raw['manifest_version']}, expected {MANIFEST_VERSION}"
        manifest = Manifest(raw["kind"], raw["format_version"], raw["files"], raw["content_digest"], raw["fields"])
        # The exact text is compared, so that no flipped bit of it can go unseen.
        if manifest_text(manifest) != text or manifest.content_digest != content_digest(manifest.files):
            return f"{MANIFEST} does not match its own digest"
        sizes = {name: entry["bytes"] for name, entry in manifest.files.items()}
    except (FileNotFoundError, NotADirectoryError):
        return f"it has no {MANIFEST}"
    except (IsADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    for name, size in sizes.items():
        found = _file_bytes(path, name)
        if found != size:
            return f"{name} has {found} bytes, expected {size}" if found is not None else f"{name} is missing"
    return manifest


def _file_bytes(folder: Path, name: str) -> int | None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return None  # nothing outside the folder belongs to it
    try:
        status = (folder / name).lstat()
    except (FileNotFoundError, NotADirectoryError):  # others, such as a denied permission, say nothing of the artifact
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except PermissionError:
        raise
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read ({error}). Delete its folder and run again.") from error


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
