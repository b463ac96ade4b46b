"""Rows as a person reads them: tokens, marked targets, what the teacher found likely, and what it wrote.

In: a loaded recipe. Out: coloured text on a terminal, plain lines elsewhere, or JSON.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.cli.terminal import paragraph, printable, say, table

TARGET_MARKS = ("\u27e6", "\u27e7")  # white square brackets: rare in any text, as in the teach stage's own rows
RAW_TEMPLATE = "raw"  # in the settings of answers whose prompts are no chat turns
TARGET_STYLE = "bold black on yellow"
ENTRY_COLUMNS = ("position", "read", "next", "teacher's most likely")
TABLE_PADDING = 14  # columns that a table's rules and margins take beside its cells
LEAST_ENTRIES_WIDTH = 24
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
    from tutelage.experiment.answers import RowReader

    taught = {task.name: task for task, _ in chosen if task.fingerprint is not None}
    entry_readers = {name: EntryReader(task.root, task.fingerprint) for name, task in taught.items()}
    row_readers = {name: RowReader(task) for name, task in taught.items()}
    records = []
    for task, found in chosen:
        if task.name not in taught:
            records.append(describe_row(task.tokenizer, found, None))
            continue
        entries = entry_readers[task.name].entries(found.row.teacher_key, count=top)
        reader = row_readers[task.name]
        scores, written = reader.label_scores(found), reader.answers(found)
        records.append(describe_row(task.tokenizer, found, entries, scores=scores, written=written))
    if as_json:
        say(json.dumps(records if len(records) != 1 else records[0], ensure_ascii=False))
        return
    for number, record in enumerate(records):
        if number:
            say()
        print_row(record)
    if all(record["column"] is None for record in records):
        say(f"the teacher has no stored distribution for these rows; `{teach_hint}` asks it")


def describe_row(
    tokenizer: Any, found: Any, entries: Any, *, scores: Any = None, written: Any = None
) -> dict[str, Any]:
    """Return a row as plain values: tokens in order, targets, and what the teacher said; None where it did not."""
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
        "class_scores": None if scores is None else describe_scores(scores),
        "answers": None if written is None else describe_answers(tokenizer, written),
    }


def describe_scores(scores: Any) -> dict[str, Any]:
    """Return class scores as plain values; ``prob`` is over the vocabulary, ``share`` among the labels."""
    probs = np.exp(np.array(scores.logprobs))
    each = zip(scores.labels, scores.logprobs, probs.tolist(), (probs / probs.sum()).tolist(), strict=True)
    names = ("label", "logprob", "prob", "share")
    return {"column": scores.column, "labels": [dict(zip(names, values, strict=True)) for values in each]}


def describe_answers(tokenizer: Any, written: Any) -> dict[str, Any]:
    """Return what the teacher wrote as plain values, with the settings that decided it."""
    return {
        "column": written.column.name,
        "settings": written.column.spec,
        "prompt_key": written.prompt.key.hex(),
        "prompt": tokenizer.decode(written.prompt.ids, clean_up_tokenization_spaces=False),
        "samples": [
            {"text": each.text, "finish": each.finish, "num_tokens": len(each.ids), "ids": each.ids.tolist()}
            for each in written.samples
        ],
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
    """Print one row: a heading, its text with the targets marked, a line per stored position, scores, answers."""
    tokens = record["tokens"]
    num_targets = sum(token["target"] for token in tokens)
    paragraph(
        f"{record['item_key']}: row {record['number']} of {record['task']} ({record['split']}), key "
        f"{record['row_key'][:16]}, {len(tokens)} tokens, {num_targets} targets"
    )
    if sys.stdout.isatty():
        _print_coloured(record)
    else:
        _print_plain(record)
    if record["class_scores"] is not None:
        print_scores(record["class_scores"])
    if record["answers"] is not None:
        print_answers(record["answers"])


def _print_plain(record: dict[str, Any]) -> None:
    say(marked_text(record["text"]))
    if record["positions"]:
        say(f"teacher at T = {record['temperature']:g}, from {record['column']}:")
        table(ENTRY_COLUMNS, [_plain_cells(each) for each in record["positions"]], numbers=("position",))


def print_scores(scores: dict[str, Any]) -> None:
    """Print a line per label."""
    paragraph(f"class scores, from {scores['column']}:")
    table(
        ("label", "log-prob", "probability", "among labels"),
        [
            (each["label"], f"{each['logprob']:.3f}", f"{each['prob']:.1%}", f"{each['share']:.1%}")
            for each in scores["labels"]
        ],
        numbers=("log-prob", "probability", "among labels"),
    )


def print_answers(answers: dict[str, Any]) -> None:
    """Print how the teacher was asked, and a line per answer."""
    settings = answers["settings"]
    paragraph(f"teacher's answers, {decoding_words(settings)}, from {answers['column']}:")
    if settings["template"] != RAW_TEMPLATE:
        paragraph(f"asked: {_quoted(answers['prompt'])}")
    table(
        ("sample", "tokens", "finish", "text"),
        [
            (str(number), str(each["num_tokens"]), each["finish"], _quoted(each["text"]))
            for number, each in enumerate(answers["samples"])
        ],
        numbers=("sample", "tokens"),
    )


def decoding_words(settings: dict[str, Any]) -> str:
    """Say in words what decided an answer."""
    how = "greedy"
    if settings["do_sample"]:
        how = f"sampled at T = {settings['temperature']:g}, top-p {settings['top_p']:g}, seed {settings['seed']}"
    stops = [*(f"id {token}" for token in settings["stop_ids"]), *map(_quoted, settings["stop_strings"])]
    template = "no chat template" if settings["template"] == RAW_TEMPLATE else f"chat template {settings['template']}"
    return f"{how}, at most {settings['max_new_tokens']} tokens, {template}, stop at {' or '.join(stops) or 'nothing'}"


def marked_text(runs: Sequence[dict[str, Any]]) -> str:
    """Join a row's runs; targets stand between marks."""
    left, right = TARGET_MARKS
    return "".join(f"{left}{run['text']}{right}" if run["target"] else run["text"] for run in runs)


