"""The teacher's answers: written once per prompt, committed shard by shard, and turned into rows to learn from.

In: the teacher, prompts as ``TeacherRow``s, a ``SequencesColumn``. Out: committed shards; answers; rows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from tutelage.align import logit_indices
from tutelage.cache.column import TensorDict
from tutelage.cache.layout import teacher_folder
from tutelage.cache.read import CacheReader
from tutelage.cache.sequences import Answer, SequencesColumn, pack_answers, unpack_answers
from tutelage.cache.write import ShardWriter
from tutelage.data.plan import reading_batches
from tutelage.data.prompts import opening_ids, plain_ids
from tutelage.models.chat import Message, Stops, chat_ids, template_digest
from tutelage.models.generate import Decoding, generate_batch
from tutelage.models.head import find_head
from tutelage.store import folder_bytes, require_free_space, sweep_temporaries
from tutelage.teacher.claims import Claims
from tutelage.teacher.figures import rows_digest
from tutelage.teacher.passes import PartsByKey, Progress, keep_by_row
from tutelage.teacher.plan import ShardJob, check_rows, merge_rows, plan_jobs
from tutelage.teacher.teach import fill_shards, num_input_ids, open_stored
from tutelage.types import StudentRow, TeacherRow, row_key

PROMPT_POSITION = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True)
class SequenceReport:
    """What generating did and what it cost."""

    num_prompts: int  # distinct prompts asked for
    computed: int  # prompts that were answered now
    reused: int
    num_tokens: int  # ids written now
    seconds: float
    tokens_per_second: float  # written ids per second, prompts not counted; 0 when all was reused
    bytes: int  # of the whole column on disk
    digest: str  # of what a reader gets for these prompts
    repaired: tuple[str, ...] = ()  # folders that were damaged and were made anew


def prompt_row(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], *, template: str = "auto"
) -> TeacherRow:
    """Tokenise one prompt; its row's key addresses the answers.

    Args:
        tokenizer: The teacher's own.
        prompt: Words, or messages. Words become one user turn where a chat template is used.
        template: ``auto`` uses the tokenizer's chat template where there is one, ``chat`` insists on it, ``raw``
            takes the words as they are.

    Raises:
        ModelError: If a chat template is needed and there is none.
        DataError: If the template refuses the messages.
    """
    if uses_chat(tokenizer, template) or not isinstance(prompt, str):
        return row_of_prompt(chat_ids(tokenizer, prompt))
    return row_of_prompt(np.concatenate([opening_ids(tokenizer), plain_ids(tokenizer, prompt)]))


def row_of_prompt(ids: np.ndarray) -> TeacherRow:
    """Address a prompt by its ids."""
    return TeacherRow(np.asarray(ids, dtype=np.int32), PROMPT_POSITION)


def uses_chat(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Say whether words are wrapped as a chat turn; see :func:`prompt_row`."""
    return template == "chat" or (template == "auto" and bool(tokenizer.chat_template))


def sequences_column(
    model: nn.Module, decoding: Decoding, *, tokenizer: PreTrainedTokenizerBase | None
) -> SequencesColumn:
    """Describe the answers of this teacher under these settings.

    Args:
        model: The teacher.
        decoding: Settings.
        tokenizer: The one whose chat template makes the prompts; None for raw prompts.
    """
    return SequencesColumn(
        vocab_size=find_head(model).weight_VD.shape[0],
        max_new_tokens=decoding.max_new_tokens,
        num_samples=decoding.num_samples,
        do_sample=decoding.do_sample,
        temperature=float(decoding.temperature),
        top_p=float(decoding.top_p),
        seed=decoding.seed,
        stop_ids=decoding.stops.ids,
        stop_strings=decoding.stops.strings,
        template=template_digest(tokenizer),
    )


