"""Words for what the system refuses.

In: an ``OSError``. Out: one line that says what was refused and what to do.
"""

import errno
import os
from pathlib import Path

from tutelage.store.temporaries import TEMPORARY

# What the machine refuses, in the user's words: what is wrong, and what to do about it.
CAUSES = {
    errno.EACCES: "permission denied. Ask its owner for access, or use another folder",
    errno.EPERM: "the operation is not permitted. Ask its owner for access, or use another folder",
    errno.EROFS: "it lies on a read-only file system. Use another folder",
    errno.ENOENT: "it does not exist, or was deleted meanwhile. Check the path and run the same command again",
    errno.ENOTDIR: "a part of this path is a file, where a folder is expected. Move the file, or use another path",
    errno.EEXIST: "it exists already and is no folder. Move it, or use another path",
    errno.EISDIR: "it is a folder, where a file is expected. Name a file",
    errno.ENOTEMPTY: "it is a folder that is not empty. Move it, or use another path",
    errno.ENAMETOOLONG: "the name is too long for this file system. Use a shorter name or path",
    errno.ELOOP: "its links lead in a circle. Mend the links, or use another path",
    errno.EMFILE: "too many files are open. Raise the limit (`ulimit -n`) and run the same command again",
    errno.ENFILE: "too many files are open on this machine. Run the same command again later",
    errno.EIO: "the disk reported an input/output error. Check the disk, or use another one",
    errno.ESTALE: "the network file system lost it. Run the same command again",
}


def os_cause(error: OSError) -> str | None:
    """Say in one line what the system refused and what to do; None for an error that names no file and no known cause.

    Such an error is a mistake of the program rather than a state of the machine.
    """
    if error.filename is None and error.errno not in CAUSES:
        return None
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename or "a file")
    if match := TEMPORARY.fullmatch(Path(where).name):  # what was to be written is of interest, not how
        where = str(Path(where).with_name(match["name"]))
    return f"{where}: {CAUSES.get(error.errno or 0, error.strerror or type(error).__name__)}"
