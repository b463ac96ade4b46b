"""The fidelity-bytes frontier of a recipe: which signal is worth storing for these rows, this teacher, this student.

In: a loaded recipe whose final hidden states are stored. Out: points, a recommendation, a table and a figure on disk.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutelage.build import load_student, student_compute
from tutelage.cache import (
    CacheReader,
    Column,
    FinalHiddenColumn,
    SampledColumn,
    TopKColumn,
    read_head,
)
from tutelage.config import LoadedRecipe
from tutelage.data import batch_to, collate, reading_batches
from tutelage.errors import DataError
from tutelage.evaluate.frontier import FrontierPoint, measure_frontier, recommend
from tutelage.experiment.origin import student_source
from tutelage.experiment.shrink import kept_layers
from tutelage.experiment.stage import Context
from tutelage.experiment.stored import StoredTask, open_stored, require_fingerprints
from tutelage.experiment.teach import signal_columns_of
from tutelage.experiment.writer import row_writer
from tutelage.models.load import load_config
from tutelage.models.shrink import choose_layers
from tutelage.report.figures_frontier import draw_frontier
from tutelage.store import make_folder, write_file, write_json
from tutelage.types import Batch, OutputHead, StudentRow

TOP_KS = (8, 16, 50, 128)  # about evenly apart on the figure's logarithmic axis; each costs two backward passes
DRAWS = (12, 25, 50)
TOPK_LAYOUTS = {"raw": "fp16", "packed": "q8"}  # float16 beside 16- or 32-bit ids; compressed bytes of ids and steps
MAX_TOKENS = 4096  # of all rows: their activations are alive together
BATCH_TOKENS = 1024  # of one forward pass


@dataclass(frozen=True)
class Frontier:
    """The measured points and what follows from them."""

    points: list[FrontierPoint]
    recommended: FrontierPoint | None
    sentence: str
    facts: dict[str, Any]
    files: list[Path]


def recipe_frontier(
    loaded: LoadedRecipe,
    *,
    max_degrees: float,
    num_positions: int,
    num_rows: int,
    temperature: float,
    seed: int,
    show: Callable[[str], None],
) -> Frontier:
    """Measure the frontier on some of a recipe's own training rows, and write table and figure.

    The student is the recipe's first, as it is before training, in float32.

    Args:
        loaded: The recipe; its teach stage must have stored ``final_hidden``.
        max_degrees: Largest angle of a step that is acceptable.
        num_positions: Supervised positions to measure on; whole rows are taken until there are as many.
        num_rows: Rows at most; see also ``MAX_TOKENS``.
        temperature: Of the distillation loss.
        seed: Chooses the rows.
        show: Told what is being done.

    Raises:
        DataError: If the recipe was not taught, or does not store its final hidden states.
        CacheError: If the final hidden states of these rows are missing or damaged.
    """
    tasks = open_stored(loaded, show=show)
    task = tasks[0]
    context = task.context
    fingerprint = require_fingerprints(context)[task.name]
    column = hidden_column(task)
    student, student_facts = open_student(context)
    device = next(student.parameters()).device
    chosen = measured_rows(task, num_positions=num_positions, num_rows=num_rows, seed=seed)
    batches = row_batches(chosen, pad_id=task.data.pad_id, device=device)
    hidden_NE = stored_hidden(task.root, fingerprint, column, batches).to(device)
    head = read_head(task.root, fingerprint, device=device)
    columns = candidates(column, head, temperature=temperature, seed=seed)
    facts = {
        **student_facts,
        "teacher": context.recipe.teacher.model,
        "task": task.name,
        "rows": len(chosen),
        "positions": len(hidden_NE),
        "tokens": sum(len(row.ids) for row in chosen),
        "temperature": temperature,
        "seed": seed,
        "max_degrees": max_degrees,
    }
    show(
        f"{len(columns)} signals on {facts['rows']} rows, {facts['positions']} positions, {facts['tokens']:,} tokens; "
        f"student {facts['student']}"
    )
    points = measure_frontier(student, batches, hidden_NE, head, columns, temperature=temperature, show=show)
    best = recommend(points, max_degrees=max_degrees)
    folder = context.folders.root / "frontier"
    return Frontier(points, best, sentence(best, facts), facts, write_frontier(folder, points, best, facts))


def hidden_column(task: StoredTask) -> FinalHiddenColumn:
    """Return the final hidden states that the recipe's own teach stage stored; others may lie beside them.

    Raises:
        DataError: If the recipe does not store them.
    """
    columns = signal_columns_of(task.facts)
    for column in columns:
        if isinstance(column, FinalHiddenColumn):
            return column
    raise DataError(
        f"The signals of {task.context.loaded.path} are {', '.join(column.kind for column in columns)}; the "
        "frontier compares with `{kind: final_hidden}`. Add it to `signals` and teach again: only it is computed."
    )


def candidates(stored: FinalHiddenColumn, head: OutputHead, *, temperature: float, seed: int) -> dict[str, Column]:
    """List what could be stored instead of the final hidden states, and these themselves, by the name to show."""
    num_ids = head.weight_VD.shape[0]
    columns: dict[str, Column] = {f"final_hidden {stored.dtype}": stored}
    for layout, dtype in TOPK_LAYOUTS.items():
        for k in [k for k in TOP_KS if k < num_ids]:
            columns[f"topk {k} {layout}"] = TopKColumn(k, (temperature,), num_ids, dtype)
    for num_draws in DRAWS:
        columns[f"sampled {num_draws}"] = SampledColumn(num_draws, temperature, seed, num_ids)
    return columns


def measured_rows(task: StoredTask, *, num_positions: int, num_rows: int, seed: int) -> list[StudentRow]:
    """Choose training rows until they have enough positions; at most so many rows and ``MAX_TOKENS``, at least one.

    Raises:
        DataError: If the task has no training rows.
    """
    rows: list[StudentRow] = [found.row for found in task.rows if found.split == "train"]
    if not rows:
        raise DataError(f"Task {task.name!r} has no training rows to measure on.")
    ordered = [rows[number] for number in np.random.default_rng(seed).permutation(len(rows))]
    positions = np.cumsum([int(row.target_mask.sum()) for row in ordered])
    tokens = np.cumsum([len(row.ids) for row in ordered])
    enough = int(np.searchsorted(positions, num_positions)) + 1
    fitting = int(np.searchsorted(tokens, MAX_TOKENS, side="right"))
    return ordered[: max(1, min(enough, fitting, num_rows))]


def row_batches(rows: list[StudentRow], *, pad_id: int, device: torch.device) -> list[Batch]:
    """Lay rows out for the forward pass, those of similar length together."""
    groups = reading_batches([len(row.ids) for row in rows], token_budget=BATCH_TOKENS)
    return [batch_to(collate([rows[i] for i in group], pad_id=pad_id), device) for group in groups]


def stored_hidden(root: Path, fingerprint: str, column: FinalHiddenColumn, batches: list[Batch]) -> torch.Tensor:
    """Read the final hidden states of the batches' positions, [N, E]."""
    reader = CacheReader(root, fingerprint, column)
    rows = [row for batch in batches for row in batch.teacher_rows]
    return reader.read([row.key for row in rows], [row.positions for row in rows])["hidden_NE"]


