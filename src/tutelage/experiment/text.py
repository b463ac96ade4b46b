"""Texts and conversations in the stages: nothing is answered, the tokens that stand there are scored.

In: a ``TaskData`` with text items, a model or what the teach stage stored. Out: rows, ``TextItems``, the teacher's own.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tutelage.cache import CacheReader, FinalHiddenColumn, read_head
from tutelage.data import (
    PreparedTask,
    Rows,
    TextItem,
    TextTask,
    Turn,
    TurnTokens,
    WrittenAnswer,
    conversation_rows,
    document_rows,
    plain_turns,
    teacher_row,
)
from tutelage.data.text_rows import item_key_of
from tutelage.errors import AlignmentError, CapabilityError, DataError
from tutelage.evaluate import (
    OwnAnswer,
    RowLikelihoods,
    TextItems,
    own_answers,
    read_text_items,
    row_likelihoods,
    sums_by_row,
    target_counts,
    text_items,
    text_metrics,
    write_text_items,
)
from tutelage.experiment.stage import Context
from tutelage.experiment.task_data import TaskData
from tutelage.experiment.teach import Lesson, Taught
from tutelage.models.supervised_turns import supervised_turns
from tutelage.models.template import takes_reasoning, takes_tools
from tutelage.train.signals import stop_signals
from tutelage.types import StudentRow

REFUSED, UNPROVEN = "refused_by_template", "turns_not_proven"  # why a conversation becomes no row
MAX_UNPROVEN_SHARE = 0.05  # of the conversations; beyond it the template is at fault, not a few odd rows
NO_ANSWERS = "A text task has no answers apart from its texts, so there are no {what}. Use baseline or logit methods."
CACHED_ROWS = 64  # whose hidden states are read at a time


class TextKind:
    """See ``TaskKind``."""

    def check(self, data: TaskData) -> None:
        """Refuse what the template of this tokenizer cannot write.

        Raises:
            DataError: Where `template: chat` finds none, or one without a place for reasoning or tools that are there.
            ModelError: If the template takes too much time or memory.
        """
        where = f"tasks.{data.prepared.task.name}.template"
        if task_of(data.prepared).template == "chat" and not data.tokenizer.chat_template:
            raise DataError(
                f"{where} is `chat`, but the tokenizer has no chat template. Write `plain` or `auto`, or use a model "
                "that has one."
            )
        items = [item for items in data.prepared.splits.values() for item in items]
        chat, tokenizer = writes_chat(data), data.tokenizer
        lost = []
        if any(turn.reasoning for item in items for turn in item.turns) and not (chat and takes_reasoning(tokenizer)):
            lost.append("`reasoning_content`")
        if any(item.tools for item in items) and not (chat and takes_tools(tokenizer)):
            lost.append("`tools`")
        if lost:
            used = "the tokenizer's chat template has" if chat else "the plain template has"
            raise DataError(
                f"{where}: the conversations have {' and '.join(lost)}, and {used} no place for them. Use a model "
                "whose template has one, or remove them from the data."
            )

    def rows(self, data: TaskData, examples: Sequence[TextItem], *, for_training: bool) -> Rows:
        """Return the rows of documents and conversations, in the order of the items."""
        documents = [item for item in examples if item.is_document]
        conversations = [item for item in examples if not item.is_document]
        end_token: Any = data.tokenizer.eos_token_id
        end_of_text_id = data.end_of_turn_id if end_token is None else int(end_token)
        made = (
            document_rows(data.tokenizer, documents, max_length=data.max_length, end_of_text_id=end_of_text_id),
            _conversation_rows(data, conversations),
        )
        return _joined(examples, *made)

    def written_rows(self, data: TaskData, examples: Sequence[TextItem], answers: Sequence[WrittenAnswer]) -> Rows:
        """Refuse: a teacher's texts are not asked for.

        Raises:
            CapabilityError: Always.
        """
        raise CapabilityError(NO_ANSWERS.format(what="answers of a teacher to learn"))

    def items(
        self,
        data: TaskData,
        model: nn.Module,
        examples: Sequence[TextItem],
        *,
        device: torch.device,
        token_budget: int,
        should_stop: Callable[[], bool] | None = None,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> TextItems:
        """Score every target of a split by the model's log-probability; of the test split its own answers too."""
        rows = data.rows(examples)
        found = row_likelihoods(
            model, rows, pad_id=data.pad_id, token_budget=token_budget, device=device, should_stop=should_stop,
            progress=progress,
        )  # fmt: skip
        answers = _own_answers(data, model, examples, rows, token_budget=token_budget, should_stop=should_stop)
        return _items(data, examples, rows, found, answers)

    def metrics(self, items: TextItems) -> dict[str, float]:
        """Return token accuracy and probability, negative log-likelihood, perplexity and bits per byte."""
        return text_metrics(items)

    def write_items(self, path: Path, items: TextItems) -> None:
        """Write ``items.parquet``."""
        write_text_items(path, items)

    def class_ids(self, data: TaskData) -> None:
        """Return None: there are no classes."""

    def save_teacher_answers(
        self, context: Context, lesson: Lesson, rows: Mapping[str, Sequence[StudentRow]], fingerprint: str, folder: Path
    ) -> None:
        """Write ``likelihoods_<split>.parquet``: what the teacher makes of the held-out rows.

        From the final hidden states that its pass has just stored; live where the recipe does not store them.

        Raises:
            PreemptedError: If a signal asked to stop.
        """
        column = stored_hidden_column(context, fingerprint, lesson)
        with stop_signals() as stop:
            for name in [split for split in ("validation", "test", "adapt") if lesson.splits.get(split)]:
                if column is not None:
                    found = cached_likelihoods(context.folders.cache, fingerprint, column, rows[name])
                    answers = _own_answers(
                        lesson.data,
                        lesson.model,
                        lesson.splits[name],
                        rows[name],
                        token_budget=context.recipe.evaluate.token_budget,
                        should_stop=stop.answer,
                    )
                    items = _items(lesson.data, lesson.splits[name], rows[name], found, answers)
                else:
                    items = self.items(
                        lesson.data,
                        lesson.model,
                        lesson.splits[name],
                        device=lesson.device,
                        token_budget=context.recipe.evaluate.token_budget,
                        should_stop=stop.answer,
                    )
                write_text_items(likelihoods_file(folder, name), items)

    def teacher_items(self, prepared: PreparedTask, taught: Taught, split: str, *, metric: str) -> TextItems:
        """Return what the teacher makes of a split, as it was stored."""
        return replace(read_text_items(likelihoods_file(taught.folder, split)), score_name=metric)

    def pseudo_rows(self, data: TaskData, taught: Taught, examples: Sequence[TextItem]) -> Rows:
        """Refuse: there are no answers apart from the texts.

        Raises:
            CapabilityError: Always.
        """
        raise CapabilityError(NO_ANSWERS.format(what="pseudo-labels"))

    def sequence_golds(self, task: Any, examples: Sequence[TextItem]) -> dict[str, Any]:
        """Refuse: there are no answers apart from the texts.

        Raises:
            CapabilityError: Always.
        """
        raise CapabilityError(NO_ANSWERS.format(what="answers of a teacher to judge"))


