"""Recipes to start from.

In: a name, and a data file where there is one. Out: ``NAME.yaml``.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import ConfigError, DataError
from tutelage.store import safe_name, write_file

if TYPE_CHECKING:
    from tutelage.data.guess import Guess

TEMPLATES = Path(__file__).parent / "templates"
DEMO = TEMPLATES / "demo.yaml"
SAMPLE = TEMPLATES / "sample.yaml"
OWN = TEMPLATES / "own.yaml"
RECIPE_ENDINGS = (".yaml", ".yml")

ADAPT_SHARE, VALIDATION_SHARE, TEST_SHARE = 0.35, 0.1, 0.2
MOST_ROWS = {"adapt": 2000, "validation": 200, "test": 500, "train": 2000}  # some minutes on a laptop
BATCH_ROWS = 16
ROWS_TO_READ = 1500  # by a student, repeats included: what the pruned sample needs to be well above chance
MOST_EPOCHS = 10
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COMMENT_COLUMN = 45

METHODS = {
    "B0": ("{kind: baseline}", "the gold labels alone"),
    "PSEUDO": ("{kind: pseudo}", "the teacher's answers as labels"),
    "KD1": ("{kind: logit, temperature: 1, alpha: 0.3}", "alpha * gold + (1 - alpha) * teacher"),
}


def write_recipe(
    name: str, *, folder: Path, data: str | None, text: str | None = None, label: str | None = None
) -> tuple[Path, list[str]]:
    """Write ``NAME.yaml``: for the embedded sample, or for a file of the user's, which is read for it.

    A file that is there is never replaced.

    Args:
        name: Name of the experiment; must be usable as a file name. ``NAME.yaml`` is the same name.
        folder: Where the recipe goes.
        data: The user's own file or folder, as seen from the current folder; None writes a recipe for the sample.
        text: The column with the text, where it is known.
        label: The column with the label, where it is known.

    Returns:
        The recipe's path, and what was found in the file.

    Raises:
        ConfigError: If the name cannot be a file name, or the file exists.
        DataError: If the data cannot be read, or leave open what is text and what is label.
    """
    name = next((name.removesuffix(each) for each in RECIPE_ENDINGS if name.endswith(each)), name)
    path = folder / f"{safe_name(name)}.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists and was left alone. Choose another name, or delete it first.")
    if data is None:
        content, found = SAMPLE.read_text(encoding="utf-8"), []
    else:
        content, found = _own_recipe(data, folder, text=text, label=label)
    # JSON text is YAML text; a file name may hold quotes, colons or braces.
    content = content.replace("__NAME__", json.dumps(name))
    write_file(path, content, point="recipe")
    return path, found


def _own_recipe(data: str, folder: Path, *, text: str | None, label: str | None) -> tuple[str, list[str]]:
    """Return a recipe for the user's own rows, and what was found in them."""
    from tutelage.data.guess import guess_task

    source = _existing(data, folder)
    guess = guess_task(source, text=text, label=label)
    rows = Sizes.of(guess)
    found = [_found_line(data, guess), *guess.notes]
    parts = {
        "__FOUND__": _plain(found[0]),
        "__ADAPT__": f"{{task: mine, rows: {rows.adapt}, per_device_train_batch_size: {min(BATCH_ROWS, rows.adapt)}}}",
        "__TASK__": "".join(f"    {line}\n" for line in _task_lines(_shown_source(data, source, folder), guess, rows)),
        "__METHODS__": "".join(
            f"  {f'{method}:':8}{settings:45}# {comment}\n"
            for method, (settings, comment) in METHODS.items()
            if method != "PSEUDO" or guess.kind != "text"
        ),
        "__TRAIN__": f"{{learning_rate: 3e-4, num_train_epochs: {rows.epochs}, "
        f"per_device_train_batch_size: {min(BATCH_ROWS, rows.train)}}}",
    }
    content = OWN.read_text(encoding="utf-8")
    for mark, part in parts.items():
        content = content.replace(mark, part)
    return content, found


def _existing(data: str, folder: Path) -> Path | str:
    """Return the file as seen from the current folder, else from the recipe's."""
    given = Path(data).expanduser()
    for path in (given, folder / given):
        if path.exists():
            return path
    if data.startswith("sample:") or ("/" in data and not given.suffix and not data.startswith((".", "/", "~"))):
        return data  # a sample, or a hub id
    raise DataError(f"{data} does not exist. Expected a file, a folder, sample:NAME or a hub id (OWNER/NAME).")


def _shown_source(data: str, source: Path | str, folder: Path) -> str:
    """Return the source as the recipe names it: from its own folder."""
    if isinstance(source, str) or Path(data).is_absolute():
        return data
    return Path(os.path.relpath(source, folder)).as_posix()


