"""Answers that a model writes to questions about a context: greedy, in batches, the best of several windows.

In: a model and ``ReadingPrompt``s. Out: one ``Reply`` per prompt, in their order.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor

from tutelage.cache.sequences import Answer
from tutelage.data.plan import reading_batches
from tutelage.data.reading_rows import ReadingPrompt
from tutelage.errors import NumericsError, PreemptedError
from tutelage.models.chat import Stops, find_stops
from tutelage.models.generate import Decoding, generate_batch

LINE_END = "\n"  # an answer stands on one line; what follows is another question or an explanation
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Reply:
    """What a model wrote, without blanks around it."""

    text: str
    mean_logprob: float  # nats per written token, the end of turn included
    is_cut: bool  # it took all the tokens that it may have, and no end was among them
    window: int = 0  # the part of the context that it was read from
    num_windows: int = 1


@dataclass
class GreedyLogprobs(LogitsProcessor):
    """Keep the log-probability of the largest logit at every step: that of the token which greedy decoding takes."""

    steps: list[Tensor] = field(default_factory=list)  # float32 [B] each

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Return the logits as they are."""
        self.steps.append(scores.amax(dim=-1) - scores.logsumexp(dim=-1))
        return scores

    def means(self, answers: Sequence[Answer]) -> list[float]:
        """Average each row's values over the tokens of its answer; over the first step where it has none."""
        logprobs_BL = torch.stack(self.steps, dim=1).double().cpu().numpy()
        return [float(own[: max(1, len(answer.ids))].mean()) for own, answer in zip(logprobs_BL, answers, strict=True)]


def answer_stops(tokenizer: Any, model: nn.Module, *, end_of_turn_id: int) -> Stops:
    """Return what ends an answer: the end tokens of the model, the one that rows are trained with, or a line's end."""
    ids = {*find_stops(tokenizer, model, chat=False).ids, end_of_turn_id}
    return Stops(tuple(sorted(ids)), (LINE_END,))


def answer_prompts(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[ReadingPrompt],
    *,
    stops: Stops,
    max_answer_length: int,
    token_budget: int,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Reply]:
    """Let a model answer every prompt; of several windows the answer with the highest mean log-probability counts.

    An answer with words always wins over one without; of equal ones the first window's counts.

    Args:
        model: A causal language model on its device, plain or with an adapter; in evaluation mode meanwhile. An
            ``autocast`` around the call applies.
        tokenizer: The model's own.
        prompts: What to answer.
        stops: What ends an answer, from :func:`answer_stops`.
        max_answer_length: Tokens to write at most.
        token_budget: Padded tokens of a batch, answers at full length: it bounds the KV cache.
        progress: Called after every batch with windows done, of how many, and written tokens per second.
        should_stop: Asked before every batch.

    Raises:
        PreemptedError: If ``should_stop`` said so.
        NumericsError: If the logits of an answer are not finite; names the items.
    """
    places = [(number, window) for number, prompt in enumerate(prompts) for window in range(len(prompt.windows))]
    ids = [prompts[number].windows[window] for number, window in places]
    decoding = Decoding(stops, max_new_tokens=max_answer_length)
    groups = reading_batches([len(each) + decoding.max_new_tokens for each in ids], token_budget=token_budget)
    replies: list[list[Reply]] = [[] for _ in prompts]
    num_done = num_tokens = 0
    began = time.monotonic()
    for group in reversed(groups):  # longest first: memory
        if should_stop is not None and should_stop():
            raise PreemptedError("Stopped while answers were generated. Run the same command again to go on.")
        observer = GreedyLogprobs()
        answers = generate_batch(
            model, tokenizer, [ids[place] for place in group], decoding=decoding, observer=observer
        )
        means = observer.means(answers)
        _check_finite([prompts[places[place][0]].item_key for place in group], means)
        for place, answer, mean in zip(group, answers, means, strict=True):
            number, window = places[place]
            is_cut, num_windows = answer.finish == "length", len(prompts[number].windows)
            replies[number].append(Reply(answer.text.strip(), mean, is_cut, window, num_windows))
        num_done += len(group)
        num_tokens += sum(len(answer.ids) for answer in answers)
        if progress is not None:
            progress(num_done, len(ids), num_tokens / (time.monotonic() - began))
    return [max(own, key=_rank) for own in replies]


def _rank(reply: Reply) -> tuple[bool, float, int]:
    return bool(reply.text), reply.mean_logprob, -reply.window


def _check_finite(item_keys: Sequence[str], means: Sequence[float]) -> None:
    bad = [key for key, mean in zip(item_keys, means, strict=True) if not np.isfinite(mean)]
    if bad:
        raise NumericsError(
            f"The log-probability of {len(bad)} generated answers is not finite (first: {', '.join(bad[:5])}). "
            "Expected finite numbers: the model's weights or its activations hold NaN or infinity; run it with dtype "
            "float32, or train it again with a lower learning rate."
        )
