"""Durable artifacts: commit, manifest, lock, crash points."""

from tutelage.store.commit import new_artifact, write_file, write_json
from tutelage.store.crash import crash_point
from tutelage.store.digest import file_sha256, files_digest, known_sha256, value_digest
from tutelage.store.disk import disk_errors, folder_bytes, is_writable, make_folder, require_free_space, sync_folder
from tutelage.store.inputs import DAMAGED_FOLDER, check_inputs, read_input, set_aside
from tutelage.store.lock import folder_lock
from tutelage.store.manifest import MANIFEST, Manifest, damage_of, read_manifest, to_json, verify_artifact
from tutelage.store.names import safe_name
from tutelage.store.secrets import without_tokens
from tutelage.store.temporaries import sweep_temporaries, temporary_name

__all__ = [
    "DAMAGED_FOLDER",
    "MANIFEST",
    "Manifest",
    "check_inputs",
    "crash_point",
    "damage_of",
    "disk_errors",
    "file_sha256",
    "files_digest",
    "folder_bytes",
    "folder_lock",
    "is_writable",
    "known_sha256",
    "make_folder",
    "new_artifact",
    "read_input",
    "read_manifest",
    "require_free_space",
    "safe_name",
    "set_aside",
    "sweep_temporaries",
    "sync_folder",
    "temporary_name",
    "to_json",
    "value_digest",
    "verify_artifact",
    "without_tokens",
    "write_file",
    "write_json",
]
