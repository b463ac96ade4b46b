"""Check a whole cache byte by byte, and say in one digest what it holds.

In: a root folder and a teacher's fingerprint. Out: the damaged folders; a digest per column.
"""

from pathlib import Path

from tutelage.cache.column import Column
from tutelage.cache.layout import column_folder, column_folders, head_folder, shard_folders
from tutelage.cache.shard import open_shard, scan_shards
from tutelage.cache.teacher_head import has_head
from tutelage.errors import CacheError, IntegrityError
from tutelage.store import value_digest, verify_artifact


def verify_cache(root: Path, teacher: str) -> list[Path]:
    """Compare every byte of a teacher's cache with the manifests; deleting what is listed repairs it.

    Returns:
        The damaged shard folders (and the head's), sorted; empty when all is well.
    """
    damaged = [
        path for folder in column_folders(root, teacher) for path in shard_folders(folder) if not is_intact(path)
    ]
    head = head_folder(root, teacher)
    if head.exists() and not has_head(root, teacher):
        damaged.append(head)
    return sorted(damaged)


def is_intact(folder: Path) -> bool:
    """Read a whole shard: manifest, SHA-256 of every file, identity, and the hash of every row."""
    try:
        verify_artifact(folder)
        open_shard(folder).check_rows()
    except IntegrityError:
        return False
    return True


def cache_digest(root: Path, teacher: str, column: Column) -> str:
    """Hash the names and content digests of a column's shards: equal for equal content, whatever was killed.

    Raises:
        CacheError: If a shard is damaged.
    """
    shards, damaged = scan_shards(column_folder(root, teacher, column))
    if damaged:
        raise CacheError("\n".join(damaged.values()))
    return value_digest({shard.folder.name: shard.content_digest for shard in shards}, length=64)
