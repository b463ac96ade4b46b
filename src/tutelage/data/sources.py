"""Every way in which rows may be given, behind one function.

In: the recipe's ``source``. Out: ``Loaded``: raw records by split, with hashes and licence.
"""

from pathlib import Path

from tutelage.data.files import READERS, read_rows
from tutelage.data.records import CLUSTER_COLUMN, Loaded, Record, SourceInfo
from tutelage.data.saved import HUB_ID, is_saved_folder, load_hub, load_saved
from tutelage.errors import DataError
from tutelage.samples import find_sample, sample_data
from tutelage.store import file_sha256

SAMPLE_PREFIX = "sample:"
FACTS_SAMPLE = "country-facts"
SQUAD_ENDING = "-v1.1.json"  # of the official files
TRAIN_NAMES = ("train",)
OFFICIAL_TEST_NAMES = ("validation", "dev", "valid", "val", "test")  # the first one present is the test set
MIN_ABSOLUTE_RATING = 0.5  # on -4 .. 4; closer to neutral than that, 20 raters do not agree on a sign


def load_records(
    source: str,
    *,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    base_folder: Path = Path(),
) -> Loaded:
    """Read every split of a source, or only ``split``.

    Args:
        source: ``sample:NAME``; a ``.tsv`` (GLUE), ``.jsonl``, ``.parquet`` or ``.json`` (SQuAD) file; a folder with
            ``train.*`` and ``dev.*`` or ``validation.*`` files (SQuAD's ``train-v1.1.json`` too), or saved by
            ``datasets``; a hub id.
        split: Keep this split only.
        subset: The hub's configuration name, such as ``sst2`` of ``glue``.
        revision: The hub commit or tag; nothing else has revisions.
        base_folder: What relative paths are relative to: the recipe's folder.

    Raises:
        DataError: If the source is missing, empty or unreadable, or has no such split.
    """
    loaded = _load_all(source, subset, revision, base_folder)
    if split is None:
        return loaded
    if split not in loaded.splits:
        raise DataError(f"{source} has no split {split!r}. It has: {', '.join(loaded.splits)}.")
    return Loaded(
        {split: loaded.splits[split]},
        loaded.info,
        {split: loaded.rows_read[split]},
        {split: loaded.dropped.get(split, {})},
        loaded.class_names,
        loaded.key_prefix,
    )


def _load_all(source: str, subset: str | None, revision: str | None, base_folder: Path) -> Loaded:
    if source.startswith(SAMPLE_PREFIX):
        return _load_sample(source)
    path = base_folder / Path(source).expanduser()
    if path.suffix.lower() in READERS:
        return _load_file(path, source)
    if path.is_dir():
        return load_saved(path, source) if is_saved_folder(path) else _load_folder(path, source)
    if path.is_file():
        read_rows(path)  # raises: the ending says nothing we can read
    if not HUB_ID.fullmatch(source):
        raise DataError(
            f"{path} does not exist. Expected sample:NAME, a .tsv, .jsonl, .parquet or .json file, a folder, a hub id."
        )
    return load_hub(source, subset=subset, revision=revision)


def _load_file(path: Path, source: str) -> Loaded:
    rows = read_rows(path)
    info = SourceInfo(source, None, None, {path.name: file_sha256(path)})
    return Loaded({"train": rows}, info, {"train": len(rows)})


def _load_folder(folder: Path, source: str) -> Loaded:
    """Read ``train.*`` and the official evaluation files; GLUE's unlabelled ``test.tsv`` is left out."""
    files, notes = {}, []
    for name in (*TRAIN_NAMES, *OFFICIAL_TEST_NAMES):
        names = (*(f"{name}{suffix}" for suffix in READERS), f"{name}{SQUAD_ENDING}")
        candidates = [path for each in names if (path := folder / each).is_file()]
        if len(candidates) > 1:
            shown = " and ".join(path.name for path in candidates)
            raise DataError(f"{folder} holds {shown}. Expected one file per split; remove or rename the others.")
        if candidates and candidates[0].name == "test.tsv" and _is_unlabelled(candidates[0]):
            notes.append("test.tsv was ignored: GLUE's test files have no labels")
        elif candidates:
            files[name] = candidates[0]
    if not set(files) & set(TRAIN_NAMES):
        endings = ", ".join(f"train{suffix}" for suffix in READERS)
        raise DataError(f"{folder} holds none of {endings}, and was not saved by `datasets`. Add one, or name a file.")
    splits = {name: read_rows(path) for name, path in files.items()}
    hashes = {path.name: file_sha256(path) for path in files.values()}
    info = SourceInfo(source, None, None, hashes, tuple(notes))
    return Loaded(splits, info, {name: len(rows) for name, rows in splits.items()})


def _is_unlabelled(path: Path) -> bool:
    with path.open("rb") as stream:
        header = stream.readline(4096).decode("utf-8-sig", errors="replace").strip().split("\t")
    return "label" not in header


def _load_sample(source: str) -> Loaded:
    name = source.removeprefix(SAMPLE_PREFIX)
    spec = find_sample(name, kind="data")
    path = sample_data(name)
    kept, num_rows, dropped = (_read_questions if name == FACTS_SAMPLE else _read_ratings)(path, name)
    info = SourceInfo(source, f"{spec.package}=={spec.version}", spec.licence, {spec.filename: spec.sha256})
    return Loaded({"train": kept}, info, {"train": num_rows}, {"train": dropped}, key_prefix=f"{name}:")


def _read_ratings(path: Path, name: str) -> tuple[list[Record], int, dict[str, int]]:
    """Read rated sentences, leaving out those that are close to neutral."""
    rows, kept = 0, []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        rows += 1
        identifier, rating, text = line.removesuffix("\r").split("\t")
        if abs(float(rating)) < MIN_ABSOLUTE_RATING:
            continue
        label = "positive" if float(rating) > 0 else "negative"
        values = {"id": identifier, "text": text.strip(), "label": label, "rating": float(rating)}
        kept.append(Record(values, f"{name}:{number}"))
    return kept, rows, {"weak_rating": rows - len(kept)}


def _read_questions(path: Path, name: str) -> tuple[list[Record], int, dict[str, int]]:
    """Read questions about countries; those about one country belong together, whatever paragraph they are from."""
    kept = [
        Record({**record.values, CLUSTER_COLUMN: record.values["title"]}, f"{name}:{record.values['id']}")
        for record in read_rows(path)
    ]
    return kept, len(kept), {}
