"""From one source of texts or a weighted mixture to a task whose splits are cut, checked and counted.

In: a task and the recipe's ``data`` settings. Out: a ``PreparedTask``.

Every split is mixed by itself, so that each of them has the exact shares, test and validation rows included. The order
in which rows are used depends on the seed and their content alone, test rows (unless streamed) not even on the seed.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.data.counts import left_out_problems
from tutelage.data.mixture import shuffled_stream
from tutelage.data.prepared import PreparedTask
from tutelage.data.problems import DataProblemsError
from tutelage.data.records import DEFAULT_RULES, RowRules
from tutelage.data.sources import OFFICIAL_TEST_NAMES, SAMPLE_PREFIX, TRAIN_NAMES, Source, open_source
from tutelage.data.splits import by_digest, by_seed, cut
from tutelage.data.text_pools import NOT_USED, SPLITS, Pool, TextCuts, TextPart, cut_pool, split_shares, totals
from tutelage.data.text_reading import TextsRead, read_texts
from tutelage.data.texts import TextItem, TextTask
from tutelage.errors import DataError

TEST_PREFIX = "test:"  # of the keys of an official test set
DEFAULT_BUFFER = 10_000


def prepare_texts(
    task: TextTask,
    parts: Sequence[TextPart],
    cuts: TextCuts,
    *,
    validation: str | None = None,
    streaming: bool = False,
    shuffle_buffer: int = DEFAULT_BUFFER,
    base_folder: Path = Path(),
    rules: RowRules = DEFAULT_RULES,
) -> PreparedTask:
    """Read sources and cut them into train, adapt, validation and test.

    Args:
        task: How conversations are written.
        parts: The sources; one stands alone, several are mixed by weight.
        cuts: ``rows`` are the training rows, exactly so many; without it, as many as the smallest source allows under
            exact shares. ``limit`` caps either. ``test_rows`` of None keeps the whole official set, or takes 20 %
            (2,000 at the most). ``repeat`` lets a source that runs dry begin again, in the training rows only.
        validation: The official evaluation set: a split's name, or another source. It becomes ``test``. Default: the
            single source's split called validation, dev, valid, val or test, if any.
        streaming: Read only as many rows as are needed, through a shuffle buffer; needs ``rows``.
        shuffle_buffer: Rows that it holds.
        base_folder: What relative paths are relative to.
        rules: How files are read, and what becomes of rows that are not valid.

    Raises:
        DataError: If a source is not valid, has nothing to learn from, runs dry (says by how many rows), or loses more
            rows than the rules allow.
    """
    opened = [_open(part, streaming, base_folder, rules) for part in parts]
    test = _official_test(parts, opened, validation, base_folder, rules)
    seen = {item.item_key.removeprefix(TEST_PREFIX) for item in test.read.items} if test else set()
    closed = frozenset(item.cluster_key for item in test.read.items) if test else frozenset()
    weights = [part.weight for part in parts]
    needed = _stream_rows(weights, cuts, official=test is not None) if streaming else [None] * len(parts)
    pools = []
    for number, (part, source) in enumerate(zip(parts, opened, strict=True)):
        name = _train_split(part, source)
        records, wanted = source.splits[name](), None
        if streaming:
            records = shuffled_stream(records, buffer=shuffle_buffer, seed=f"{cuts.seed}:{number}")
            wanted = max(1, min(rows for rows in (needed[number], part.limit) if rows is not None))
        prefix = f"{number}:" if len(parts) > 1 else ""
        read = read_texts(records, wanted=wanted, seen=seen, key_prefix=prefix, closed=closed, skip_bad=rules.skip_bad)
        pools.append(Pool(part, name, source.info, _capped(read, part, name, seed=cuts.seed)))
    _require_enough([*pools, *([test] if test else [])], rules)
    shares = split_shares([len(pool.read.items) for pool in pools], weights, cuts, official=test is not None)
    for number, pool in enumerate(pools):
        cut_pool(pool, {name: own[number] for name, own in shares.items()}, cuts)
    splits = {name: [item for pool in pools for item in pool.splits[name]] for name in SPLITS}
    splits["train"].sort(key=by_seed(cuts.seed))
    if test is not None:
        splits["test"] = _capped_test(test, cuts.most_test if cuts.test_rows is None else cuts.test_rows)
    numbers = {name: sum(own) for name, own in shares.items()}
    _check_splits(task.name, splits, numbers)
    return PreparedTask(task, splits, _describe(pools, test, splits, cuts, streaming=streaming))


def _open(part: TextPart, streaming: bool, base_folder: Path, rules: RowRules) -> Source:
    return open_source(
        part.source,
        subset=part.subset,
        data_dir=part.data_dir,
        revision=part.revision,
        streaming=streaming,
        base_folder=base_folder,
        rules=rules,
    )


def _train_split(part: TextPart, source: Source) -> str:
    names = list(source.splits)
    name = part.split or (TRAIN_NAMES[0] if TRAIN_NAMES[0] in names or len(names) > 1 else names[0])
    if name not in names:
        raise DataError(f"{part.source} has no split {name!r}. It has: {', '.join(names)}. Name one with `split`.")
    return name


def _official_test(
    parts: Sequence[TextPart],
    opened: Sequence[Source],
    validation: str | None,
    base_folder: Path,
    rules: RowRules,
) -> Pool | None:
    """Read the official evaluation set, if there is one; of several sources only one that is named."""
    part, source = parts[0], opened[0]
    own = source.splits if len(parts) == 1 else {}
    train = _train_split(part, source)
    name = validation
    if name is None:
        name = next((each for each in OFFICIAL_TEST_NAMES if each in own and each != train), None)
        if name is None:
            return None
    elif name not in own:
        part, source = TextPart(name), open_source(name, base_folder=base_folder, rules=rules)
        if len(source.splits) > 1:
            raise DataError(f"`validation: {validation}` holds {', '.join(source.splits)}. Name one file.")
        name = next(iter(source.splits))
    elif name == train:
        raise DataError(f"`validation: {name}` is the split that is trained on. Name another one.")
    read = read_texts(source.splits[name](), wanted=None, seen=set(), key_prefix=TEST_PREFIX, skip_bad=rules.skip_bad)
    return Pool(part, name, source.info, _capped(read, TextPart(part.source), name, seed=0))


def _capped(read: TextsRead, part: TextPart, split: str, *, seed: int) -> TextsRead:
    """Keep as many items as the source may give at all.

    Raises:
        DataError: If there are none.
    """
    if not read.items:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in read.left_out.items()) or "no rows at all"
        raise DataError(
            f"{part.source}: the split {split!r} holds nothing to learn from ({reasons}). Expected at least one text "
            "or one answer with words; check the source."
        )
    if part.limit is not None and len(read.items) > part.limit:
        read.items.sort(key=by_seed(seed))
        read.left_out[NOT_USED] += len(read.items) - part.limit
        del read.items[part.limit :]
    return read


def _capped_test(test: Pool, test_rows: int | None) -> list[TextItem]:
    items = sorted(test.read.items, key=by_digest)
    kept, beyond = cut(items, len(items) if test_rows is None else test_rows)
    test.splits["test"] = kept
    test.read.left_out[NOT_USED] += len(beyond)
    return kept


def _stream_rows(weights: Sequence[float], cuts: TextCuts, *, official: bool) -> list[int]:
    """Return how many rows each stream has to give."""
    assert cuts.rows is not None, "a stream is told where to end"
    return totals(split_shares([0] * len(weights), weights, cuts, official=official))


def _require_enough(pools: Sequence[Pool], rules: RowRules) -> None:
    """Refuse to go on with too few of the rows that were read, whatever the reasons."""
    dropped = sum((pool.read.left_out for pool in pools), Counter())
    num_rows = sum(pool.read.num_records for pool in pools)
    problems = list(left_out_problems(dropped, num_rows, allowed=rules.max_left_out))
    if problems:
        raise DataProblemsError(problems)


def _check_splits(name: str, splits: dict[str, list[TextItem]], numbers: dict[str, int]) -> None:
    for split, number in {**numbers, "train": 1, "test": 1}.items():
        if number and not splits[split]:
            raise DataError(
                f"tasks.{name}.data: no rows are left for {split}. Rows with one cluster stay together; give more "
                "data, or ask for fewer test and validation rows."
            )


def _describe(
    pools: Sequence[Pool], test: Pool | None, splits: dict[str, list[TextItem]], cuts: TextCuts, *, streaming: bool
) -> dict[str, Any]:
    """Return what a run records about its data, once every record that was read is accounted for."""
    every = [*pools, *([test] if test is not None else [])]
    read, repeated = sum(pool.read.num_records for pool in every), sum(pool.num_repeated for pool in every)
    dropped = sum((pool.read.left_out for pool in every), Counter())
    kept = sum(map(len, splits.values()))
    assert read + repeated == kept + dropped.total(), f"{read} rows read, {repeated} repeated, {kept} kept, {dropped}"
    keys = [item.item_key for items in splits.values() for item in items]
    assert len(set(keys)) == len(keys), "an item is in two places"
    licences = dict.fromkeys(pool.part.licence or pool.info.licence for pool in pools)
    notes = [note for pool in every for note in (*pool.info.notes, *pool.read.notes)]
    if streaming:
        notes.append("streamed: only the rows that were needed were read")
    if repeated:
        notes.append(f"{repeated:,} training rows are repeats")
    not_read = sorted(set().union(*(pool.read.not_read for pool in every)))
    revisions = dict.fromkeys(pool.info.revision for pool in pools)
    return {
        "source": " + ".join(pool.part.source for pool in pools),
        "sample": all(pool.part.source.startswith(SAMPLE_PREFIX) for pool in pools),
        "revision": ", ".join(str(each) for each in revisions) if any(revisions) else None,
        "licence": ", ".join(str(each or "unknown") for each in licences) if any(licences) else None,
        "files": {f"{pool.part.source}:{name}": digest for pool in every for name, digest in pool.info.files.items()},
        "notes": list(dict.fromkeys(notes)),
        "columns_not_read": not_read,
        "seed": cuts.seed,
        "rows_read": {f"{pool.part.source}:{pool.split}": pool.read.num_records for pool in every},
        "dropped": dict(sorted((+dropped).items())),
        "rows": {name: len(items) for name, items in splits.items()},
        "sources": [_source_facts(pool) for pool in every],
        "train_split": ", ".join(pool.split for pool in pools),
        "test_split": test.split if test is not None else "cut by digest",
    }


def _source_facts(pool: Pool) -> dict[str, Any]:
    """Return what the manifest says of one source."""
    return {
        "source": pool.part.source,
        "split": pool.split,
        "subset": pool.part.subset,
        "data_dir": pool.part.data_dir,
        "revision": pool.info.revision,
        "licence": pool.part.licence or pool.info.licence,
        "files": pool.info.files,
        "form": pool.read.form,
        "weight": pool.part.weight,
        "limit": pool.part.limit,
        "rows_read": pool.read.num_records,
        "dropped": dict(sorted((+pool.read.left_out).items())),
        "rows": {name: len(items) for name, items in pool.splits.items()},
        "repeated": pool.num_repeated,
    }
