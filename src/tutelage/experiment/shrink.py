"""The stage ``shrink``: which layers a student keeps, decided once for all its runs.

In: a student's section, the model it is cut from, a few rows. Out: ``shrink/<student>/layers.json``.
"""

import json

from tutelage.experiment.graph import Node, known
from tutelage.experiment.origin import Origin
from tutelage.experiment.stage import Context, Target, stage_artifact
from tutelage.experiment.task_kinds import row_limits
from tutelage.experiment.writer import writer_part
from tutelage.store import write_json

NUM_INFLUENCE_ROWS = 64  # "a few rows": the order of the layers of the sample is stable from 32 on


def shrink_node(context: Context, student_name: str, prepared: Node, origin: Origin) -> Node:
    """Return the stage that chooses a student's layers, for a student whose section cuts some.

    Args:
        context: The run.
        student_name: A key of ``students``.
        prepared: The task whose rows measure the layers' influence.
        origin: The model that the student is cut from.
    """
    section = context.recipe.students[student_name]
    assert section.shrink is not None
    by_rows = section.shrink.by == "influence"
    part = {"shrink": section.shrink.model_dump(mode="json"), "model": section.model, "revision": section.revision}
    if by_rows:  # influence is measured in the student's own precision, on rows of the task's length
        compute = {"dtype": section.dtype, "device": context.recipe.train.device}
        part |= compute | row_limits(context.recipe.tasks[prepared.subject])
    if by_rows:
        part |= writer_part(context)
    rows = {"prepared": prepared.digest} if by_rows else {}
    return Node(
        context,
        "shrink",
        name=lambda: student_name,
        needs=((prepared,) if by_rows else ()) + origin.needs,
        part=lambda: part,
        reads=lambda: known({origin.what: origin.digest(), **{name: read() for name, read in rows.items()}}),
        place=lambda key: context.folders.stage("shrink", student_name, key),
        make=lambda target: _make(context, student_name, target, prepared.subject),
    )


def kept_layers(context: Context, student_name: str) -> tuple[int, ...] | None:
    """Return the layer map that the stage stored, or None."""
    if context.recipe.students[student_name].shrink is None:
        return None
    stored = json.loads((context.input("shrink", student_name) / "layers.json").read_text(encoding="utf-8"))
    return tuple(stored["kept"])


def _make(context: Context, student_name: str, target: Target, task_name: str) -> None:
    from tutelage.build import student_compute
    from tutelage.data import batch_to, collate, reading_batches
    from tutelage.experiment.origin import student_source
    from tutelage.experiment.task_data import open_task
    from tutelage.experiment.writer import row_writer
    from tutelage.models.load import load_model
    from tutelage.models.resize import grow_embeddings
    from tutelage.models.shrink import choose_layers, decoder_layers, layer_influence

    section = context.recipe.students[student_name]
    assert section.shrink is not None
    source = student_source(context, student_name)
    device, dtype = student_compute(context.recipe, section)
    writer = row_writer(context)
    model = load_model(source, dtype=dtype, device=device, num_ids=writer.num_ids)
    influence = None
    if section.shrink.by == "influence":
        if section.resize_embeddings:
            grow_embeddings(model, writer.num_ids)
        data = open_task(context, task_name, writer, model, student=student_name)
        rows = data.rows(data.prepared.splits["train"][:NUM_INFLUENCE_ROWS])
        groups = reading_batches([len(row.ids) for row in rows], token_budget=context.recipe.evaluate.token_budget)
        batches = [collate([rows[i] for i in group], pad_id=data.pad_id) for group in groups]
        influence = layer_influence(model, [batch_to(batch, device) for batch in batches])
    num_layers = len(decoder_layers(model))
    kept = choose_layers(num_layers, section.shrink.layers, by=section.shrink.by, influence=influence)
    with stage_artifact(context, target) as temporary:
        content = {"kept": list(kept), "of": num_layers, "by": section.shrink.by, "influence": influence}
        write_json(temporary / "layers.json", content)
    context.show(f"shrink {student_name}: keeps layers {_ranges(kept)} of {num_layers} (by {section.shrink.by})")


def _ranges(kept: tuple[int, ...]) -> str:
    """Write 0, 1, 2, 8 as "0-2, 8"."""
    runs: list[list[int]] = []
    for layer in kept:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
