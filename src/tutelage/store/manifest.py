"""What a committed folder holds, and whether it still holds it.

In: a folder. Out: its ``Manifest``, or the reason why there is none.
"""

import hashlib
import json
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from tutelage.errors import IntegrityError
from tutelage.store.secrets import without_tokens

MANIFEST = "MANIFEST.json"
MANIFEST_VERSION = 1
DIGESTS = {"sha256": "SHA-256", "xxh3": "XXH3"}
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
    content = {
        name: {part: entry[part] for part in ("bytes", "sha256")}
        for name, entry in files.items()
        if PurePosixPath(name).name not in NOT_CONTENT
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of an artifact, or None when nothing valid was committed there.

    Names and sizes of the files are compared; :func:`verify_artifact` also reads their content.
    """
    found = _inspect(path)
    return found if isinstance(found, Manifest) else None


def damage_of(path: Path) -> str | None:
    """Say what is wrong with a folder that was committed once; None when its manifest is valid or there is none.

    A folder without ``MANIFEST.json`` was never finished, which is no damage.
    """
    found = _inspect(path)
    return None if isinstance(found, Manifest) or not (path / MANIFEST).exists() else found


def require_manifest(path: Path) -> Manifest:
    """Return the manifest of an artifact.

    Raises:
        IntegrityError: If there is no valid one, or a file has another size.
    """
    manifest = _inspect(path)
    if not isinstance(manifest, Manifest):
        raise IntegrityError(
            f"{path} is no finished artifact: {manifest}. It was interrupted, or changed. Delete it and run again."
        )
    return manifest


def verify_artifact(path: Path) -> Manifest:
    """Read every file of an artifact and compare its SHA-256 with the manifest.

    Raises:
        IntegrityError: If there is no valid manifest, or a file differs from it.
    """
    manifest = require_manifest(path)
    for name in manifest.files:
        compare_file(path, name, manifest)
    return manifest


def compare_file(path: Path, name: str, manifest: Manifest, *, quick: bool = False) -> None:
    """Compare one file of an artifact with its manifest; ``quick`` reads XXH3 where the manifest holds it.

    XXH3 finds every accident at ten times the speed of SHA-256; only a forger could meet it.

    Raises:
        IntegrityError: If the file differs.
    """
    entry = manifest.files[name]
    kind = "xxh3" if quick and "xxh3" in entry else "sha256"
    found = _digest(path / name, kind)
    if found != entry[kind]:
        raise IntegrityError(
            f"{path / name} is damaged: {DIGESTS[kind]} {found[:12]}..., its manifest says {entry[kind][:12]}... "
            f"Run the recipe again, which sets {path.name} (stage {manifest.kind}) aside and makes it anew; or delete "
            "that folder."
        )


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


def _digest(path: Path, kind: str) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, xxhash.xxh3_128 if kind == "xxh3" else kind).hexdigest()  # pyright: ignore[reportArgumentType]
    except PermissionError:
        raise
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read ({error}). Delete its folder and run again.") from error


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
