"""``tutelage predict``: a finished student answers the rows of a file.

In: a run's name and a file. Out: JSONL or CSV, a file or standard output; progress on standard error.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tutelage.cli.terminal import say
from tutelage.errors import ConfigError

FORMATS = ("jsonl", "csv")


def predict_file(
    workspace: Path, run: str, data: str, *, out: Path | None, form: str | None, split: str | None, max_new_tokens: int
) -> None:
    """Write one line per row of ``data``, in its order.

    Raises:
        ConfigError: If the format is unknown or the file exists.
        DataError: If there is no such run, or rows are not valid.
        IntegrityError: If the run is damaged.
    """
    writer = WRITERS[chosen_format(out, form)]
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists and was left alone. Name another file, or delete it first.")
    from tutelage.experiment.predict import predict, read_new_rows
    from tutelage.experiment.students import find_student, open_student
    from tutelage.store import write_file

    student = open_student(find_student(workspace, run))
    rows = read_new_rows(student, data, split=split, base_folder=Path())
    predictions = predict(student, rows, max_new_tokens=max_new_tokens, progress=progress_on_stderr("predict"))
    text = writer(predictions)
    if out is None:
        say(text.removesuffix("\n"))
        return
    write_file(out, text)
    say(f"{out}: {len(predictions):,} rows answered by {student.name}", to_errors=True)


def chosen_format(out: Path | None, form: str | None) -> str:
    """Return the format that was asked for, else the one that the file's name ends in, else JSONL.

    Raises:
        ConfigError: If there is no such format.
    """
    ending = out.suffix.lower().removeprefix(".") if out is not None else ""
    chosen = form or ending or FORMATS[0]
    if chosen not in FORMATS:
        where = f"--format {form}" if form else f"--out {out}"
        raise ConfigError(f"{where} is no known format. Expected one of {', '.join(FORMATS)}; set `--format`.")
    return chosen


def as_jsonl(predictions: Sequence[dict[str, Any]]) -> str:
    """Write one JSON object per line."""
    return "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in predictions)


def as_csv(predictions: Sequence[dict[str, Any]]) -> str:
    """Write a table; the shares of the labels become columns ``score_LABEL``.

    Text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    from tutelage.report.table_formats import guard_formula

    rows = [_flat(each) for each in predictions]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: guard_formula(v) if isinstance(v, str) else v for name, v in row.items()})
    return stream.getvalue()


def _flat(prediction: dict[str, Any]) -> dict[str, Any]:
    scores = {f"score_{label}": share for label, share in prediction.get("scores", {}).items()}
    return {name: value for name, value in prediction.items() if name != "scores"} | scores


WRITERS = {"jsonl": as_jsonl, "csv": as_csv}


def progress_on_stderr(what: str) -> Callable[[int, int, float], None]:
    """Return a reporter that rewrites one line on a terminal, and writes each quarter of the way elsewhere."""
    is_terminal = sys.stderr.isatty()
    shown = 0

    def report(done: int, total: int, tokens_per_second: float) -> None:
        nonlocal shown
        line = f"{what}: {done:,}/{total:,} rows, {tokens_per_second:,.0f} tokens/s"
        if is_terminal:
            sys.stderr.write(f"\r{line}\x1b[K" + ("\n" if done >= total else ""))
            sys.stderr.flush()
        elif 4 * done // total > shown:
            shown = 4 * done // total
            say(line, to_errors=True)

    return report