def open_student(context: Context) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Load the recipe's first student as it is before training, in float32.

    Layers that the shrink stage has not chosen yet are taken evenly. A student that is the teacher itself has no
    gradient: half of its layers stand for it.
    """
    name, section = next(iter(context.recipe.students.items()))
    source = student_source(context, name)
    device, _ = student_compute(context.recipe, section)
    num_layers = load_config(source).get_text_config().num_hidden_layers
    layers, chosen_by = None, ""
    if section.shrink is not None and ("shrink", name) in context.found:
        layers, chosen_by = kept_layers(context, name), section.shrink.by
    elif section.shrink is not None or section.model is None:
        wanted = section.shrink.layers if section.shrink is not None else max(2, num_layers // 2)
        layers, chosen_by = choose_layers(num_layers, wanted, by="even"), "even"
    num_ids = row_writer(context).num_ids
    student = load_student(source, section, layers=layers, num_ids=num_ids, device=device, dtype=torch.float32)
    described = f"{name} ({len(layers)} layers, by {chosen_by})" if layers is not None else name
    return student, {"student": described, "trainable": sum(p.numel() for p in student.parameters() if p.requires_grad)}


def sentence(best: FrontierPoint | None, facts: dict[str, Any]) -> str:
    """Recommend a signal in one sentence."""
    limit, temperature = facts["max_degrees"], facts["temperature"]
    if best is None:
        return f"No signal keeps the step within {limit:g} degrees at T = {temperature:g}: raise --max-angle."
    return (
        f"Store `{recipe_entry(best, facts)}`: {best.bytes_per_position:,.1f} bytes per position, the smallest whose "
        f"step lies within {limit:g} degrees of full distillation at T = {temperature:g} ({best.step.degrees:.1f} "
        f"degrees over {facts['positions']:,} positions)."
    )


def recipe_entry(point: FrontierPoint, facts: dict[str, Any]) -> str:
    """Write a signal as an entry of a recipe's ``signals``."""
    _, size, *layout = point.signal.split()
    settings = {"final_hidden": f"dtype: {size}", "sampled": f"draws: {size}"}.get(point.kind, f"k: {size}")
    if point.kind == "final_hidden":
        return f"{{kind: final_hidden, {settings}}}"
    dtype = f", dtype: {TOPK_LAYOUTS[layout[0]]}" if layout else ""
    return f"{{kind: {point.kind}, {settings}, temperatures: [{facts['temperature']:g}]{dtype}}}"


def write_frontier(
    folder: Path, points: list[FrontierPoint], best: FrontierPoint | None, facts: dict[str, Any]
) -> list[Path]:
    """Write ``frontier.json``, ``frontier.svg`` and ``frontier.png``."""
    make_folder(folder)
    records = [asdict(point) for point in points]
    recommended = best.signal if best is not None else None
    write_json(folder / "frontier.json", {"facts": facts, "points": records, "recommended": recommended})
    drawn = draw_frontier(records, recommended=recommended, max_degrees=facts["max_degrees"], facts=facts)
    paths = [folder / "frontier.json"]
    for suffix in ("svg", "png"):
        paths.append(folder / f"frontier.{suffix}")
        write_file(paths[-1], drawn.formats[suffix])
    return paths
