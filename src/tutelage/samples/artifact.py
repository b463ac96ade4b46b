"""One committed folder per sample: found, or made once by whoever comes first.

In: a spec and a function that fills a folder. Out: the path of the committed artifact.
"""

from collections.abc import Callable
from pathlib import Path

from tutelage.samples.fetch import fetch
from tutelage.samples.home import cache_home
from tutelage.samples.specs import SampleSpec
from tutelage.store import folder_lock, make_folder, new_artifact, read_manifest, require_free_space, sweep_temporaries

# Another process may be downloading 90 MB over a slow line and converting them; then its work is ours too.
WAIT_SECONDS = 3600.0
KIND_FOLDERS = {"model": "models", "data": "data"}


def committed_sample(spec: SampleSpec, fill: Callable[[Path, Path], object]) -> Path:
    """Return the sample's artifact; fetch and unpack it only when there is no valid one.

    Args:
        spec: The sample.
        fill: Called with the verified download and an empty folder, which it fills.

    Raises:
        IntegrityError: If the file has another SHA-256 than the pinned one.
        DataError: If the file cannot be fetched.
        DiskError: If the disk cannot hold it.
        LockedError: If another process is still at it after an hour.
    """
    folder = cache_home() / KIND_FOLDERS[spec.kind] / spec.folder_name
    if _is_current(folder, spec):
        return folder
    with folder_lock(cache_home() / "locks" / spec.folder_name, wait_seconds=WAIT_SECONDS):
        if _is_current(folder, spec):
            return folder
        sweep_temporaries(make_folder(folder.parent))
        require_free_space(folder, spec.artifact_bytes)
        download = fetch(spec)
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


def _is_current(folder: Path, spec: SampleSpec) -> bool:
    manifest = read_manifest(folder)
    return (
        manifest is not None
        and manifest.format_version == spec.format_version
        and manifest.fields.get("sha256") == spec.sha256
    )
