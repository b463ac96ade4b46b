"""One record per text or conversation, what the records say together, and the file that holds them.

In: rows of items with their likelihoods. Out: ``TextItems``; metrics; ``items.parquet``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tutelage.data.text_rows import item_key_of
from tutelage.data.texts import TextItem
from tutelage.errors import DataError
from tutelage.evaluate.items import read_kind, write_table
from tutelage.evaluate.likelihood import RowLikelihoods
from tutelage.evaluate.own_answers import OwnAnswer
from tutelage.types import StudentRow

FORMAT_VERSION = 2
KIND = "texts"  # in the header: tells these items from those of other tasks
COLUMNS = {
    "item_key": pa.string(),
    "cluster_key": pa.string(),
    "gold": pa.string(),
    "prediction": pa.string(),
    "score": pa.float64(),
    "token_accuracy": pa.float64(),
    "token_probability": pa.float64(),
    "logprob_nats": pa.float64(),
    "num_targets": pa.int64(),
    "num_right": pa.int64(),
    "num_bytes": pa.int64(),
    "text": pa.string(),
    "answered": pa.bool_(),  # whether the model was asked for its own answer; the following are empty where it was not
    "answer": pa.string(),
    "answer_gold": pa.string(),
    "answer_ended": pa.bool_(),
    "answer_run_on": pa.bool_(),
    "answer_tokens": pa.int64(),
    "answer_f1": pa.float64(),
}
NOT_ASKED = OwnAnswer("", "", has_ended=False, runs_on=False, num_tokens=0)
MAX_EXPONENT = 700.0  # the exponential of more is no float
SCORES = ("token_accuracy", "token_probability")  # either may be what statistics compare; larger is better


@dataclass(frozen=True, eq=False)
class TextItems:
    """What one model makes of B items, in the order of the evaluation set."""

    score_name: str  # which of SCORES is the item's score
    item_keys: tuple[str, ...]
    cluster_keys: tuple[str, ...]  # statistics resample clusters, not items
    logprob_B: np.ndarray  # float64, nats: the sum over the item's targets
    num_targets_B: np.ndarray  # int64
    num_right_B: np.ndarray  # int64: targets that are the model's most likely token
    num_bytes_B: np.ndarray  # int64: of the targets' text in UTF-8
    texts: tuple[str, ...]
    answers: tuple[OwnAnswer | None, ...] = ()  # what the model writes itself; None where it was not asked

    def __post_init__(self) -> None:
        if not self.answers:
            object.__setattr__(self, "answers", (None,) * len(self.item_keys))
        sizes = {field.name: len(getattr(self, field.name)) for field in fields(self)[1:]}
        if len(set(sizes.values())) != 1:
            raise DataError(f"The parts of one evaluation differ in length: {sizes}. Give each one entry per item.")
        if self.score_name not in SCORES:
            raise DataError(f"Texts have no score {self.score_name!r}; expected one of {', '.join(SCORES)}.")

    def __len__(self) -> int:
        return len(self.item_keys)

    @property
    def token_accuracy_B(self) -> np.ndarray:
        """Share of the item's targets that are the model's most likely token."""
        return self.num_right_B / self.num_targets_B

    @property
    def token_probability_B(self) -> np.ndarray:
        """Geometric mean of the probabilities of the item's targets: ``exp(logprob / targets)``, in (0, 1]."""
        return np.exp(self.logprob_B / self.num_targets_B)

    @property
    def score_B(self) -> np.ndarray:
        """What statistics compare, float64 in [0, 1]."""
        return self.token_accuracy_B if self.score_name == "token_accuracy" else self.token_probability_B


def text_items(
    items: Sequence[TextItem],
    rows: Sequence[StudentRow],
    found: RowLikelihoods,
    row_bytes: Sequence[int],
    *,
    score_name: str = SCORES[0],
    answers: Mapping[str, OwnAnswer] | None = None,
) -> TextItems:
    """Gather the rows of each item; an item of which no row was made is left out, for every model alike.

    Args:
        items: Of one split.
        rows: Made of them, in their order; several of a long text.
        found: What a model makes of the rows.
        row_bytes: Bytes of the targets' text, per row.
        score_name: One of ``SCORES``.
        answers: What the model wrote itself, by item key.

    Raises:
        DataError: If a row belongs to none of the items.
    """
    place = {item.item_key: index for index, item in enumerate(items)}
    strange = [row.item_key for row in rows if item_key_of(row.item_key) not in place]
    if strange:
        raise DataError(f"Row {strange[0]} belongs to none of the {len(items)} items. Score the rows of these items.")
    index_R = np.array([place[item_key_of(row.item_key)] for row in rows], dtype=np.int64)
    kept = np.unique(index_R)

    def summed(values_R: np.ndarray) -> np.ndarray:
        total = np.zeros(len(items), dtype=values_R.dtype)
        np.add.at(total, index_R, values_R)
        return total[kept]

    own = [items[index] for index in kept]
    return TextItems(
        score_name=score_name,
        item_keys=tuple(item.item_key for item in own),
        cluster_keys=tuple(item.cluster_key for item in own),
        logprob_B=summed(found.logprob_R),
        num_targets_B=summed(found.num_targets_R),
        num_right_B=summed(found.num_right_R),
        num_bytes_B=summed(np.array(row_bytes, dtype=np.int64)),
        texts=tuple(item.text for item in own),
        answers=tuple((answers or {}).get(item.item_key) for item in own),
    )


