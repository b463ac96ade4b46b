"""One arm of the comparison: a student is trained, scored and committed with everything that explains its numbers.

In: a ``Run``, the prepared rows, what the teacher said. Out: ``<run_id>/`` with ``run.json``, ``items.parquet``,
``metrics.jsonl``, ``checkpoint/`` and ``provenance.json``.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tutelage.build import load_student, student_compute, train_options
from tutelage.config import Sequence, selection_metric
from tutelage.evaluate import FIDELITY_SIGNALS, fidelity
from tutelage.experiment.checklist import show_checklist
from tutelage.experiment.matrix import Run, method_of
from tutelage.experiment.objective import make_objective
from tutelage.experiment.origin import student_source
from tutelage.experiment.sequence_rows import SequenceRows, sequence_rows
from tutelage.experiment.shrink import kept_layers
from tutelage.experiment.stage import Context, Target, stage_artifact
from tutelage.experiment.task_data import TaskData, open_task, read_task
from tutelage.experiment.task_kinds import kind_of
from tutelage.experiment.teach import Taught
from tutelage.experiment.writer import row_writer
from tutelage.losses.registry import reads_labels
from tutelage.models.adapter import merge_adapter
from tutelage.models.export import count_parameters, save_student
from tutelage.models.head import plain_model
from tutelage.store import write_json
from tutelage.teacher import CachedTeacher
from tutelage.train.loop import train
from tutelage.train.module import DistillationModule
from tutelage.train.options import TrainOptions
from tutelage.train.progress import TrainProgress

SCORING_PATIENCE = 20.0  # seconds without a line where there is no terminal
KEPT_LOGS = ("metrics.jsonl", "evaluations.jsonl")


def make_run(context: Context, run: Run, target: Target, taught: Taught) -> None:
    """Train or score one model and commit the run."""
    makers = {"teacher": score_teacher, "untouched": score_untouched}
    makers.get(run.kind, train_arm)(context, run, target, taught)


def train_arm(context: Context, run: Run, target: Target, taught: Taught) -> None:
    """Train one student, score it and commit the run; an interrupted one goes on where it was."""
    recipe = context.recipe
    section, method = recipe.students[run.student], method_of(recipe, run)
    device, dtype = student_compute(recipe, section)
    is_bf16 = dtype == torch.bfloat16
    options = train_options(
        recipe.train, method.train, section,
        seed=run.seed or 0, bf16=is_bf16, group_rows=getattr(method, "group_rows", None),
    )  # fmt: skip
    torch.manual_seed(options.seed)  # the adapter's first values
    student, data = open_student(context, run, taught, device=device, dtype=dtype, packed=options.packed)
    gold_rows = rows = data.rows(data.prepared.splits["train"], what=run.run_id, for_training=True)
    mixed: SequenceRows | None = None
    if run.kind == "pseudo":
        rows = data.pseudo_rows(taught, what=f"{run.run_id}, pseudo")
    elif isinstance(method, Sequence):
        mixed = sequence_rows(
            data, taught, gold_rows,
            share=method.lambda_, seed=run.seed or 0, permuted=run.role == "control", what=run.run_id,
        )  # fmt: skip
        rows = mixed.rows
    objective = make_objective(context, run, taught, student, gold_rows, device=device)
    module = DistillationModule(
        student, objective.terms, projectors=objective.projectors, fused=options.fused, bf16=is_bf16
    )
    scorer = Scorer(context, data, taught, device, is_bf16)
    work = context.folders.work(f"{run.run_id}-{target.key}")  # changed settings never meet an old checkpoint
    epochs = options.num_train_epochs
    length = f"{epochs:g} epoch{'s' * (epochs != 1)}" if options.max_steps is None else f"{options.max_steps:,} steps"
    context.show(f"train {run.run_id}: {len(rows):,} rows, {length}, lr {options.learning_rate:g}")
    with TrainProgress(overall=context.overall) as progress:
        result = train(
            module, rows, objective.teachers, options,
            folder=work, curves=context.folders.curves(run.run_id, target.key),
            pad_id=data.pad_id, device=device, show=progress, run_key=target.key,
            evaluate=lambda model: scorer.metrics_on(model, "validation"), select_by=data.metric,
        )  # fmt: skip
    model = merge_adapter(student) if section.adapter.kind == "lora" else student  # type: ignore[arg-type]
    scores: dict[str, Any] = {"validation": {data.metric: result.best_metric}}
    record = run_record(context, run, taught, options, scores, count_parameters(model))
    reads_gold = any(reads_labels(term.kind) for term in module.head_terms) and run.kind != "pseudo"
    record |= {
        "steps": result.steps,
        "best_step": result.best_step,
        "tokens": result.tokens,
        "targets": result.targets,
        "stopped_early": result.stopped_early,
        "gold_labels": mixed.num_gold if mixed else len(rows) if reads_gold else 0,
        "teacher_tokens": 0 if run.kind == "baseline" else taught.facts["num_tokens"],
    }
    if data.date is not None:
        record["date"] = data.date  # whoever uses the student later writes its prompts for that day
    record["end_of_turn_id"] = data.end_of_turn_id
    if mixed is not None:
        record["sequences"] = mixed.counts | {"allowed": taught.facts["sequences"]["allowed"]}
    with stage_artifact(context, target, seconds={"train": result.seconds}) as temporary:
        for name in KEPT_LOGS:
            shutil.copyfile(work / name, temporary / name)
        if not run.trial:
            items = scorer.items(model, "test")
            scores["test"] = scorer.all_metrics(model, items)
            data.kind.write_items(temporary / "items.parquet", items)
            save_student(model, data.tokenizer, temporary / "checkpoint", end_of_turn_id=data.end_of_turn_id)
        write_json(temporary / "run.json", record)
    context.discard_work(work)
    context.show(f"  {run.run_id}: {describe_scores(scores)}")


def score_untouched(context: Context, run: Run, target: Target, taught: Taught) -> None:
    """Score a student as it is before any training, and commit that as a run."""
    section = context.recipe.students[run.student]
    device, dtype = student_compute(context.recipe, section)
    student, data = open_student(context, run, taught, device=device, dtype=dtype)
    scorer = Scorer(context, data, taught, device, dtype == torch.bfloat16)
    items = scorer.items(student, "test")
    scores = {"validation": scorer.metrics_on(student, "validation"), "test": scorer.all_metrics(student, items)}
    if "kl_to_teacher" not in scores["test"]:
        context.show(f"  fidelity is left out of every run: it needs a signal {' or '.join(FIDELITY_SIGNALS)}")
    model = merge_adapter(student) if section.adapter.kind == "lora" else student  # type: ignore[arg-type]
    record = run_record(context, run, taught, None, scores, count_parameters(model))
    with stage_artifact(context, target) as temporary:
        data.kind.write_items(temporary / "items.parquet", items)
        write_json(temporary / "run.json", record)
    context.show(f"  {run.run_id}: {describe_scores(scores)}")


def score_teacher(context: Context, run: Run, target: Target, taught: Taught) -> None:
    """Commit the teacher's own scores, read from what it answered in the teach stage."""
    prepared = read_task(context, run.task)
    section = context.recipe.tasks[run.task]
    kind, metric = kind_of(section), selection_metric(context.recipe.evaluate.select_by, section)
    splits = ("validation", "test", *(["adapt"] if prepared.splits["adapt"] else []))
    items = {split: kind.teacher_items(prepared, taught, split, metric=metric) for split in splits}
    scores = {split: kind.metrics(each) for split, each in items.items()}
    if "adapt" in scores:
        trained, held_out = scores["adapt"][metric], scores["validation"][metric]
        context.show(f"  teacher: {metric} {trained:.1%} on rows it was adapted to, {held_out:.1%} on held-out rows")
    scores["test"] |= {"kl_to_teacher": 0.0, "top1_agreement": 1.0}
    record = run_record(context, run, taught, None, scores, taught.facts["parameters"])
    with stage_artifact(context, target) as temporary:
        kind.write_items(temporary / "items.parquet", items["test"])
        write_json(temporary / "run.json", record | {"teacher_tokens": taught.facts["num_tokens"]})
    context.show(f"  {run.run_id}: {describe_scores(scores)}")


