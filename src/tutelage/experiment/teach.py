"""The stage ``teach``: one pass of the teacher over all rows; its labels and its own scores come with it.

In: the prepared rows, the teacher, the recipe's signals. Out: shards in the cache, and ``teach/<task>/`` with the
teacher's own answers (class scores or texts) and what a reader needs to find the cache again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.errors import CapabilityError
from tutelage.experiment.graph import Node, known
from tutelage.experiment.origin import Origin, taught_source
from tutelage.experiment.stage import Context, Target, stage_artifact
from tutelage.experiment.task_kinds import limits, taught_part
from tutelage.experiment.writer import writer_part
from tutelage.store import Manifest, read_manifest, write_json

NUM_ADAPT_ROWS = 200  # enough to see a train/held-out gap of 5 points; scored in the same pass
TAUGHT_SPLITS = ("train", "validation", "test")
TRAINED_SPLITS = ("train", "adapt")  # whose rows may be chosen by their answers
FACTS_FILE = "teach.json"


@dataclass(frozen=True)
class Taught:
    """What the stage left behind: how to find the cache, and what the teacher answered."""

    folder: Path

    @property
    def facts(self) -> dict[str, Any]:
        """Fingerprint, columns, counts."""
        return read_facts(self.folder)

    def column(self, kind: str, temperatures: Sequence[float] = (1.0,)) -> Any:
        """Return the column that this stage stored for a signal of the recipe.

        The cache is shared: another experiment may have put other draws or another number format beside it.

        Args:
            kind: Of the signal.
            temperatures: At which it will be read; those that were not stored are refused on reading.

        Raises:
            CapabilityError: If nothing of that kind was stored, as with class scores of labels of several tokens.
        """
        from tutelage.cache import SampledColumn, TopKColumn

        own = [column for column in signal_columns_of(self.facts) if column.kind == kind]
        if not own:
            held = ", ".join(sorted({spec["kind"] for spec in self.facts["columns"]})) or "nothing"
            raise CapabilityError(
                f"The teach stage stored {held}, not {kind}. Class scores need labels of one token each: change the "
                "verbalisers, or let the method read another signal."
            )
        if isinstance(own[0], TopKColumn):
            return replace(own[0], temperatures=tuple(temperatures))
        drawn = [each for each in own if isinstance(each, SampledColumn) and each.temperature in temperatures]
        return (drawn or own)[0]

    def columns_by_layer(self, kind: str) -> dict[int, Any]:
        """Return the columns of hidden or pooled states that this stage stored, by layer."""
        return {column.layer: column for column in signal_columns_of(self.facts) if column.kind == kind}

    def class_scores(self, split: str) -> np.ndarray:
        """Return the teacher's log-probability of each label, float64 [B, C], in the order of the split."""
        return np.load(self.folder / f"scores_{split}.npy", allow_pickle=False)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read what a finished stage recorded: fingerprint, columns, counts."""
    return json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))


def signal_columns_of(facts: Mapping[str, Any]) -> list[Any]:
    """Return the columns that the stage filled in the teacher's one pass."""
    from tutelage.cache import column_from_spec

    return [column_from_spec(spec) for spec in facts["columns"]]


def sequences_column_of(facts: Mapping[str, Any]) -> Any | None:
    """Return the column of the teacher's written answers, if it was asked for any."""
    from tutelage.cache import column_from_spec

    return column_from_spec(facts["sequences"]["column"]) if "sequences" in facts else None


def teach_node(context: Context, task_name: str, prepared: Node, origin: Origin) -> Node:
    """Return the stage that runs the teacher over a task's rows; its key holds the rows, the teacher, the signals.

    Args:
        context: The run.
        task_name: A key of ``tasks``.
        prepared: The task's rows.
        origin: The teacher that teaches.
    """
    recipe = context.recipe
    signals = [signal.model_dump(mode="json") for signal in recipe.signals]
    return Node(
        context,
        "teach",
        name=lambda: task_name,
        needs=(prepared, *origin.needs),
        part=lambda: {
            "signals": signals,
            "dtype": recipe.teacher.dtype,
            "device": recipe.teacher.device,
            **({"licence": recipe.teacher.licence} if recipe.teacher.licence is not None else {}),
            **limits(recipe.tasks[task_name]),
            **taught_part(context, task_name),
            **writer_part(context),
        },
        reads=lambda: known({"prepared": prepared.digest(), "teacher": origin.digest()}),
        place=lambda key: context.folders.stage("teach", task_name, key),
        make=lambda target: _make(context, task_name, target),
        note=", ".join(signal.kind for signal in recipe.signals),
        gone=lambda manifest: first_lost(context, manifest),
        mend=lambda: delete_damaged_shards(context, task_name),
    )


