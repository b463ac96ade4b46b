"""The embedded data sets: each one file, made once from a pinned package.

In: the sample's name. Out: the path of its file.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tutelage.samples.artifact import committed_sample
from tutelage.samples.facts import QUESTIONS_FILE, write_questions
from tutelage.samples.reviews import RATINGS_FILE, write_ratings
from tutelage.samples.specs import find_sample
from tutelage.store import verify_artifact

# What fills the artifact's folder out of the download, and the file that it leaves there.
Fill = Callable[[Path, tuple[str, ...], Path], None]
FILES: Mapping[str, tuple[str, Fill]] = MappingProxyType(
    {
        "movie-reviews": (RATINGS_FILE, write_ratings),
        "country-facts": (QUESTIONS_FILE, write_questions),
    }
)


def sample_data(name: str = "movie-reviews") -> Path:
    """Return the sample's file; fetched once, hashed again at every call (1 to 3 MB).

    Raises:
        DataError: If there is no such sample, or it cannot be fetched.
        IntegrityError: If the download or the file is not what was pinned.
    """
    spec = find_sample(name, kind="data")
    filename, fill = FILES[name]
    folder = committed_sample(spec, lambda download, made: fill(download, spec.members, made))
    verify_artifact(folder)
    return folder / filename