def decoding_of(column: SequencesColumn) -> Decoding:
    """Return the settings that a column stands for."""
    return Decoding(
        stops=Stops(column.stop_ids, column.stop_strings),
        max_new_tokens=column.max_new_tokens,
        do_sample=column.do_sample,
        temperature=column.temperature,
        top_p=column.top_p,
        num_samples=column.num_samples,
        seed=column.seed,
    )


def generate_sequences(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TeacherRow],
    *,
    column: SequencesColumn,
    root: Path,
    fingerprint: str,
    shard_rows: int = 256,
    token_budget: int = 8192,
    progress: Progress | None = None,
    provenance: dict[str, Any] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SequenceReport:
    """Write and store the teacher's answers to every prompt, as far as they are not stored yet.

    Prompts are ordered by key and cut into shards; each is generated, then committed while the next one is generated.
    A kill loses at most these two, and the same prompts, column, ``shard_rows`` and ``token_budget`` give the same
    :func:`tutelage.cache.cache_digest`. Committed rows are read and checked first; a damaged shard is made anew.
    Several processes may work on one cache with the same call, as for :func:`tutelage.teacher.teach`.

    Args:
        model: The teacher, on its device.
        tokenizer: The teacher's own.
        prompts: From :func:`prompt_row`; equal ones are answered once.
        column: From :func:`sequences_column`.
        root: The cache's root folder.
        fingerprint: Identity of weights, config, adapter, dtype and compute settings.
        shard_rows: Prompts per shard: the unit of work that a kill can lose.
        token_budget: Padded tokens of a batch, answers at full length: it bounds the KV cache.
        progress: Called after every batch.
        provenance: JSON values for every manifest; in no digest.
        should_stop: Asked before every shard.

    Raises:
        PreemptedError: If ``should_stop`` said so; what was committed stays.
        DiskError: If the forecast does not fit on the disk, or the disk fills up.
        AlignmentError: If a prompt is empty, too long, or has ids that the teacher does not know.
    """
    prompts = [row_of_prompt(row.ids) for row in prompts]
    check_rows(prompts, num_ids=num_input_ids(model))
    began = time.monotonic()
    origin = {**(provenance or {}), "fingerprint": fingerprint}
    claims = Claims(root, fingerprint)
    with claims.planning(should_stop):
        sweep_temporaries(teacher_folder(root, fingerprint))
        stored, repaired = open_stored(root, fingerprint, [column])
        jobs = plan_jobs(prompts, [column], stored, shard_rows=shard_rows)
        writer = ShardWriter(root, fingerprint, column, provenance=origin)
        require_free_space(root, sum(job.forecast_bytes for job in jobs))
    num_to_compute = sum(len(job.rows) for job in jobs if job.open_columns)
    scribe = Scribe(model, tokenizer, column, token_budget, progress, num_to_compute)
    fill_shards(jobs, scribe.compute, {column: writer}, claims, should_stop)
    num_prompts = len(merge_rows(prompts))
    return SequenceReport(
        num_prompts=num_prompts,
        computed=scribe.num_done,
        reused=num_prompts - scribe.num_done,
        num_tokens=scribe.num_tokens,
        seconds=time.monotonic() - began,
        tokens_per_second=scribe.tokens_per_second,
        bytes=folder_bytes(writer.folder),
        digest=rows_digest(prompts, column, root, fingerprint),
        repaired=tuple(str(path.relative_to(root)) for path in repaired),
    )


