"""Raw records become items: parsed, without copies, as many as are wanted.

In: records of one split. Out: ``TextItem``s, and what became of every record that was read.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tutelage.data.examples import cluster_key, text_digest
from tutelage.data.messages import read_tools
from tutelage.data.parse import skipped
from tutelage.data.records import CLUSTER_COLUMN, Record
from tutelage.data.text_formats import LeftOutError, TextFormat, find_format
from tutelage.data.texts import DOCUMENT, TextItem, Turn

COPY, OVERLAP = "duplicate", "overlap_with_test"  # reasons for which a record is left out, beside those of its form
MAX_PROBLEMS = 1000  # reading on tells nothing new


@dataclass
class TextsRead:
    """The items of one split, and the records that were read for them."""

    items: list[TextItem] = field(default_factory=list)
    num_records: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    form: str | None = None  # the name of the form that the records have
    notes: list[str] = field(default_factory=list)
    not_read: set[str] = field(default_factory=set)  # columns, and keys of messages, that hold something


def read_texts(
    records: Iterable[Record],
    *,
    wanted: int | None,
    seen: set[str],
    key_prefix: str = "",
    closed: frozenset[str] = frozenset(),
    skip_bad: bool = False,
) -> TextsRead:
    """Read items until there are as many as wanted.

    All records have the form of the first one. A row that has nothing to learn is left out and counted, and so is an
    exact copy of an item that was read before.

    Args:
        records: In the order in which they are to be read.
        wanted: Items at most; None: all there are.
        seen: Digests of the contents that exist already; those of the new items are added.
        key_prefix: Precedes every item key.
        closed: Cluster keys of which no item may be taken: those of an official test set.
        skip_bad: Leave rows out that are not valid, and count them.

    Raises:
        DataError: If the columns are no known form, or rows are not valid: all are counted, the first three shown.
    """
    read, problems = TextsRead(), []
    form: TextFormat | None = None
    for record in records:
        read.num_records += 1
        if form is None and record.problem is None:
            form = find_format(record.values, where=record.where)
            read.form = form.name
        try:
            record.require_readable()
            assert form is not None, "a readable record has a form"
            item = _item(form, record, key_prefix)
        except LeftOutError as error:
            read.left_out[error.reason] += 1
            continue
        except ValueError as error:
            problems.append(f"{record.where}: {error}")
            if len(problems) == MAX_PROBLEMS and not skip_bad:
                break
            continue
        read.not_read.update(form.not_read(record.values))
        content = item.item_key.removeprefix(key_prefix)
        if item.cluster_key in closed:
            read.left_out[OVERLAP] += 1
        elif content in seen:
            read.left_out[COPY] += 1
        else:
            seen.add(content)
            read.items.append(item)
            if len(read.items) == wanted:
                break
    bad, read.notes = skipped(problems, skip_bad=skip_bad)
    read.left_out.update(bad)
    return read


def _item(form: TextFormat, record: Record, key_prefix: str) -> TextItem:
    if not form.fits(record.values):
        found = ", ".join(map(repr, record.values))
        raise ValueError(f"the columns are {found}, those of the first row were of the form {form.name!r}")
    turns = form.read(record.values)
    tools = None if turns[0].role == DOCUMENT else read_tools(record.values.get("tools"))
    cluster = record.values.get(CLUSTER_COLUMN)
    shared = cluster_key(str(cluster)) if cluster not in (None, "") else cluster_key(_joined(turns))
    return TextItem(key_prefix + content_key(turns, tools), shared, turns, tools)


def content_key(turns: tuple[Turn, ...], tools: str | None = None) -> str:
    """Return the digest of what is said and by whom, and of what else is learnt or shown."""
    parts = [part for turn in turns for part in (turn.role, turn.content)]
    beside = [f"{at}:{turn.is_learnt}:{turn.reasoning}" for at, turn in enumerate(turns) if _has_more(turn)]
    return text_digest(*parts, *beside, *([tools] if tools else []))


def _has_more(turn: Turn) -> bool:
    return not turn.is_learnt or turn.reasoning is not None


def _joined(turns: tuple[Turn, ...]) -> str:
    """Write turns as one text, so that copies that differ in case and spacing alone share a cluster."""
    return "\n".join(f"{turn.role}\x1f{turn.content}" for turn in turns)