def _plain_cells(position: dict[str, Any]) -> tuple[str, ...]:
    likely = [f"{_quoted(entry['text'])} {entry['prob']:.1%}" for entry in position["entries"]]
    next_token = "-" if position["next"] is None else _quoted(position["next"])
    return str(position["position"]), _quoted(position["read"]), next_token, ", ".join([*likely, _rest(position)])


def _rest(position: dict[str, Any]) -> str:
    return f"rest {position['rest']:.1%}"


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
    paragraph(f"teacher at T = {record['temperature']:g}, from {record['column']}:")
    shown = Table(*ENTRY_COLUMNS, box=box.SIMPLE_HEAD)
    shown.columns[0].justify = "right"
    cells = [[printable(cell) for cell in _plain_cells(each)[:3]] for each in record["positions"]]
    taken = sum(max(map(len, column)) for column in zip(ENTRY_COLUMNS[:3], *cells, strict=True))
    width = max(LEAST_ENTRIES_WIDTH, console.width - taken - TABLE_PADDING)
    for position, own in zip(record["positions"], cells, strict=True):
        shown.add_row(*map(Text, own), _likely_text(position, width))
    console.print(shown)


def _likely_text(position: dict[str, Any], width: int) -> Any:
    """Write a position's entries into lines that are broken between entries only."""
    from rich.text import Text

    lines = [Text()]
    for piece in [*(_entry_text(entry, position["next_id"]) for entry in position["entries"]), _rest_text(position)]:
        if lines[-1] and lines[-1].cell_len + 2 + piece.cell_len > width:
            lines.append(Text())
        lines[-1].append("  " if lines[-1] else "")
        lines[-1].append_text(piece)
    return Text("\n").join(lines)


def _entry_text(entry: dict[str, Any], next_id: int | None) -> Any:
    from rich.text import Text

    style = next(style for least, style in LIKELY_STYLES if entry["prob"] >= least)
    text = Text(printable(_quoted(entry["text"])), style=f"{style} underline" if entry["id"] == next_id else style)
    return Text.assemble(text, (f" {entry['prob']:.1%}", style))


def _rest_text(position: dict[str, Any]) -> Any:
    from rich.text import Text

    return Text(_rest(position), style="dim")