class Scribe:
    """A teacher that answers prompts in length-sorted batches, with its running counts.

    It stands where ``TeacherPass`` stands in the teach stage: both compute a planned shard.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        column: SequencesColumn,
        token_budget: int,
        progress: Progress | None = None,
        num_to_compute: int = 0,
    ) -> None:
        self.model, self.tokenizer, self.column = model, tokenizer, column
        self.token_budget, self.progress, self.num_to_compute = token_budget, progress, num_to_compute
        self.num_done = self.num_tokens = 0
        self.seconds = 0.0

    def compute(self, job: ShardJob) -> PartsByKey:
        """Generate one shard: the column's tensors, row by row."""
        rows = job.wanted[self.column]
        by_key: dict[bytes, TensorDict] = {}
        keep_by_row(by_key, rows, pack_answers(self.answers([row.ids for row in rows])))
        return {self.column: by_key}

    def answers(self, prompts: Sequence[np.ndarray]) -> list[list[Answer]]:
        """Answer prompts, each with all of its samples; the order is kept."""
        num_samples = self.column.num_samples
        found: list[Answer | None] = [None] * (len(prompts) * num_samples)
        lengths = np.repeat([len(ids) + self.column.max_new_tokens for ids in prompts], num_samples)
        before, num_written = self.num_done, 0
        for group in reversed(reading_batches(lengths, token_budget=self.token_budget)):  # longest first: memory
            for place, answer in zip(group, self._batch(prompts, group), strict=True):
                found[place] = answer
            num_written += len(group)
            self.num_done = before + num_written // num_samples
            if self.progress is not None:
                self.progress(self.num_done, self.num_to_compute, self.tokens_per_second)
        written = [answer for answer in found if answer is not None]
        assert len(written) == len(found), "every prompt was in one batch"
        return [written[start : start + num_samples] for start in range(0, len(written), num_samples)]

    def _batch(self, prompts: Sequence[np.ndarray], group: Sequence[int]) -> list[Answer]:
        began = time.monotonic()
        numbers = [divmod(place, self.column.num_samples) for place in group]
        answers = generate_batch(
            self.model,
            self.tokenizer,
            [prompts[prompt] for prompt, _ in numbers],
            decoding=decoding_of(self.column),
            samples=[sample for _, sample in numbers],
        )
        self.num_tokens += sum(len(answer.ids) for answer in answers)
        self.seconds += time.monotonic() - began
        return answers

    @property
    def tokens_per_second(self) -> float:
        """Written ids per second; 0 before the first."""
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0


def read_sequences(
    root: Path, fingerprint: str, column: SequencesColumn, prompts: Sequence[TeacherRow]
) -> list[list[Answer]]:
    """Read the answers to prompts, in their order: per prompt its samples.

    Raises:
        CacheError: If a prompt has no stored answers, or they are damaged.
    """
    reader = CacheReader(root, fingerprint, column)
    return unpack_answers(reader.read([row.key for row in prompts], [PROMPT_POSITION] * len(prompts)))


def sequence_rows(
    prompts: Sequence[TeacherRow],
    answers: Sequence[Sequence[Answer]],
    *,
    column: SequencesColumn,
    item_keys: Sequence[str],
    end_of_turn_id: int,
) -> list[StudentRow]:
    """Turn answers into rows to learn from: prompt ids, answer ids, end token; the last two are the targets.

    An answer that ended at a stop string gets the end token that it lacks, so that a student learns to end there.
    One that was cut at the limit gets none: it has not ended.

    Args:
        prompts: What was answered.
        answers: Per prompt its samples.
        column: What they were read from; it knows the end tokens.
        item_keys: One per prompt; several samples are told apart by ``#0``, ``#1``, ...
        end_of_turn_id: The token that ends an answer.
    """
    rows = []
    for prompt, samples, item_key in zip(prompts, answers, item_keys, strict=True):
        for number, answer in enumerate(samples):
            name = f"{item_key}#{number}" if len(samples) > 1 else item_key
            has_end = answer.finish == "length" or bool(np.isin(answer.ids[-1:], column.stop_ids).any())
            end = [] if has_end else [end_of_turn_id]
            ids = np.concatenate([prompt.ids, answer.ids, end]).astype(np.int32)
            rows.append(StudentRow(name, ids, np.arange(len(ids)) >= len(prompt.ids), row_key(ids)))
    return rows


def teacher_rows(rows: Sequence[StudentRow]) -> list[TeacherRow]:
    """Return the same rows as the teacher reads them, with the positions that predict their targets."""
    return [TeacherRow(row.ids, logit_indices(row.target_mask), row.teacher_key) for row in rows]
