"""The stage ``adapt``: the teacher learns the tasks first, on rows that no student is distilled on.

In: the teacher, its ``adapt`` section, the adaptation rows. Out: a merged model folder, shared by experiments.
"""

from collections.abc import Mapping
from typing import Any

from tutelage.config.models import Adapt
from tutelage.experiment.graph import Node
from tutelage.experiment.origin import adapted_name, model_identity
from tutelage.experiment.stage import Context, Target, stage_artifact
from tutelage.experiment.task_kinds import row_limits
from tutelage.experiment.writer import writer_part
from tutelage.store import write_json


def adapt_node(context: Context, prepared: Mapping[str, Node]) -> Node:
    """Return the stage that adapts the teacher, for a recipe that has one.

    Args:
        context: The run.
        prepared: The rows of every task.
    """
    section, name = context.recipe.teacher.adapt, adapted_name(context)
    assert section is not None
    assert name is not None
    return Node(
        context,
        "adapt",
        name=lambda: name,
        needs=tuple(prepared[task] for task in section.tasks),
        part=lambda: _part(context, section),
        reads=lambda: _reads(context, section, prepared),
        place=context.folders.adapted,
        make=lambda target: _make(context, target),
        note=f"{section.max_steps} steps",
        is_shared=True,
    )


def _part(context: Context, section: Adapt) -> dict[str, Any]:
    teacher = context.recipe.teacher
    part: dict[str, Any] = {
        "adapt": section.model_dump(mode="json"),
        "dtype": teacher.dtype,
        "device": teacher.device,
        **writer_part(context),
    }
    for task in section.tasks:
        where = "" if isinstance(section.task, str) else f"{task}."
        part |= {f"{where}{name}": limit for name, limit in row_limits(context.recipe.tasks[task]).items()}
    return part


def _reads(context: Context, section: Adapt, prepared: Mapping[str, Node]) -> dict[str, str] | None:
    """Name the teacher, and of the rows what adaptation reads: other distillation rows need no other teacher."""
    teacher = context.recipe.teacher
    reads = {"teacher": model_identity(context, teacher)}
    for task in section.tasks:
        manifest = prepared[task].manifest()
        if manifest is None:
            return None
        where = "" if isinstance(section.task, str) else f"{task}."
        reads |= {f"{where}{name}": manifest.files[name]["sha256"] for name in ("adapt.jsonl", "task.json")}
    return reads


def _make(context: Context, target: Target) -> None:
    import torch

    from tutelage.build import adapt_options, attach_adapter, teacher_compute, teacher_source
    from tutelage.experiment.layers import check_layers
    from tutelage.experiment.task_data import open_task
    from tutelage.experiment.writer import row_writer
    from tutelage.models.adapter import merge_adapter
    from tutelage.models.export import save_student
    from tutelage.models.load import load_model, load_tokenizer
    from tutelage.models.source import SOURCE_FILE
    from tutelage.train.loop import train
    from tutelage.train.module import DistillationModule
    from tutelage.train.progress import TrainProgress
    from tutelage.types import LossTerm

    section = context.recipe.teacher.adapt
    assert section is not None
    check_layers(context)  # here too: a recipe that cannot end well should not cost an adaptation
    device, dtype = teacher_compute(context.recipe.teacher)
    source = teacher_source(context.recipe, context.base_folder)
    writer = row_writer(context, source)
    model = load_model(source, dtype=dtype, device=device, num_ids=writer.num_ids)
    tasks = [open_task(context, task, writer, model) for task in section.tasks]
    rows = [row for data in tasks for row in data.rows(data.prepared.splits["adapt"], what="adapt", for_training=True)]
    context.show(f"adapt {source.name}: {section.max_steps} steps on {len(rows):,} rows of their own")
    torch.manual_seed(section.seed)
    is_bf16 = dtype == torch.bfloat16
    module = DistillationModule(attach_adapter(model, section.adapter), [LossTerm("cross_entropy", 1.0)], bf16=is_bf16)
    work = context.folders.work(f"adapted-{target.key}")
    with TrainProgress(overall=context.overall) as progress:
        result = train(
            module, rows, None, adapt_options(section, bf16=is_bf16),
            folder=work, pad_id=tasks[0].pad_id, device=device, show=progress, run_key=target.key,
        )  # fmt: skip
    merged = merge_adapter(module.student)  # type: ignore[arg-type]
    with stage_artifact(context, target, seconds={"train": result.seconds}) as temporary:
        save_student(merged, load_tokenizer(source), temporary)
        facts = {"name": f"{source.name}, adapted to {' and '.join(section.tasks)}", "licence": source.licence}
        write_json(temporary / SOURCE_FILE, facts)
    context.discard_work(work)
