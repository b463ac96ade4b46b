"""Durable artifacts: commit, manifest, lock, crash points."""

from tutelage.store.commit import (
    MANIFEST,
    Manifest,
    make_folder,
    new_artifact,
    read_manifest,
    require_free_space,
    sweep_temporaries,
    to_json,
    verify_artifact,
    write_file,
    write_json,
)
from tutelage.store.crash import crash_point
from tutelage.store.digest import file_sha256, files_digest, value_digest
from tutelage.store.lock import folder_lock
from tutelage.store.names import safe_name

__all__ = [
    "MANIFEST",
    "Manifest",
    "crash_point",
    "file_sha256",
    "files_digest",
    "folder_lock",
    "make_folder",
    "new_artifact",
    "read_manifest",
    "require_free_space",
    "safe_name",
    "sweep_temporaries",
    "to_json",
    "value_digest",
    "verify_artifact",
    "write_file",
    "write_json",
]
