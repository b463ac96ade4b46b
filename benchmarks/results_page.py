"""Write ``docs/benchmarks.md`` from the records under ``docs/results/benchmarks``: ``python -m benchmarks page``.

In: the JSON that ``python -m benchmarks ID --json`` printed. Out: a table per benchmark, and why a target is missed.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS, PAGE = ROOT / "docs" / "results" / "benchmarks", ROOT / "docs" / "benchmarks.md"
PEERS_COMMAND = 'pip install "tutelage[peers]"'
TITLES = {
    "B1": "Head and loss, forward and backward: time",
    "B2": "Head and loss, forward and backward: temporary memory",
    "B3": "Bytes per position at equal gradient angle",
    "B4": "Reading the cache",
    "B5": "Writing the cache, and the teach stage",
    "B6": "Fidelity at 40 bytes per position",
    "B10": "Hidden states: reading, bytes, error",
}
NOTES = {
    "B1": "Missed, and out of reach on these cores but for what *possible* shows: the ratio that a loss of no cost at "
    "all would have, since no call is faster than the head's two bfloat16 products. Without matrix units these take "
    "two thirds of our time and more.",
    "B2": "Top-k is met, its slope too. With full logits the target is missed against Liger's chunked loss, which "
    "holds one chunk and the gradient of the head. Both are nearly flat in the number of positions, so the ratio of "
    "their slopes says little.",
    "B5": "Of the teach stage, prose with top-k or draws misses 0.9 against a head that returns 8 bits of each logit, "
    "and is at par with one of equal precision. Writing reviews costs 2.5 us for each row of two positions (hash, "
    "index, name; docs/log.md), where the teacher takes 50,000 us.",
    "B10": "`sq8` meets speed and error. 0.2x of float32 is 6.4 bits a value; an ideal quantiser at 1 % needs 6.6 "
    "(docs/log.md), so bytes and error exclude each other.",
}


def write_page() -> Path:
    """Write the page from the committed records."""
    PAGE.write_text(page_text(read_records()), encoding="utf-8")
    return PAGE


def read_records() -> dict[str, list[dict[str, Any]]]:
    """Give the records by benchmark."""
    rows = [row for path in sorted(RECORDS.glob("*.json")) for row in json.loads(path.read_text(encoding="utf-8"))]
    return {name: [row for row in rows if row["id"] == name] for name in [*TITLES, "B1-gpu"]}


def page_text(records: Mapping[str, list[dict[str, Any]]]) -> str:
    """Lay the records out as Markdown."""
    parts = [
        "# Benchmarks",
        "Two cores with AVX-512 bfloat16 products and without matrix units, idle but for the benchmark; one run, "
        "ratios of medians, ours against each peer in turns. Every figure is in the records under "
        "[results/benchmarks](results/benchmarks), as `python -m benchmarks ID --json` printed them, with spreads, "
        f"versions, loads and errors; this page is `python -m benchmarks page`. Peers: `{PEERS_COMMAND}`.",
    ]
    for name, title in TITLES.items():
        parts += [f"## {name}: {title}", f"`python -m benchmarks {name} --json`", _table(records[name])]
        parts += [NOTES[name]] if name in NOTES else []
    parts += ["## On a GPU", *_gpu(records["B1-gpu"])]
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = ["| what | ratio | target | met |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        possible = row["details"].get("ratios", {}).get("largest_possible")
        bound = f" (possible: {possible:.2f})" if isinstance(possible, float) else ""
        sign = "<=" if row["better"] == "smaller" else ">="
        target = "" if row["target"] is None else f"{sign} {row['target']:g}"
        met = {None: "", True: "yes", False: "no"}[row["met"]]
        lines.append(f"| {row['details']['what']}{bound} | {row['ratio']:.3g} | {target} | {met} |")
    return "\n".join(lines)


def _gpu(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Give one table per shape: each variant's milliseconds and temporary memory."""
    shapes = {json.dumps(row["details"]["shape"]): row["details"] for row in rows}
    parts = ["`python -m benchmarks gpu --json`. No targets; see [gpu.md](gpu.md)."]
    for details in shapes.values():
        shape = details["shape"]
        caption = f"{details['device']}, N = {shape['N']:,}, V = {shape['V']:,}, D = {shape['D']:,}, K = {shape['K']}:"
        lines = ["| loss, signal, dtype | milliseconds | temporary MiB |", "| --- | ---: | ---: |"]
        for name, milliseconds in sorted(details["milliseconds"].items(), key=lambda item: item[1][1]):
            lines.append(f"| {name} | {milliseconds[1]:.1f} | {details['temporary_mebibytes'][name]:,.0f} |")
        parts += [caption, "\n".join(lines)]
    return parts
