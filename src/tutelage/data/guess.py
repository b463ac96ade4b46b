"""What a user's own file is about: the kind of task, its columns, its classes with their rows.

In: a path. Out: a ``Guess`` from which a recipe can be written; an error that lists what was found where that is open.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.data.labels import label_key, natural_order
from tutelage.data.lines import bare_ending
from tutelage.data.parse import ID_COLUMNS
from tutelage.data.questions import ANSWERS_COLUMN
from tutelage.data.reading import CONTEXT_FIELD, QUESTION_FIELD
from tutelage.data.records import CLUSTER_COLUMN, Loaded, Record, RowRules
from tutelage.data.sources import OFFICIAL_TEST_NAMES, load_records
from tutelage.data.text_formats import FORMATS
from tutelage.errors import DataError

LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "quality", "rating")
TEXT_NAMES = ("text", "sentence", "content", "review", "message", "comment", "body", "description", "title")
PAIRS = (  # columns of tasks about two texts
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
    ("#1 String", "#2 String"), ("text1", "text2"), ("text_a", "text_b"),
)  # fmt: skip
MAX_CLASSES = 100
MIN_ROWS_PER_CLASS = 2  # on average; a column with fewer is no label
MAX_LABEL_LENGTH = 60
MUCH_LONGER = 2  # times as long as the next column of texts: it is the text


@dataclass(frozen=True)
class ClassGuess:
    """One value of the label column: its name where the data set declares one, and its rows."""

    value: str
    name: str
    num_rows: int


@dataclass(frozen=True)
class Guess:
    """What a file seems to be. ``columns`` are names for a table without a header."""

    kind: str  # classification | reading | text
    splits: dict[str, int]  # rows
    found: tuple[str, ...]  # its columns
    text: str = ""
    second: str = ""  # another text that belongs to the first
    label: str = ""
    classes: tuple[ClassGuess, ...] = ()
    form: str = ""  # of a text task
    columns: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_train(self) -> int:
        """Rows of the training split."""
        return self.splits["train"] if "train" in self.splits else next(iter(self.splits.values()))

    @property
    def has_official_test(self) -> bool:
        """Whether a split of its own becomes the test set."""
        return any(name in self.splits for name in OFFICIAL_TEST_NAMES) and "train" in self.splits


def guess_task(path: Path | str, *, text: str | None = None, label: str | None = None) -> Guess:
    """Read a file or folder and say what it is.

    Args:
        path: Any source that :func:`tutelage.data.load_records` reads.
        text: The column with the text, where it is known.
        label: The column with the label, where it is known.

    Raises:
        DataError: If it cannot be read, or its columns leave open what is text and what is label.
    """
    loaded = load_records(str(path), rules=RowRules(skip_bad=True))
    columns = _headless_columns(path, loaded) if text is None and label is None else None
    if columns is not None:
        loaded = load_records(str(path), rules=RowRules(skip_bad=True, columns=columns))
    splits = {name: len(records) for name, records in loaded.splits.items()}
    rows = [each for records in loaded.splits.values() for each in records if each.problem is None]
    if not rows:
        problem = next(each for records in loaded.splits.values() for each in records)
        raise DataError(f"{problem.where} {problem.problem}. No row of {path} can be read.")
    found = tuple(dict.fromkeys(column for record in rows for column in record.values))
    for name in (text, label):
        if name is not None and name not in found:
            raise DataError(f"{path} has no column {name!r}, only {_shown(found)}.")
    seen = Guess("text", splits, found, columns=columns, notes=loaded.info.notes)
    form = next((form.name for form in FORMATS if form.name != "text" and form.fits(found)), None)
    if form is not None and label is None:
        return replace(seen, form=form)
    if {CONTEXT_FIELD, QUESTION_FIELD, ANSWERS_COLUMN} <= {*found} and label is None:
        return replace(seen, kind="reading")
    return _labelled(seen, path, rows, loaded, text=text, label=label)


def _labelled(
    seen: Guess, path: Path | str, rows: Sequence[Record], loaded: Loaded, *, text: str | None, label: str | None
) -> Guess:
    """Return a classification, or a text task where nothing can be a label."""
    columns = [each for each in seen.found if each not in (*ID_COLUMNS, CLUSTER_COLUMN)]
    labels = [label] if label else _label_columns(rows, [each for each in columns if each != text])
    others = [each for each in columns if each not in labels]
    texts = [each for each in others if _is_text(rows, each)]
    if not labels and (text or (texts and len(texts) == 1)):
        own = text or texts[0]
        if own == "text":
            return replace(seen, form="text")
        raise DataError(
            f"{path} has texts in the column {own!r} and no column of labels ({_shown(seen.found)}). Name the labels "
            "with --label, or rename the column to `text` for a task of plain texts."
        )
    pair = next((each for each in PAIRS if {*each} <= {*others}), None) if text is None else None
    chosen = text or (pair[0] if pair else _only_text(rows, texts))
    if len(labels) != 1 or chosen is None:
        what = f"labels may be {_shown(labels) or 'none of them'}, texts may be {_shown(texts) or 'none of them'}"
        raise DataError(
            f"{path} has the columns {_shown(seen.found)}, which leave open what is text and what is label ({what}). "
            "Name them: --text COLUMN --label COLUMN."
        )
    classes = _classes(path, rows, labels[0], loaded.class_names.get(labels[0], []))
    second = pair[1] if pair and text is None else ""
    return replace(seen, kind="classification", text=chosen, second=second, label=labels[0], classes=classes)


def _label_columns(rows: Sequence[Record], columns: Sequence[str]) -> list[str]:
    """Return the columns that may hold labels: the one with a usual name, else all with few short values."""
    usual = [column for name in LABEL_NAMES for column in columns if column.lower() == name]
    named = [column for column in usual if _is_label(rows, column, rows_per_class=1)]
    return named[:1] or [column for column in columns if _is_label(rows, column)]


def _is_label(rows: Sequence[Record], column: str, *, rows_per_class: int = MIN_ROWS_PER_CLASS) -> bool:
    found: set[str] = set()
    for record in rows:
        value = record.values.get(column)
        if value is None or value == "":
            continue
        key = label_key(value)
        if not isinstance(value, str | int | float) or len(key) > MAX_LABEL_LENGTH:
            return False
        found.add(key)
        if len(found) > MAX_CLASSES:
            return False
    return len(found) > 1 and len(found) * rows_per_class <= len(rows)


def _is_text(rows: Sequence[Record], column: str) -> bool:
    values = [record.values.get(column) for record in rows]
    words = [value for value in values if isinstance(value, str) and value.strip()]
    has_words = sum(any(letter.isalpha() for letter in value) for value in words)
    return 2 * has_words > len(values) and 2 * len({*words}) > len(words)


def _only_text(rows: Sequence[Record], texts: Sequence[str]) -> str | None:
    """Return the column with a usual name, the only one, or one that is much longer than the others."""
    named = [column for name in TEXT_NAMES for column in texts if column.lower() == name]
    if named:
        return named[0]
    lengths = {column: sum(len(str(record.values.get(column) or "")) for record in rows) for column in texts}
    ordered = sorted(texts, key=lambda column: -lengths[column])
    if len(ordered) > 1 and lengths[ordered[0]] < MUCH_LONGER * lengths[ordered[1]]:
        return None
    return ordered[0] if ordered else None


def _classes(path: Path | str, rows: Sequence[Record], column: str, names: Sequence[str]) -> tuple[ClassGuess, ...]:
    values = [record.values.get(column) for record in rows]
    counts = Counter(label_key(value) for value in values if value is not None and value != "")
    if not 2 <= len(counts) <= MAX_CLASSES:
        raise DataError(
            f"{path}: column {column!r} has {len(counts):,} different values. A classification has 2 to {MAX_CLASSES}; "
            "name another column with --label."
        )
    declared = {str(index): name for index, name in enumerate(names)}
    return tuple(ClassGuess(key, declared.get(key, key), counts[key]) for key in sorted(counts, key=natural_order))


def _headless_columns(path: Path | str, loaded: Loaded) -> tuple[str, ...] | None:
    """Return names for the columns of a table whose first line is a row: one of its cells is a label of others."""
    if isinstance(path, str) or not path.is_file() or bare_ending(path) not in (".csv", ".tsv"):
        return None
    rows = [each for records in loaded.splits.values() for each in records if each.problem is None]
    header = tuple(rows[0].values) if rows else ()
    labels = [column for column in header if _is_label(rows, column)]
    headless = [column for column in labels if any(each.values[column] == column for each in rows)]
    if not headless:
        return None
    names: Iterator[str] = iter(["text", *(f"column_{number}" for number in range(2, len(header) + 1))])
    return tuple("label" if column == headless[0] else next(names) for column in header)


def _shown(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns))
