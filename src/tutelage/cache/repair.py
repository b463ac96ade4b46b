"""Take what is damaged out of a cache, so that only that is made anew.

In: what :func:`tutelage.cache.verify_cache` found. Out: a cache without it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tutelage.cache.layout import head_folder
from tutelage.cache.teacher_head import has_head
from tutelage.cache.verify import is_intact


def delete_shards(root: Path, teacher: str, folders: Sequence[Path]) -> list[Path]:
    """Delete damaged shards (and a damaged head) of a teacher's cache.

    A reader never uses such a shard, so nothing is lost; the teach stage makes the missing rows again. Each folder is
    read once more: another process may have replaced it by a good one since it was listed.

    Returns:
        What was deleted.
    """
    deleted = []
    for folder in folders:
        intact = has_head(root, teacher) if folder == head_folder(root, teacher) else is_intact(folder)
        if folder.exists() and not intact:
            shutil.rmtree(folder)
            deleted.append(folder)
    return deleted