def delete_damaged_shards(context: Context, task_name: str) -> list[Path]:
    """Delete what is damaged in the cache of a finished stage, so that the stage makes it again."""
    from tutelage.cache import verify_cache
    from tutelage.cache.repair import delete_shards

    if ("teach", task_name) not in context.found:
        return []
    root, fingerprint = context.folders.cache, taught_of(context, task_name).facts["fingerprint"]
    return delete_shards(root, fingerprint, verify_cache(root, fingerprint))


def taught_of(context: Context, task_name: str) -> Taught:
    """Return what the finished stage left behind for a task, compared with its manifest."""
    return Taught(context.input("teach", task_name))


def _make(context: Context, task_name: str, target: Target) -> None:
    from tutelage.build import teacher_compute
    from tutelage.data import sample_rows_text
    from tutelage.experiment.checklist import show_checklist
    from tutelage.experiment.layers import check_layers
    from tutelage.experiment.task_data import open_task
    from tutelage.experiment.writer import row_writer, students_can_read
    from tutelage.models.load import load_model

    check_layers(context)
    source = taught_source(context)
    device, dtype = teacher_compute(context.recipe.teacher)
    writer = row_writer(context)
    model = load_model(source, dtype=dtype, device=device, read_only=True, num_ids=writer.num_ids)
    data = open_task(context, task_name, writer, model)
    show_checklist(context, source.name, model, writer.tokenizer)
    lesson = Lesson(source, model, data, splits_to_teach(data.prepared.splits), device, dtype)
    made = {
        name: data.make_rows(examples, what=name, for_training=name in TRAINED_SPLITS)
        for name, examples in lesson.splits.items()
    }
    rows = {name: each.rows for name, each in made.items()}
    students_can_read(context, writer, data, [row for made in rows.values() for row in made])
    for text in sample_rows_text(rows["train"], writer.tokenizer):
        context.show(f"  row: {text}")
    facts, seconds = _teach(context, lesson, rows)
    facts["shortened"] = {name: each.num_shortened for name, each in made.items()}
    facts["left_out"] = {name: dict(each.left_out) for name, each in made.items() if each.left_out}
    fields = {"shards": shards_of(context, facts), "read": read_by_runs(facts)}
    with stage_artifact(context, target, seconds={"teach": seconds}, fields=fields) as temporary:
        facts |= data.kind.save_teacher_answers(context, lesson, rows, facts["fingerprint"], temporary) or {}
        write_json(temporary / FACTS_FILE, facts)


