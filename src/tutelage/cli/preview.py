"""Rows as a person reads them: tokens, marked targets, and what the teacher found likely.

In: a loaded recipe. Out: coloured text on a terminal, plain lines elsewhere, or JSON.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.cli.terminal import printable, say, table

TARGET_MARKS = ("\u27e6", "\u27e7")  # white square brackets: rare in any text, as in the teach stage's own rows
TARGET_STYLE = "bold black on yellow"
LIKELY_STYLES = ((0.5, "bold green"), (0.1, "green"), (0.01, "yellow"), (0.0, "dim"))  # by probability, at least


def show_preview(loaded: Any, *, count: int, seed: int, top: int, as_json: bool) -> None:
    """Show a few training rows."""
    from tutelage.experiment import run_recipe
    from tutelage.experiment.stored import choose_rows, open_stored, unprepared_tasks

    if unprepared_tasks(loaded):
        run_recipe(loaded, until="prepare", show=(lambda line: None) if as_json else say)
    tasks = open_stored(loaded, show=say)
    chosen = choose_rows(tasks, count=count, seed=seed)
    _show(chosen, top=top, as_json=as_json, teach_hint=f"tutelage run {loaded.path} --until teach")


def show_row(loaded: Any, name: str, *, top: int, as_json: bool) -> None:
    """Show one row by name."""
    from tutelage.experiment.stored import find_row, open_stored

    tasks = open_stored(loaded, show=say)
    found = [find_row(tasks, name)]
    _show(found, top=top, as_json=as_json, teach_hint=f"tutelage run {loaded.path} --until teach")


def _show(chosen: Sequence[tuple[Any, Any]], *, top: int, as_json: bool, teach_hint: str) -> None:
    from tutelage.cache.inspect import EntryReader

    readers = {
        task.fingerprint: EntryReader(task.root, task.fingerprint) for task, _ in chosen if task.fingerprint is not None
    }
    records = []
    for task, found in chosen:
        reader = readers.get(task.fingerprint)
        entries = reader.entries(found.row.teacher_key, count=top) if reader is not None else None
        records.append(describe_row(task.tokenizer, found, entries))
    if as_json:
        say(json.dumps(records if len(records) != 1 else records[0], ensure_ascii=False))
        return
    for number, record in enumerate(records):
        if number:
            say()
        print_row(record)
    if all(record["column"] is None for record in records):
        say(f"the teacher has no stored distribution for these rows; `{teach_hint}` asks it")


def describe_row(tokenizer: Any, found: Any, entries: Any) -> dict[str, Any]:
    """Return a row as plain values: tokens in order, targets, and the teacher's entries by position."""
    row = found.row
    texts = token_texts(tokenizer, row.ids.tolist())
    shown = [] if entries is None else [describe_position(tokenizer, texts, row, each) for each in entries.positions]
    return {
        "task": found.task,
        "split": found.split,
        "number": found.index,
        "item_key": row.item_key,
        "row_key": row.teacher_key.hex(),
        "tokens": [
            {"id": int(token), "text": text, "target": bool(target)}
            for token, text, target in zip(row.ids, texts, row.target_mask, strict=True)
        ],
        "text": text_runs(tokenizer, row),
        "column": None if entries is None else entries.column,
        "temperature": None if entries is None else entries.temperature,
        "positions": shown,
    }


def describe_position(tokenizer: Any, texts: Sequence[str], row: Any, entry: Any) -> dict[str, Any]:
    """Return one stored position: what was read last, what comes next, and the teacher's most likely tokens."""
    after = entry.position + 1
    return {
        "position": entry.position,
        "read": texts[entry.position],
        "next": texts[after] if after < len(texts) else None,
        "next_id": int(row.ids[after]) if after < len(texts) else None,
        "entries": [
            {"id": token, "text": text, "prob": prob}
            for token, text, prob in zip(entry.ids, token_texts(tokenizer, entry.ids), entry.probs, strict=True)
        ],
        "rest": entry.rest,
    }


def text_runs(tokenizer: Any, row: Any) -> list[dict[str, Any]]:
    """Cut a row where targets begin and end, and decode each run as a whole: a character may take several tokens."""
    edges = np.flatnonzero(np.diff(row.target_mask)) + 1
    starts = [0, *edges.tolist()]
    return [
        {"text": tokenizer.decode(ids, clean_up_tokenization_spaces=False), "target": bool(row.target_mask[start])}
        for start, ids in zip(starts, np.split(row.ids, edges), strict=True)
    ]


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Decode each token alone; a byte of a longer character shows as a replacement mark."""
    # the clean-up of blanks is for readers of prose; it would hide what the model sees
    return [tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in ids]


def print_row(record: dict[str, Any]) -> None:
    """Print one row: a heading, its text with the targets marked, a line per stored position."""
    tokens = record["tokens"]
    num_targets = sum(token["target"] for token in tokens)
    say(
        f"{record['item_key']}: row {record['number']} of {record['task']} ({record['split']}), key "
        f"{record['row_key'][:16]}, {len(tokens)} tokens, {num_targets} targets"
    )
    if sys.stdout.isatty():
        _print_coloured(record)
        return
    say(marked_text(record["text"]))
    if record["positions"]:
        say(f"teacher at T = {record['temperature']:g}, from {record['column']}:")
        table(
            ("position", "read", "next", "teacher's most likely"), [_plain_cells(each) for each in record["positions"]]
        )


def marked_text(runs: Sequence[dict[str, Any]]) -> str:
    """Join a row's runs; targets stand between marks."""
    left, right = TARGET_MARKS
    return "".join(f"{left}{run['text']}{right}" if run["target"] else run["text"] for run in runs)


def _plain_cells(position: dict[str, Any]) -> tuple[str, ...]:
    likely = [f"{_quoted(entry['text'])} {entry['prob']:.1%}" for entry in position["entries"]]
    next_token = "-" if position["next"] is None else _quoted(position["next"])
    return str(position["position"]), _quoted(position["read"]), next_token, ", ".join(likely) + _rest(position)


def _rest(position: dict[str, Any]) -> str:
    return f", rest {position['rest']:.1%}"


def _quoted(text: str) -> str:
    """Write a token so that blanks and line ends show."""
    return json.dumps(text, ensure_ascii=False)


def _print_coloured(record: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    text = Text()
    for run in record["text"]:
        text.append(printable(run["text"]), style=TARGET_STYLE if run["target"] else "")
    console = Console()
    console.print(text)
    if not record["positions"]:
        return
    title = f"teacher at T = {record['temperature']:g}, from {record['column']}"
    shown = Table("position", "read", "next", "teacher's most likely", box=box.SIMPLE_HEAD, title=title)
    for position in record["positions"]:
        likely = Text()
        for entry in position["entries"]:
            style = next(style for least, style in LIKELY_STYLES if entry["prob"] >= least)
            is_next = entry["id"] == position["next_id"]
            likely.append(printable(_quoted(entry["text"])), style=f"{style} underline" if is_next else style)
            likely.append(f" {entry['prob']:.1%}  ", style=style)
        likely.append(_rest(position).removeprefix(", "), style="dim")
        cells = _plain_cells(position)
        shown.add_row(*(Text(printable(cell)) for cell in cells[:3]), likely)
    console.print(shown)