class Sizes:
    """Numbers of rows and epochs that fit a set."""

    def __init__(self, num_rows: int, *, official: bool, groups: int = 1) -> None:
        def share(part: float, name: str) -> int:
            return max(1, min(MOST_ROWS[name], int(part * num_rows)))

        self.validation, self.adapt = share(VALIDATION_SHARE, "validation"), share(ADAPT_SHARE, "adapt")
        self.test = MOST_ROWS["test"] if official else max(min(groups, num_rows // 4), share(TEST_SHARE, "test"))
        rest = num_rows - self.validation - self.adapt - (0 if official else self.test)
        self.train = max(1, min(MOST_ROWS["train"], rest))
        self.epochs = max(1, min(MOST_EPOCHS, math.ceil(ROWS_TO_READ / self.train)))

    @classmethod
    def of(cls, guess: "Guess") -> "Sizes":
        """Return the numbers for a file.

        Raises:
            DataError: If it has too few rows for any split.
        """
        least = 4 * max(1, len(guess.classes))
        if guess.num_train < least:
            raise DataError(
                f"{guess.num_train} rows are too few for training, validation, adaptation and test; at least {least} "
                "are needed, and some hundreds to learn anything."
            )
        return cls(guess.num_train, official=guess.has_official_test, groups=len(guess.classes))


def _found_line(data: str, guess: "Guess") -> str:
    rows = ", ".join(
        f"{count:,} rows {split}" if len(guess.splits) > 1 else f"{count:,} rows"
        for split, count in guess.splits.items()
    )
    kind = f"a text task ({guess.form})" if guess.kind == "text" else f"a {guess.kind} task"
    classes = f", {len(guess.classes)} classes" if guess.classes else ""
    return f"{Path(data).name}: {rows}, columns {', '.join(guess.found)}: {kind}{classes}"


def _task_lines(source: str, guess: "Guess", rows: Sizes) -> Iterator[str]:
    """Yield the lines of the task's section."""
    yield f"kind: {guess.kind}"
    yield "data:"
    data: list[tuple[str, Any, str]] = [("source", source, "from this file's folder")]
    if guess.columns is not None:
        data.append(("columns", list(guess.columns), "the file has no header"))
    if guess.kind == "classification":
        data.append(("text", guess.text, "the column with the text"))
        data.append(("label", guess.label, "the column with the label"))
    data.append(("validation_rows", rows.validation, f"of {guess.num_train:,} rows, for selection"))
    test = "at most, of the file's own" if guess.has_official_test else "cut from the same rows, never trained on"
    data.append(("test_rows", rows.test, test))
    for key, value, comment in data:
        yield _commented(f"  {key}: {json.dumps(value, ensure_ascii=False)}", comment)
    if guess.kind == "classification":
        second = f"{{{guess.second}}}"
        template = f"First: {{text}}\nSecond: {second}\nAnswer:" if guess.second else "Text: {text}\nAnswer:"
        yield _commented(f"template: {json.dumps(template, ensure_ascii=False)}", "the prompt; say what is asked")
        yield _commented("verbalisers:", "class: what the model answers, with the space before it")
        names = [each.name for each in guess.classes]
        for each, words in zip(guess.classes, _verbalisers(names), strict=True):
            value = f" ({each.value})" if each.value != each.name else ""
            line = f"  {json.dumps(each.name, ensure_ascii=False)}: {json.dumps(words, ensure_ascii=False)}"
            yield _commented(line, f"{each.num_rows:,} rows{value}")


def _verbalisers(names: Sequence[str]) -> list[str]:
    """Return what the model answers for each class: its name, or a word for it where names are numbers or alike."""
    if list(names) == ["0", "1"]:
        return [" no", " yes"]
    if all(name in map(str, range(len(NUMBER_WORDS))) for name in names):
        return [f" {NUMBER_WORDS[int(name)]}" for name in names]
    words = [" ".join(name.replace("_", " ").replace("-", " ").split()).lower() for name in names]
    begins = any(
        first != second and words[second].startswith(words[first])
        for first in range(len(words))
        for second in range(len(words))
    )
    if not begins and all(any(letter.isalpha() for letter in word) for word in words):
        return [f" {word}" for word in words]
    if len(names) <= 26:
        return [f" {chr(ord('A') + number)}" for number in range(len(names))]
    return [f" {NUMBER_WORDS[number // 10]} {NUMBER_WORDS[number % 10]}" for number in range(len(names))]


def _commented(line: str, comment: str) -> str:
    return f"{line:{COMMENT_COLUMN - 4}} # {_plain(comment)}"


def _plain(text: str) -> str:
    """Write text so that it stays in its comment."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
