"""The rated movie reviews: 10,605 sentences, each with the mean rating of 20 people.

In: the pinned sdist. Out: a tab-separated file: id, mean rating (-4 .. 4), text.

Source:
    Hutto and Gilbert 2014, VADER, ICWSM; the sentences are those of Pang and Lee 2005.
"""

from pathlib import Path

from tutelage.samples.unpack import unpack_member

RATINGS_FILE = "ratings.tsv"


def write_ratings(download: Path, members: tuple[str, ...], made: Path) -> None:
    """Write ``ratings.tsv`` as it lies in the archive."""
    unpack_member(download, members, made / RATINGS_FILE)