def read_by_runs(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what runs may read, for their keys: kind, temperature of draws, digest."""
    columns = [(column, facts["digests"][column.name]) for column in signal_columns_of(facts)]
    read = [
        {
            "kind": column.kind,
            "name": column.name,
            "temperature": getattr(column, "temperature", None),
            "digest": digest,
        }
        for column, digest in columns
    ]
    if "sequences" in facts:
        digest = facts["sequences"]["digest"]
        read.append({"kind": "sequences", "name": "sequences", "temperature": None, "digest": digest})
    return read


def shards_of(context: Context, facts: Mapping[str, Any]) -> list[str]:
    """List the cache's folders that can answer for what was taught, by their path inside the cache."""
    from tutelage.cache.layout import head_folder, shard_folders
    from tutelage.cache.read import serving_folders

    root, fingerprint = context.folders.cache, facts["fingerprint"]
    columns = [*signal_columns_of(facts), sequences_column_of(facts)]
    shards = {
        shard
        for column in columns
        if column is not None
        for folder in serving_folders(root, fingerprint, column)
        for shard in shard_folders(folder)
    }
    heads = [head_folder(root, fingerprint)] if any(spec["kind"] == "final_hidden" for spec in facts["columns"]) else []
    return sorted(path.relative_to(root).as_posix() for path in [*shards, *heads])


def first_lost(context: Context, manifest: Manifest) -> str | None:
    """Name a folder of the cache that was there when the stage was committed and is not any more.

    The names lie beside the content, not in it: how rows are cut into shards depends on who else filled the cache.
    """
    named = manifest.fields.get("shards", ())
    return next((name for name in named if read_manifest(context.folders.cache / name) is None), None)


def splits_to_teach(splits: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the splits that the teacher reads; of the adaptation rows only enough to see a gap."""
    taught = {name: splits[name] for name in TAUGHT_SPLITS}
    return {**taught, "adapt": splits["adapt"][:NUM_ADAPT_ROWS]} if splits["adapt"] else taught


@dataclass(frozen=True)
class Lesson:
    """A loaded teacher and what it is to read."""

    source: Any
    model: Any
    data: Any
    splits: dict[str, list[Any]]
    device: Any
    dtype: Any

    @property
    def class_ids(self) -> list[int] | None:
        """One token id per label, or None when there are no such labels."""
        return self.data.kind.class_ids(self.data)

    def provenance(self, context: Context) -> dict[str, Any]:
        """Return where teacher and rows come from, licences included."""
        prepared = self.data.prepared
        return {
            "teacher": self.source.name,
            "teacher_licence": context.recipe.teacher.licence or self.source.licence,
            "data": prepared.info["source"],
            "data_licence": prepared.info["licence"],
            "template": prepared.task.template,
        }


def _teach(context: Context, lesson: Lesson, rows: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], float]:
    from tutelage.build import signal_columns
    from tutelage.data import teacher_row
    from tutelage.experiment.sequences import sequence_facts
    from tutelage.models.device import describe_device, identity_of
    from tutelage.models.export import count_parameters
    from tutelage.models.fingerprint import source_fingerprint
    from tutelage.models.padding import padding_of
    from tutelage.teacher import teach
    from tutelage.train.signals import stop_signals

    source, compute = lesson.source, describe_device(lesson.device, lesson.dtype)
    columns = signal_columns(lesson.model, context.recipe.signals, class_token_ids=lesson.class_ids)
    padding = padding_of(lesson.model)
    read = {} if padding is None else {"num_ids": padding.num_ids}  # of a padded vocabulary; the head is kept so wide
    fingerprint = source_fingerprint(source, dtype=lesson.dtype, extra=identity_of(compute) | read)
    with stop_signals() as stop:
        report = teach(
            lesson.model,
            [teacher_row(row) for made in rows.values() for row in made],
            columns=columns,
            root=context.folders.cache,
            fingerprint=fingerprint,
            token_budget=context.recipe.evaluate.token_budget,
            progress=context.progress("teach"),
            provenance=lesson.provenance(context),
            should_stop=stop.answer,
        )
        generated = sequence_facts(context, lesson, fingerprint, should_stop=stop.answer)
    context.show(
        f"teach {source.name}: {report.computed:,} rows computed, {report.reused:,} reused, "
        f"{report.tokens_per_second:,.0f} tokens/s, {report.bytes / 2**20:.1f} MiB"
    )
    masses = {name: {f"{t:g}": mass for t, mass in by_t.items()} for name, by_t in report.covered_mass.items()}
    facts = {
        "fingerprint": fingerprint,
        "teacher": source.name,
        "licence": context.recipe.teacher.licence or source.licence,
        "parameters": count_parameters(lesson.model),
        "columns": [column.spec for column in columns],
        "digests": report.digests,
        "num_rows": report.num_rows,
        "num_positions": report.num_positions,
        "num_tokens": sum(len(row.ids) for made in rows.values() for row in made),
        "bytes_per_position": report.bytes_per_position,
        "stored_positions": report.stored_positions,
        "covered_mass": masses,
        "compute": compute,
    }
    return facts | generated, report.seconds
