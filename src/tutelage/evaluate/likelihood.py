"""How likely a model finds the targets of rows: the sum of their log-probabilities, and how often it is right.

In: a model, or stored final hidden states and their head, and rows. Out: ``RowLikelihoods``, one entry per row.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tutelage.data.collate import batch_to, collate
from tutelage.data.plan import reading_batches
from tutelage.errors import DataError, PreemptedError
from tutelage.evaluate.choices import check_finite, chunk_rows
from tutelage.evaluate.mode import reading_mode
from tutelage.losses.precision import for_sums, no_autocast
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher.logits import head_logits
from tutelage.types import OutputHead, StudentRow


@dataclass(frozen=True, eq=False)
class RowLikelihoods:
    """One entry per row, in the order of the rows."""

    logprob_R: Float[np.ndarray, " R"]  # float64, nats: the sum over the row's targets
    num_right_R: Int[np.ndarray, " R"]  # targets that are the model's most likely token
    num_targets_R: Int[np.ndarray, " R"]


def row_likelihoods(
    model: nn.Module,
    rows: Sequence[StudentRow],
    *,
    pad_id: int,
    token_budget: int,
    device: torch.device | str,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> RowLikelihoods:
    """Score the targets of rows: ``sum_t log p(token_t | tokens before)``, over the whole vocabulary.

    The head's product is float32 even where the body runs in bfloat16; sums are float64. The mean of all is what the
    model's own cross-entropy would be, whatever the batches.

    Args:
        model: A causal language model, plain or wrapped by ``peft``; run in evaluation mode, which is put back. An
            ``autocast`` around the call applies to its body.
        rows: Each with at least one target.
        pad_id: Fills the rows of a batch; never read.
        token_budget: Padded tokens per forward pass.
        device: Where the model is.
        should_stop: Asked before every batch.
        progress: Called after every batch with rows done, of how many, and tokens per second.

    Raises:
        DataError: If there are no rows, or one has no target.
        PreemptedError: If ``should_stop`` said so: rows that were not scored would look like certain ones.
        NumericsError: If a sum is not finite; names the items.
    """
    counts = target_counts(rows)
    logprob_R, num_right_R = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
    num_done, num_tokens, began = 0, 0, time.monotonic()
    with reading_mode(model):
        head = find_head(model)
        for indices in reading_batches(lengths, token_budget=token_budget):
            if should_stop is not None and should_stop():
                raise PreemptedError("Stopped while texts were scored. Run the same command again to go on.")
            batch = batch_to(collate([rows[index] for index in indices], pad_id=pad_id), device)
            hidden_ND = final_hidden(model, batch)
            logprob_R[indices], num_right_R[indices] = sums_by_row(hidden_ND, head, batch.labels_N, counts[indices])
            num_done, num_tokens = num_done + len(indices), num_tokens + int(lengths[indices].sum())
            if progress is not None:
                progress(num_done, len(rows), num_tokens / (time.monotonic() - began))
    check_finite(logprob_R[:, None], [row.item_key for row in rows], what="log-probability")
    return RowLikelihoods(logprob_R, num_right_R, counts)


def target_counts(rows: Sequence[StudentRow]) -> Int[np.ndarray, " R"]:
    """Return how many targets each row has.

    Raises:
        DataError: If there are no rows, or one has none.
    """
    counts = np.array([int(row.target_mask.sum()) for row in rows], dtype=np.int64)
    if not len(counts) or counts.min() < 1:
        which = f"row {rows[int(counts.argmin())].item_key} has none" if len(counts) else "there are no rows"
        raise DataError(f"Every row to be scored needs a target, but {which}. Check the split's rows.")
    return counts


def sums_by_row(
    hidden_ND: Float[Tensor, "N D"], head: OutputHead, labels_N: Int[Tensor, " N"], counts_B: Int[np.ndarray, " B"]
) -> tuple[Float[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Sum log-probabilities and right tokens over each row's positions, which are adjacent; no [N, V] is ever alive."""
    with no_autocast(hidden_ND.device), torch.no_grad():
        parts = [
            _score_chunk(head_logits(hidden_cD, head), labels_c)
            for hidden_cD, labels_c in zip(
                hidden_ND.split(chunk_rows(head)), labels_N.split(chunk_rows(head)), strict=True
            )
        ]
    logprob_N = np.concatenate([logprob.cpu().numpy() for logprob, _ in parts], dtype=np.float64)
    right_N = np.concatenate([right.cpu().numpy() for _, right in parts])
    starts_B = np.cumsum(counts_B) - counts_B
    return np.add.reduceat(logprob_N, starts_B), np.add.reduceat(right_N.astype(np.int64), starts_B)


def _score_chunk(
    logits_cV: Float[Tensor, "c V"], labels_c: Int[Tensor, " c"]
) -> tuple[Float[Tensor, " c"], Bool[Tensor, " c"]]:
    """Return log-probabilities of the labels, and whether each is the most likely token."""
    label_c = for_sums(logits_cV.gather(1, labels_c[:, None])[:, 0])
    return label_c - for_sums(logits_cV.logsumexp(dim=1)), logits_cV.argmax(dim=1) == labels_c