def open_student(
    context: Context, run: Run, taught: Taught, *, device: torch.device, dtype: torch.dtype, packed: bool = False
) -> tuple[nn.Module, TaskData]:
    """Load a student as it is before training, with its view of the task; ``packed`` rows need one more proof.

    Raises:
        AlignmentError: If its tokenizer is of another family than the one that writes the rows.
    """
    section, writer = context.recipe.students[run.student], row_writer(context)
    source, layers = student_source(context, run.student), kept_layers(context, run.student)
    student = load_student(source, section, layers=layers, num_ids=writer.num_ids, device=device, dtype=dtype)
    base: Any = plain_model(student)
    show_checklist(context, f"student {run.student}", base, writer.tokenizer, packed=packed)
    return student, open_task(context, run.task, writer, base, student=run.student)


@dataclass(frozen=True)
class Scorer:
    """Scores models on one task, in the precision in which students compute."""

    context: Context
    data: TaskData
    taught: Taught
    device: torch.device
    bf16: bool

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Compute in bfloat16 where students do."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def items(self, model: nn.Module, split: str) -> Any:
        """Let the model answer a split."""
        token_budget = self.context.recipe.evaluate.token_budget
        with self.precision():
            return self.data.kind.items(
                self.data, model, self.data.prepared.splits[split], device=self.device, token_budget=token_budget,
                progress=self.context.progress(f"score {split}", patience=SCORING_PATIENCE),
            )  # fmt: skip

    def metrics_on(self, model: nn.Module, split: str) -> dict[str, float]:
        """Return the task metrics of a split."""
        return self.data.kind.metrics(self.items(model, split))

    def all_metrics(self, model: nn.Module, items: Any) -> dict[str, float]:
        """Return the task metrics of the test items, and the fidelity to the teacher on the same rows.

        Fidelity needs a stored signal that gives distributions; without one it is left out.
        """
        kinds = [signal.kind for signal in self.context.recipe.signals if signal.kind in FIDELITY_SIGNALS]
        if not kinds:
            return self.data.kind.metrics(items)
        root, fingerprint = self.context.folders.cache, self.taught.facts["fingerprint"]
        examples = self.data.prepared.splits["test"][: self.context.recipe.evaluate.fidelity_rows]
        column = self.taught.column(kinds[0])
        with self.precision():
            close = fidelity(
                model,
                self.data.rows(examples),
                CachedTeacher(root, fingerprint, column, device=self.device),
                pad_id=self.data.pad_id,
                token_budget=self.context.recipe.evaluate.token_budget,
                device=self.device,
            )
        return self.data.kind.metrics(items) | close


def run_record(
    context: Context,
    run: Run,
    taught: Taught,
    options: TrainOptions | None,
    scores: Mapping[str, Any],
    parameters: int,
) -> dict[str, Any]:
    """Return what ``run.json`` says of every run; it holds no time and no path."""
    return {
        "run_id": run.run_id,
        "experiment": context.recipe.name,
        "method": run.method,
        "kind": run.kind,
        "role": run.role,
        "task": run.task,
        "student": run.student,
        "seed": run.seed,
        "trial": run.trial,
        "settings": run.settings,
        "train": options.computed() if options is not None else None,
        "metrics": scores,
        "parameters": parameters,
        "teacher_parameters": taught.facts["parameters"],
        "primary_metric": selection_metric(context.recipe.evaluate.select_by, context.recipe.tasks[run.task]),
        "files": {} if run.trial else {"items": "items.parquet"},
    }


def describe_scores(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the main scores on one line."""
    split = "test" if "test" in scores else "validation"
    shown = [f"{name} {value:.4f}" for name, value in scores[split].items() if isinstance(value, float)]
    return f"{split}: " + ", ".join(shown)
