"""How the rows of several sources are divided among the splits: exact shares, each split by itself.

In: what was read of each source, weights, numbers of rows. Out: items by split, or by how much a source is too small.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tutelage.data.mixture import exact_shares, largest_total
from tutelage.data.prepare import (
    DEFAULT_ADAPT_SHARE,
    DEFAULT_TEST_SHARE,
    DEFAULT_VALIDATION_SHARE,
    MAX_DEFAULT_ADAPT_ROWS,
    MAX_DEFAULT_TEST_ROWS,
    MAX_DEFAULT_VALIDATION_ROWS,
)
from tutelage.data.records import SourceInfo
from tutelage.data.splits import by_digest, by_seed, cut, share_of
from tutelage.data.text_reading import TextsRead
from tutelage.data.texts import TextItem
from tutelage.errors import DataError

NOT_USED = "not_used"  # rows beyond the numbers asked for, or beyond what the shares leave room for
SPLITS = ("test", "validation", "adapt", "train")  # in the order in which they are cut


@dataclass(frozen=True)
class TextPart:
    """One source of a mixture; ``limit`` caps how many of its rows may be used at all."""

    source: str
    weight: float = 1.0
    limit: int | None = None
    subset: str | None = None
    data_dir: str | None = None
    split: str | None = None
    revision: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class TextCuts:
    """How many rows go where; see :func:`prepare_texts`. None: a share of the rows, and not more than ``most``."""

    rows: int | None = None
    limit: int | None = None
    adapt_rows: int | None = 0
    validation_rows: int | None = 0
    test_rows: int | None = None
    seed: int = 0
    repeat: bool = False
    most_validation: int = MAX_DEFAULT_VALIDATION_ROWS
    most_test: int | None = None

    def train_rows(self, room: int) -> int:
        """Return the training rows to use where there is room for so many."""
        return min(number for number in (self.rows or room, self.limit) if number is not None)


@dataclass
class Pool:
    """What was read of one source, and how it is divided."""

    part: TextPart
    split: str
    info: SourceInfo
    read: TextsRead
    splits: dict[str, list[TextItem]] = field(default_factory=dict)
    num_repeated: int = 0


def split_shares(
    available: Sequence[int], weights: Sequence[float], cuts: TextCuts, *, official: bool
) -> dict[str, list[int]]:
    """Return how many rows each source gives to each split: exact shares of every split by itself.

    Args:
        available: Rows of each source; not looked at where the recipe says how many are wanted.
        weights: One per source.
        cuts: What is asked for.
        official: Whether the test rows come from an official set, and not from these sources.
    """
    total = largest_total(available, weights) if cuts.rows is None else 0
    train = cuts.train_rows(cuts.rows) if cuts.rows is not None else total

    def default(share: float, most: int) -> int:  # of all rows; of a number of training rows, the same in proportion
        return share_of(total, share, most=most) if total else share_of(train, share / (1 - share), most=most)

    most_test = MAX_DEFAULT_TEST_ROWS if cuts.most_test is None else cuts.most_test
    validation, adapt = cuts.validation_rows, cuts.adapt_rows
    fixed = {
        "validation": default(DEFAULT_VALIDATION_SHARE, cuts.most_validation) if validation is None else validation,
        "adapt": default(DEFAULT_ADAPT_SHARE, MAX_DEFAULT_ADAPT_ROWS) if adapt is None else adapt,
    }
    test = 0 if official else default(DEFAULT_TEST_SHARE, most_test) if cuts.test_rows is None else cuts.test_rows
    if cuts.rows is None:
        train = max(0, cuts.train_rows(train - test - sum(fixed.values())))
    shares = {name: exact_shares(number, weights) for name, number in {"test": test, **fixed, "train": train}.items()}
    # Splits are rounded one by one, so together they may take a row more of a source than one rounding would.
    while cuts.rows is None and train > 0 and _is_beyond(shares, available):
        train -= 1
        shares["train"] = exact_shares(train, weights)
    return shares


def totals(shares: dict[str, list[int]]) -> list[int]:
    """Return how many rows each source gives to all splits together."""
    return [sum(own) for own in zip(*shares.values(), strict=True)]


def _is_beyond(shares: dict[str, list[int]], available: Sequence[int]) -> bool:
    return any(total > rows for total, rows in zip(totals(shares), available, strict=True))


def cut_pool(pool: Pool, numbers: dict[str, int], cuts: TextCuts) -> None:
    """Divide one source's items among the splits.

    Raises:
        DataError: If it has too few; says by how many.
    """
    rest, items = pool.read.items, pool.read.items
    for name, order in (("test", by_digest), ("validation", by_seed(cuts.seed)), ("adapt", by_seed(cuts.seed))):
        pool.splits[name], rest = cut(sorted(rest, key=order), numbers[name])
    held_out = len(items) - len(rest)
    train = sorted(rest, key=by_seed(cuts.seed))[: numbers["train"]]
    missing = numbers["train"] - len(train)
    short = sum(numbers[name] for name in SPLITS if name != "train") - held_out
    if short > 0 or (missing > 0 and (not cuts.repeat or not train)):
        raise DataError(_too_short(pool, numbers, missing=max(missing, short)))
    repeats = [_repeated(train[number % len(train)], number // len(train) + 1) for number in range(missing)]
    pool.num_repeated = len(repeats)
    pool.splits["train"] = [*train, *repeats]
    pool.read.left_out[NOT_USED] += len(rest) - len(train)


def _repeated(item: TextItem, time: int) -> TextItem:
    return replace(item, item_key=f"{item.item_key}-r{time}")


def _too_short(pool: Pool, numbers: dict[str, int], *, missing: int) -> str:
    asked = ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number)
    capped = f" (its limit is {pool.part.limit:,})" if pool.part.limit is not None else ""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in (+pool.read.left_out).items())
    there = len(pool.read.items)
    fitting = {
        "test_rows": (numbers["test"], DEFAULT_TEST_SHARE),
        "validation_rows": (numbers["validation"], DEFAULT_VALIDATION_SHARE),
        "teacher.adapt.rows": (numbers["adapt"], DEFAULT_ADAPT_SHARE),
    }
    shown = ", ".join(
        f"{key}: {min(number, share_of(there, share, most=number))}"
        for key, (number, share) in fitting.items()
        if number
    )
    held_out = sum(number for name, number in numbers.items() if name != "train")
    repeat = ", or let the training rows repeat with `repeat: true`" if held_out < there else ""
    return (
        f"{pool.part.source} runs dry: its share is {asked} rows, but it has {there:,} to use{capped}, "
        f"so {missing:,} are missing{f' ({left_out} rows were left out)' if left_out else ''}. Rows with one cluster "
        f"stay together. Values that fit: {shown or 'fewer `rows`'}; or give fewer `rows`, lower its weight{repeat}."
    )