def task_of(prepared: PreparedTask) -> TextTask:
    """Return the task, which is one of texts."""
    assert isinstance(prepared.task, TextTask), "a task's kind is that of its section"
    return prepared.task


def likelihoods_file(folder: Path, split: str) -> Path:
    """Return where the teacher's own items on a split are."""
    return folder / f"likelihoods_{split}.parquet"


def cached_likelihoods(
    root: Path, fingerprint: str, column: FinalHiddenColumn, rows: Sequence[StudentRow]
) -> RowLikelihoods:
    """Score rows from the teacher's stored final hidden states, through its stored head."""
    counts = target_counts(rows)
    reader, head = CacheReader(root, fingerprint, column), read_head(root, fingerprint)
    logprobs, num_right = [], []
    for start in range(0, len(rows), CACHED_ROWS):
        chunk = rows[start : start + CACHED_ROWS]
        asked = [teacher_row(row) for row in chunk]
        hidden_NE = reader.read([row.key for row in asked], [row.positions for row in asked])["hidden_NE"]
        labels_N = torch.from_numpy(np.concatenate([row.ids[row.target_mask] for row in chunk]).astype(np.int64))
        sums = sums_by_row(hidden_NE, head, labels_N, counts[start : start + CACHED_ROWS])
        logprobs.append(sums[0])
        num_right.append(sums[1])
    return RowLikelihoods(np.concatenate(logprobs), np.concatenate(num_right), counts)


def stored_hidden_column(context: Context, fingerprint: str, lesson: Lesson) -> FinalHiddenColumn | None:
    """Return the column of final hidden states that the stage has just filled, if the recipe stores them."""
    from tutelage.build import signal_columns

    columns = signal_columns(lesson.model, context.recipe.signals, class_token_ids=lesson.class_ids)
    return next((column for column in columns if isinstance(column, FinalHiddenColumn)), None)


