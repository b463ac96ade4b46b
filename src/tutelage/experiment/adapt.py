"""The stage ``adapt``: the teacher learns the tasks first, on rows that no student is distilled on.

In: the teacher, its ``adapt`` section, the adaptation rows. Out: a merged model folder, shared by experiments.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.experiment.stage import Context, finished, stage_artifact, stage_key
from tutelage.experiment.task_kinds import row_limits
from tutelage.store import Manifest, files_digest, value_digest, write_json


def teacher_identity(context: Context) -> str:
    """Identify the teacher's weights as the recipe names them, without loading anything.

    A sample is identified by its pinned hash, a folder or file by its bytes, a hub id by its revision.
    """
    from tutelage.samples import find_sample

    teacher = context.recipe.teacher
    if teacher.model.startswith("sample:"):
        return find_sample(teacher.model.removeprefix("sample:"), kind="model").sha256
    path = context.base_folder / Path(teacher.model).expanduser()
    if path.exists():
        files = [path] if path.is_file() else [file for file in path.glob("*") if file.is_file()]
        return files_digest(files)
    return value_digest({"hub": teacher.model, "revision": teacher.revision})


def adapt(context: Context, prepared: Mapping[str, Manifest]) -> tuple[Path | None, Manifest | None]:
    """Adapt the teacher if the recipe says so.

    Args:
        context: The run.
        prepared: The rows of every task.

    Returns:
        The folder of the adapted teacher and its manifest, or (None, None) when it is used as it is.
    """
    section = context.recipe.teacher.adapt
    if section is None:
        return None, None
    key = adapt_key(context, prepared)
    assert key is not None, "every task is prepared"
    folder = context.folders.adapted(key)
    manifest = finished(folder, key)
    if manifest is not None:
        context.skip("adapt", " + ".join(section.tasks))
        return folder, manifest
    with context.timed("adapt", " + ".join(section.tasks)):
        _make(context, folder, key)
    return folder, finished(folder, key)


def adapt_key(context: Context, prepared: Mapping[str, Manifest | None]) -> str | None:
    """Address the stage by the teacher, the rows and the settings; None while a task is not prepared."""
    teacher = context.recipe.teacher
    assert teacher.adapt is not None
    part: dict[str, Any] = {
        "adapt": teacher.adapt.model_dump(mode="json"),
        "dtype": teacher.dtype,
        "device": teacher.device,
    }
    rows = {}
    for task in teacher.adapt.tasks:
        manifest = prepared[task]
        if manifest is None:
            return None
        where = "" if isinstance(teacher.adapt.task, str) else f"{task}."
        part |= {f"{where}{name}": limit for name, limit in row_limits(context.recipe.tasks[task]).items()}
        # only what adaptation reads: another number of distillation rows needs no other teacher
        rows |= {f"{where}{name}": manifest.files[name]["sha256"] for name in ("adapt.jsonl", "task.json")}
    return stage_key("adapt", part, {"teacher": teacher_identity(context), **rows})


def _make(context: Context, folder: Path, key: str) -> None:
    import torch

    from tutelage.build import adapt_options, attach_adapter, teacher_compute, teacher_source
    from tutelage.experiment.layers import check_layers
    from tutelage.experiment.task_data import open_task
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
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=dtype, device=device)
    tasks = [open_task(context, task, tokenizer, model) for task in section.tasks]
    rows = [row for data in tasks for row in data.rows(data.prepared.splits["adapt"], what="adapt", for_training=True)]
    context.show(f"adapt {source.name}: {section.max_steps} steps on {len(rows):,} rows of their own")
    torch.manual_seed(section.seed)
    is_bf16 = dtype == torch.bfloat16
    module = DistillationModule(attach_adapter(model, section.adapter), [LossTerm("cross_entropy", 1.0)], bf16=is_bf16)
    work = context.folders.work(f"adapted-{key}")
    with TrainProgress() as progress:
        result = train(
            module, rows, None, adapt_options(section, bf16=is_bf16),
            folder=work, pad_id=tasks[0].pad_id, device=device, show=progress, run_key=key,
        )  # fmt: skip
    merged = merge_adapter(module.student)  # type: ignore[arg-type]
    with stage_artifact(context, folder, stage="adapt", key=key, seconds={"train": result.seconds}) as temporary:
        save_student(merged, tokenizer, temporary)
        facts = {"name": f"{source.name}, adapted to {' and '.join(section.tasks)}", "licence": source.licence}
        write_json(temporary / SOURCE_FILE, facts)
    context.discard_work(work)
