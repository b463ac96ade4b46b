"""One record per answered question, what the records say together, and the file that holds them.

In: questions and the replies of one model. Out: ``AnswerItems``; metrics in [0, 1]; ``items.parquet``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from tutelage.data.answers import exact_match, f1, normalise_answer
from tutelage.data.reading import CONTEXT_FIELD, QUESTION_FIELD, Question
from tutelage.data.reading_rows import ReadingPrompt
from tutelage.errors import DataError
from tutelage.evaluate.answering import Reply
from tutelage.evaluate.items import read_kind, write_table

FORMAT_VERSION = 1
KIND = "answers"  # in the header: tells these items from those of a classification
GOLD_SEPARATOR = " | "  # of the column ``gold``, which is for people; ``golds`` keeps the list
COLUMNS = {
    "item_key": pa.string(),
    "cluster_key": pa.string(),
    "gold": pa.string(),
    "golds": pa.string(),
    "prediction": pa.string(),
    "score": pa.float64(),
    "exact_match": pa.float64(),
    "f1": pa.float64(),
    "confidence": pa.float64(),
    "valid": pa.bool_(),
    "cut": pa.bool_(),
    "shortened": pa.bool_(),
    "num_windows": pa.int64(),
    "text": pa.string(),
}
SCORES = ("f1", "exact_match")  # either may be what statistics compare


@dataclass(frozen=True, eq=False)
class AnswerItems:
    """The answers of one model to B questions, in the order of the evaluation set."""

    score_name: str  # which of SCORES is the item's score
    item_keys: tuple[str, ...]
    cluster_keys: tuple[str, ...]  # statistics resample clusters, not items
    golds: tuple[tuple[str, ...], ...]
    predictions: tuple[str, ...]
    exact_match_B: np.ndarray  # float64, 0 or 1: best over the gold answers
    f1_B: np.ndarray  # float64 in [0, 1]: best over the gold answers
    confidence_B: np.ndarray  # float64 in (0, 1]: geometric mean of the tokens' probabilities
    valid_B: np.ndarray  # bool: the answer has words; one that has none is wrong in both metrics
    cut_B: np.ndarray  # bool: it was not ended within the tokens that it may have
    shortened_B: np.ndarray  # bool: a part of the context was not read
    num_windows_B: np.ndarray  # int64: parts in which the context was read
    texts: tuple[str, ...]  # question and context, for the report

    def __post_init__(self) -> None:
        sizes = {field.name: len(getattr(self, field.name)) for field in fields(self)[1:]}
        if len(set(sizes.values())) != 1:
            raise DataError(f"The parts of one evaluation differ in length: {sizes}. Give each one entry per item.")
        if self.score_name not in SCORES:
            raise DataError(f"Answers have no score {self.score_name!r}; expected one of {', '.join(SCORES)}.")

    def __len__(self) -> int:
        return len(self.item_keys)

    @property
    def score_B(self) -> np.ndarray:
        """What statistics compare, float64."""
        return self.f1_B if self.score_name == "f1" else self.exact_match_B


def score_replies(
    questions: Sequence[Question], prompts: Sequence[ReadingPrompt], replies: Sequence[Reply], *, score_name: str = "f1"
) -> AnswerItems:
    """Compare replies with the gold answers of their questions; every question is in the denominator.

    Raises:
        DataError: If there are no questions, or their parts do not fit together.
    """
    if not questions or not len(questions) == len(prompts) == len(replies):
        raise DataError(
            f"Found {len(questions)} questions, {len(prompts)} prompts and {len(replies)} replies; expected as many of "
            "each, at least one. Answer the same split with the same task."
        )
    valid_B = np.array([bool(normalise_answer(reply.text)) for reply in replies])
    pairs = [(reply.text, question.golds) for question, reply in zip(questions, replies, strict=True)]
    return AnswerItems(
        score_name=score_name,
        item_keys=tuple(question.item_key for question in questions),
        cluster_keys=tuple(question.cluster_key for question in questions),
        golds=tuple(question.golds for question in questions),
        predictions=tuple(reply.text for reply in replies),
        exact_match_B=np.array([exact_match(text, golds) for text, golds in pairs]) * valid_B,
        f1_B=np.array([f1(text, golds) for text, golds in pairs]) * valid_B,
        confidence_B=np.exp([reply.mean_logprob for reply in replies]),
        valid_B=valid_B,
        cut_B=np.array([reply.is_cut for reply in replies]),
        shortened_B=np.array([prompt.is_shortened for prompt in prompts]),
        num_windows_B=np.array([len(prompt.windows) for prompt in prompts], dtype=np.int64),
        texts=tuple(f"{each.fields[QUESTION_FIELD]} | {each.fields[CONTEXT_FIELD]}" for each in questions),
    )


def answer_metrics(items: AnswerItems) -> dict[str, float]:
    """Return F1, exact match, the shares of valid, cut and shortened items, and ``n``, the number of items.

    Raises:
        DataError: If there are no items.
    """
    if not len(items):
        raise DataError("There are no items to measure: found 0, expected at least one. Check the split's rows.")
    means = {
        "f1": items.f1_B,
        "exact_match": items.exact_match_B,
        "valid_ratio": items.valid_B,
        "cut_ratio": items.cut_B,
        "shortened_ratio": items.shortened_B,
    }
    return {name: float(values_B.mean()) for name, values_B in means.items()} | {"n": len(items)}


def write_answer_items(path: Path, items: AnswerItems) -> None:
    """Write the items as Parquet, atomically; equal items give equal bytes.

    Raises:
        DiskError: If the disk is full; an old file stays.
    """
    values = {
        "item_key": items.item_keys,
        "cluster_key": items.cluster_keys,
        "gold": [GOLD_SEPARATOR.join(golds) for golds in items.golds],
        "golds": [json.dumps(golds, ensure_ascii=False) for golds in items.golds],
        "prediction": items.predictions,
        "score": items.score_B,
        "exact_match": items.exact_match_B,
        "f1": items.f1_B,
        "confidence": items.confidence_B,
        "valid": items.valid_B,
        "cut": items.cut_B,
        "shortened": items.shortened_B,
        "num_windows": items.num_windows_B,
        "text": items.texts,
    }
    columns = {name: pa.array(values[name], arrow_type) for name, arrow_type in COLUMNS.items()}
    write_table(path, columns, {"format_version": FORMAT_VERSION, "kind": KIND, "score": items.score_name})


def read_answer_items(path: Path) -> AnswerItems:
    """Read what :func:`write_answer_items` wrote.

    Raises:
        IntegrityError: If the file is missing, damaged, or holds something else.
    """
    table, header = read_kind(path, kind=KIND, version=FORMAT_VERSION, columns=COLUMNS)
    text = {name: tuple(table[name].to_pylist()) for name, kind in COLUMNS.items() if kind == pa.string()}
    column = {name: table[name].to_numpy() for name, kind in COLUMNS.items() if kind != pa.string()}
    return AnswerItems(
        score_name=header["score"],
        item_keys=text["item_key"],
        cluster_keys=text["cluster_key"],
        golds=tuple(tuple(json.loads(golds)) for golds in text["golds"]),
        predictions=text["prediction"],
        exact_match_B=column["exact_match"],
        f1_B=column["f1"],
        confidence_B=column["confidence"],
        valid_B=column["valid"],
        cut_B=column["cut"],
        shortened_B=column["shortened"],
        num_windows_B=column["num_windows"],
        texts=text["text"],
    )
