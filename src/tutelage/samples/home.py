"""Where downloaded and converted samples are kept between runs.

In: the environment variable ``TUTELAGE_CACHE``. Out: a folder.
"""

import os
from pathlib import Path

from tutelage.errors import DataError
from tutelage.store import make_folder

CACHE_VARIABLE = "TUTELAGE_CACHE"


def cache_home() -> Path:
    """Return the cache folder, ``$TUTELAGE_CACHE`` or ``~/.cache/tutelage``; made if missing.

    Raises:
        DataError: If it can be neither found nor made.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    folder = Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "tutelage"
    try:
        return make_folder(folder)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise DataError(
            f"The cache folder {folder} cannot be made ({error.strerror}). Point {CACHE_VARIABLE} at a folder "
            "that you may write to."
        ) from error
