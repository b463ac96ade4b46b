"""The log-probability that a model gives to each of a prompt's possible answers.

In: a model and ``ChoicePrompt``s (prompt ids, the ids of each choice). Out: one score per prompt
and choice, in the order of the prompts, and the token that the model itself would have written.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.data.collate import padded_positions
from tutelage.data.plan import reading_batches
from tutelage.data.rows import ChoicePrompt
from tutelage.errors import DataError, NumericsError
from tutelage.evaluate.mode import reading_mode
from tutelage.losses.precision import no_autocast
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher.logits import head_logits
from tutelage.types import Batch, OutputHead, TeacherRow

Progress = Callable[[int, int, float], None]
CHUNK_BYTES = 64 * 2**20  # float32 logits alive at once: 340 positions at V = 49,152


@dataclass(frozen=True)
class ChoiceScores:
    """What one pass over the prompts says about their choices."""

    logprobs_BC: Float[np.ndarray, "B C"]  # float64, nats: the sum over each choice's tokens
    top1_B: Int[np.ndarray, " B"]  # the whole vocabulary's most likely first token of an answer


@dataclass(frozen=True)
class _Reading:
    """One sequence to run, and which (position, token) pairs of it belong to which score."""

    ids: np.ndarray  # int32 [T]: the prompt, then all but the last token of the choice
    prompt: int
    num_positions: int  # the last ones of ``ids``; the first of them predicts the answer's first token
    pair_position: np.ndarray  # int64 [P], 0 <= p < num_positions
    pair_token: np.ndarray  # int64 [P]
    pair_slot: np.ndarray  # int64 [P]: prompt * C + choice


def score_choices(
    model: nn.Module,
    prompts: Sequence[ChoicePrompt],
    *,
    pad_id: int,
    token_budget: int,
    device: torch.device | str,
    progress: Progress | None = None,
) -> ChoiceScores:
    """Score every choice of every prompt: ``log p(choice | prompt)``, summed over its tokens.

    Choices of one token need one forward pass of the prompt, with the head at its last position.
    Longer ones are run as prompt + choice. Choices that begin alike but for their last token
    share a pass. The softmax is over the whole vocabulary. The head's product is float32 even where the
    body runs in bfloat16, whose 8 bits would tie the choices of one item in a hundred; sums are float64.

    Args:
        model: A causal language model, plain or wrapped by ``peft``; run in evaluation mode, which is
            put back. An ``autocast`` around the call applies to its body.
        prompts: At least one token each, all with the same number of choices.
        pad_id: Fills the rows of a batch; never read.
        token_budget: Padded tokens per forward pass.
        device: Where the model is.
        progress: Called after every batch with passes done, of how many, and tokens per second.

    Raises:
        DataError: If a prompt or choice is empty, or prompts differ in their number of choices.
        NumericsError: If a score is not finite; names the items.
    """
    num_choices = _check_prompts(prompts)
    readings = [reading for index, prompt in enumerate(prompts) for reading in _readings(index, prompt)]
    scores_S = np.zeros(len(prompts) * num_choices)
    top1_B = np.zeros(len(prompts), dtype=np.int64)
    lengths = np.array([reading.ids.shape[0] for reading in readings])
    num_done, num_tokens, began = 0, 0, time.monotonic()
    with reading_mode(model):
        head = find_head(model)
        for indices in reading_batches(lengths, token_budget=token_budget):
            chosen = [readings[index] for index in indices]
            _score_batch(model, head, chosen, scores_S, top1_B, pad_id=pad_id, device=device)
            num_done, num_tokens = num_done + len(chosen), num_tokens + int(lengths[indices].sum())
            if progress is not None:
                progress(num_done, len(readings), num_tokens / (time.monotonic() - began))
    logprobs_BC = scores_S.reshape(len(prompts), num_choices)
    check_finite(logprobs_BC, [prompt.item_key for prompt in prompts], what="choice log-probability")
    return ChoiceScores(logprobs_BC, top1_B)


def check_finite(scores_BC: Float[np.ndarray, "B C"], item_keys: Sequence[str], *, what: str) -> None:
    """Refuse scores that are NaN or infinite.

    Raises:
        NumericsError: Names the first items.
    """
    bad = np.flatnonzero(~np.isfinite(scores_BC).all(axis=1))
    if bad.size:
        named = ", ".join(str(item_keys[index]) for index in bad[:5])
        raise NumericsError(
            f"The {what} of {bad.size} of {len(item_keys)} items is not finite (first: {named}). "
            "Expected finite numbers: the model's weights or its activations hold NaN or infinity; "
            "run it with dtype float32, or train it again with a lower learning rate."
        )


def _check_prompts(prompts: Sequence[ChoicePrompt]) -> int:
    if not prompts:
        raise DataError("There is nothing to score: found 0 prompts, expected at least one. Check the split's rows.")
    num_choices = len(prompts[0].choice_ids)
    for prompt in prompts:
        empty = len(prompt.prompt_ids) == 0 or any(len(ids) == 0 for ids in prompt.choice_ids)
        if empty or len(prompt.choice_ids) != num_choices or num_choices == 0:
            raise DataError(
                f"Item {prompt.item_key} has {len(prompt.prompt_ids)} prompt tokens and choices of "
                f"{[len(ids) for ids in prompt.choice_ids]} tokens; expected a prompt and {num_choices} choices of "
                "at least one token each. Check the template and the verbalisers."
            )
    return num_choices


def _readings(index: int, prompt: ChoicePrompt) -> Iterator[_Reading]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for choice, ids in enumerate(prompt.choice_ids):
        groups.setdefault(tuple(int(token) for token in ids[:-1]), []).append(choice)
    for prefix, choices in groups.items():
        num_positions = len(prefix) + 1
        tokens_GP = np.array([prompt.choice_ids[choice] for choice in choices], dtype=np.int64)
        slots_G = index * len(prompt.choice_ids) + np.array(choices, dtype=np.int64)
        yield _Reading(
            ids=np.concatenate([prompt.prompt_ids, np.array(prefix, dtype=np.int32)]).astype(np.int32),
            prompt=index,
            num_positions=num_positions,
            pair_position=np.tile(np.arange(num_positions), len(choices)),
            pair_token=tokens_GP.reshape(-1),
            pair_slot=np.repeat(slots_G, num_positions),
        )


def _score_batch(
    model: nn.Module,
    head: OutputHead,
    readings: Sequence[_Reading],
    scores_S: Float[np.ndarray, " S"],
    top1_B: Int[np.ndarray, " B"],
    *,
    pad_id: int,
    device: torch.device | str,
) -> None:
    hidden_ND = final_hidden(model, _batch(readings, pad_id=pad_id, device=device))
    counts = np.array([reading.num_positions for reading in readings])
    starts = np.cumsum(counts) - counts
    pair_position_P = np.concatenate([r.pair_position + start for r, start in zip(readings, starts, strict=True)])
    pair_token_P = np.concatenate([r.pair_token for r in readings])
    pair_slot_P = np.concatenate([r.pair_slot for r in readings])
    with no_autocast(hidden_ND.device):
        values_P, top_N = _read_pairs(hidden_ND, head, pair_position_P, pair_token_P)
    np.add.at(scores_S, pair_slot_P, values_P)
    # Every pass over a prompt sees the same first position; the batches are in one fixed order.
    top1_B[[reading.prompt for reading in readings]] = top_N[starts]


def _read_pairs(
    hidden_ND: Float[Tensor, "N D"],
    head: OutputHead,
    pair_position_P: Int[np.ndarray, " P"],
    pair_token_P: Int[np.ndarray, " P"],
) -> tuple[Float[np.ndarray, " P"], Int[np.ndarray, " N"]]:
    num_positions, chunk = hidden_ND.shape[0], chunk_rows(head)
    values_P = np.empty(len(pair_position_P))
    top_N = np.empty(num_positions, dtype=np.int64)
    for start in range(0, num_positions, chunk):
        logprobs_CV = torch.log_softmax(head_logits(hidden_ND[start : start + chunk], head), dim=-1)
        stop = start + logprobs_CV.shape[0]
        top_N[start:stop] = logprobs_CV.argmax(dim=-1).cpu().numpy()
        inside = np.flatnonzero((pair_position_P >= start) & (pair_position_P < stop))
        rows = torch.from_numpy(pair_position_P[inside] - start).to(logprobs_CV.device)
        tokens = torch.from_numpy(pair_token_P[inside]).to(logprobs_CV.device)
        values_P[inside] = logprobs_CV[rows, tokens].cpu().numpy()
    return values_P, top_N


def chunk_rows(head: OutputHead) -> int:
    """Return how many positions may have their float32 logits alive at once."""
    return max(1, CHUNK_BYTES // (4 * head.weight_VD.shape[0]))


def _batch(readings: Sequence[_Reading], *, pad_id: int, device: torch.device | str) -> Batch:
    """Lay sequences out right-padded, with the head at the last ``num_positions`` of each."""
    width = max(reading.ids.shape[0] for reading in readings)
    ids_BT = np.full((len(readings), width), pad_id, dtype=np.int64)
    real_BT = np.zeros((len(readings), width), dtype=np.int64)
    positions = []
    for row, reading in enumerate(readings):
        length = reading.ids.shape[0]
        ids_BT[row, :length] = reading.ids
        real_BT[row, :length] = 1
        positions.append(np.arange(length - reading.num_positions, length))
    flat_N = np.concatenate([position + row * width for row, position in enumerate(positions)])
    labels_N = np.concatenate([reading.pair_token[: reading.num_positions] for reading in readings])
    return Batch(
        input_ids=torch.from_numpy(ids_BT).to(device),
        position_ids=torch.from_numpy(padded_positions(real_BT.sum(axis=1))).to(device),
        attention_mask=torch.from_numpy(real_BT).to(device),
        logit_index_N=torch.from_numpy(flat_N).to(device),
        labels_N=torch.from_numpy(labels_N).to(device),
        teacher_rows=[TeacherRow(reading.ids, own) for reading, own in zip(readings, positions, strict=True)],
        item_keys=[str(reading.prompt) for reading in readings],
        num_tokens=int(real_BT.sum()),
    )