def text_metrics(items: TextItems) -> dict[str, float]:
    """Return the items' mean scores, and over all their tokens together the other figures.

    ``token_accuracy`` and ``token_probability`` are means over items; ``nll`` is nats per token, ``perplexity`` its
    exponential, ``bits_per_byte`` the same sum per byte of text, which compares across tokenizers; ``n`` items. Of the
    answers that the model wrote itself: the shares that are empty, have ended and run on into a next turn, the mean F1
    with the gold answer, mean tokens and their number.

    Raises:
        DataError: If there are no items.
    """
    if not len(items):
        raise DataError("There are no items to measure: found 0, expected at least one. Check the split's rows.")
    nats = -float(items.logprob_B.sum())
    nll = nats / int(items.num_targets_B.sum())
    return {
        "token_accuracy": float(items.token_accuracy_B.mean()),
        "token_probability": float(items.token_probability_B.mean()),
        "nll": nll,
        "perplexity": math.exp(min(nll, MAX_EXPONENT)),
        "bits_per_byte": nats / math.log(2) / max(1, int(items.num_bytes_B.sum())),
        "n": len(items),
    } | _answer_metrics([answer for answer in items.answers if answer is not None])


def _answer_metrics(answers: Sequence[OwnAnswer]) -> dict[str, float]:
    if not answers:
        return {}
    means = {
        "answers_empty": [answer.is_empty for answer in answers],
        "answers_ended": [answer.has_ended for answer in answers],
        "answers_run_on": [answer.runs_on for answer in answers],
        "answer_f1": [answer.f1 for answer in answers],
        "answer_tokens": [answer.num_tokens for answer in answers],
    }
    return {name: float(np.mean(values)) for name, values in means.items()} | {"answers_n": len(answers)}


def write_text_items(path: Path, items: TextItems) -> None:
    """Write the items as Parquet, atomically; equal items give equal bytes.

    Raises:
        DiskError: If the disk is full; an old file stays.
    """
    nll_B = -items.logprob_B / items.num_targets_B
    answers = [answer or NOT_ASKED for answer in items.answers]
    shown = zip(items.num_right_B.tolist(), nll_B.tolist(), strict=True)
    values = {
        "item_key": items.item_keys,
        "cluster_key": items.cluster_keys,
        "gold": [f"{count} tokens" for count in items.num_targets_B.tolist()],
        "prediction": [f"{right} right, {nll:.3f} nats per token" for right, nll in shown],
        "score": items.score_B,
        "token_accuracy": items.token_accuracy_B,
        "token_probability": items.token_probability_B,
        "logprob_nats": items.logprob_B,
        "num_targets": items.num_targets_B,
        "num_right": items.num_right_B,
        "num_bytes": items.num_bytes_B,
        "text": items.texts,
        "answered": [answer is not None for answer in items.answers],
        "answer": [answer.text for answer in answers],
        "answer_gold": [answer.gold for answer in answers],
        "answer_ended": [answer.has_ended for answer in answers],
        "answer_run_on": [answer.runs_on for answer in answers],
        "answer_tokens": [answer.num_tokens for answer in answers],
        "answer_f1": [answer.f1 for answer in answers],
    }
    columns = {name: pa.array(values[name], arrow_type) for name, arrow_type in COLUMNS.items()}
    write_table(path, columns, {"format_version": FORMAT_VERSION, "kind": KIND, "score": items.score_name})


def read_text_items(path: Path) -> TextItems:
    """Read what :func:`write_text_items` wrote.

    Raises:
        IntegrityError: If the file is missing, damaged, or holds something else.
    """
    table, header = read_kind(path, kind=KIND, version=FORMAT_VERSION, columns=COLUMNS)
    return TextItems(
        score_name=header["score"],
        item_keys=tuple(table["item_key"].to_pylist()),
        cluster_keys=tuple(table["cluster_key"].to_pylist()),
        logprob_B=table["logprob_nats"].to_numpy(),
        num_targets_B=table["num_targets"].to_numpy(),
        num_right_B=table["num_right"].to_numpy(),
        num_bytes_B=table["num_bytes"].to_numpy(),
        texts=tuple(table["text"].to_pylist()),
        answers=tuple(_answer(row) for row in table.select(list(COLUMNS)[-7:]).to_pylist()),
    )


def _answer(row: dict[str, Any]) -> OwnAnswer | None:
    if not row["answered"]:
        return None
    return OwnAnswer(row["answer"], row["answer_gold"], row["answer_ended"], row["answer_run_on"], row["answer_tokens"])