def _conversation_rows(data: TaskData, conversations: Sequence[TextItem]) -> Rows:
    """Write conversations as the task's template says; one that the chat template cannot write is left out and counted.

    Raises:
        AlignmentError: If the assistant's tokens cannot be proven in more than a few of them.
        DataError: If the template refuses all.
    """
    end, tokenizer = data.end_of_turn_id, data.tokenizer
    if not writes_chat(data):
        tokens = [plain_turns(tokenizer, item.turns, end_of_turn_id=end) for item in conversations]
        return conversation_rows(conversations, tokens, max_length=data.max_length)
    kept, tokens = [], []
    refused: dict[str, list[Exception]] = {REFUSED: [], UNPROVEN: []}
    for item in conversations:
        try:
            ids, spans = supervised_turns(
                tokenizer,
                [chat_message(turn) for turn in item.turns],
                end_of_turn_id=end,
                learnt=[turn.is_learnt for turn in item.turns],
                tools=json.loads(item.tools) if item.tools else None,
                date=data.date,
            )
        except DataError as error:
            refused[REFUSED].append(error)
        except AlignmentError as error:
            refused[UNPROVEN].append(error)
        else:
            kept.append(item)
            tokens.append(TurnTokens(np.asarray(ids, dtype=np.int32), tuple(spans)))
    errors = [*refused[UNPROVEN], *refused[REFUSED]]
    if len(refused[UNPROVEN]) > MAX_UNPROVEN_SHARE * len(conversations) or (errors and not kept):
        raise errors[0]
    left_out = Counter({reason: len(found) for reason, found in refused.items() if found})
    return conversation_rows(kept, tokens, max_length=data.max_length, left_out=left_out)


def chat_message(turn: Turn) -> dict[str, Any]:
    """Return a turn as a chat template reads it."""
    thought = {"reasoning_content": turn.reasoning} if turn.reasoning else {}
    return {"role": turn.role, "content": turn.content, **thought}


def writes_chat(data: TaskData) -> bool:
    """Return whether conversations are written with the tokenizer's own template."""
    return task_of(data.prepared).template != "plain" and bool(data.tokenizer.chat_template)


def _own_answers(
    data: TaskData, model: nn.Module, examples: Sequence[TextItem], rows: Sequence[StudentRow], **options: Any
) -> dict[str, OwnAnswer]:
    """Let a model answer some conversations of the test split by itself; other splits are asked nothing."""
    test = data.prepared.splits["test"]
    number = data.context.recipe.evaluate.generated_rows
    if not number or not examples or examples[0].item_key != test[0].item_key:
        return {}
    talks = {item.item_key for item in examples if not item.is_document}
    chosen = [row for row in rows if row.item_key in talks][:number]
    return own_answers(
        model, data.tokenizer, chosen, end_of_turn_id=data.end_of_turn_id, chat=writes_chat(data), **options
    )


def _joined(examples: Sequence[TextItem], documents: Rows, conversations: Rows) -> Rows:
    """Put the rows of both kinds into the order of the items.

    Raises:
        DataError: If there is not a single row.
    """
    left_out = dict(Counter(documents.left_out) + Counter(conversations.left_out))
    if not documents.rows or not conversations.rows:
        rows = [*documents.rows, *conversations.rows]
    else:
        place = {item.item_key: index for index, item in enumerate(examples)}
        rows = sorted([*documents.rows, *conversations.rows], key=lambda row: place[item_key_of(row.item_key)])
    if examples and not rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"None of {len(examples):,} texts has a token to learn within `max_length` ({reasons}). Raise "
            "`max_length`, or check what the assistant says in them."
        )
    shortened = documents.num_shortened + conversations.num_shortened
    return Rows(rows, shortened, left_out, num_split=documents.num_split)


def _items(
    data: TaskData,
    examples: Sequence[TextItem],
    rows: Sequence[StudentRow],
    found: RowLikelihoods,
    answers: Mapping[str, OwnAnswer],
) -> TextItems:
    reader: Any = data.tokenizer
    decoded = reader.batch_decode(
        [row.ids[row.target_mask].tolist() for row in rows],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    row_bytes = [len(text.encode()) for text in decoded]
    return text_items(examples, rows, found, row_bytes, score_name=data.metric, answers=answers)
