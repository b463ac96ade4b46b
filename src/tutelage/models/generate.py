"""Answers written by a model: batched, with a KV cache, greedy or sampled, each with the reason why it ended.

In: prompt ids and ``Decoding``. Out: one ``Answer`` per prompt.

A greedy or sampled answer is a function of its prompt, its sample number and the decoding, as far as arithmetic
allows: rows of a batch do not see each other, and every row draws from its own random numbers. In float32 a batch
and a row alone differ by rounding (about 1e-6 of a logit), which almost never changes a choice. In bfloat16 other
matrix shapes move a logit by up to 1 %: where two tokens are that close, another batch may choose the other one, and
the answers part from there on. Equal batches give equal answers.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from tutelage.cache.sequences import Answer
from tutelage.errors import AlignmentError, CapabilityError
from tutelage.models.batching import Steps, writes_in_batches
from tutelage.models.chat import Stops
from tutelage.models.head import plain_model
from tutelage.models.load import quiet
from tutelage.types import row_key

DEFAULT_NEW_TOKENS = 64
FILL_ID = 0  # any valid id: masked before a prompt, cut off behind an answer


@dataclass(frozen=True)
class Decoding:
    """How answers are chosen and where they end. Nothing of the model's own generation defaults applies.

    Greedy decoding has one sample and no random numbers; its ``temperature``, ``top_p`` and ``seed`` are put to 1, 1
    and 0, so that equal answers have equal settings.
    """

    stops: Stops
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    num_samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_samples < 1 or not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise CapabilityError(
                f"Cannot decode with max_new_tokens = {self.max_new_tokens}, num_samples = {self.num_samples}, "
                f"temperature = {self.temperature}, top_p = {self.top_p}. Expected at least 1, at least 1, above 0, "
                "and above 0 up to 1."
            )
        if not self.do_sample:
            if self.num_samples > 1:
                raise CapabilityError(
                    f"Greedy decoding writes one answer, but num_samples = {self.num_samples}. Set `do_sample: true`, "
                    "or ask for one sample."
                )
            for name, neutral in (("temperature", 1.0), ("top_p", 1.0), ("seed", 0)):
                object.__setattr__(self, name, neutral)


@torch.no_grad()
def generate_batch(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    decoding: Decoding,
    samples: Sequence[int] | None = None,
    observer: LogitsProcessor | None = None,
) -> list[Answer]:
    """Write one answer per prompt, all in one batch; one by one where the model cannot keep rows of a batch apart.

    Args:
        model: A causal language model on its device, plain or with an adapter; in evaluation mode meanwhile.
        tokenizer: The model's own; it turns ids into text.
        prompts: Ids of each prompt, at least one id; padded on the left.
        decoding: Settings.
        samples: Which sample of its prompt each row is, from 0; it enters the row's random numbers. Default all 0.
        observer: Shown the model's own logits [B, V] at every step; it returns them as they are.

    Raises:
        AlignmentError: If a prompt is empty, or prompt and answer exceed the positions that the model was made for.
    """
    if len(prompts) > 1:
        with evaluating(model), quiet():
            is_batched = writes_in_batches(model)
        if not is_batched:
            return _one_by_one(model, tokenizer, prompts, decoding=decoding, samples=samples, observer=observer)
    inner: Any = plain_model(model)  # `generate` reaches the type checker through __getattr__
    _check_lengths(inner, prompts, decoding.max_new_tokens)
    ids_BT, mask_BT = left_padded(prompts, device=inner.device)
    strings = StopStrings(tokenizer, decoding.stops, width=ids_BT.shape[1])
    draws = _drawing(decoding, prompts, samples or [0] * len(prompts))
    watched = LogitsProcessorList([*([observer] if observer is not None else []), *draws])
    with evaluating(model), plain_defaults(inner), quiet():
        written = inner.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,  # position ids follow from it: 0 at a row's first real token
            generation_config=GenerationConfig(
                max_new_tokens=decoding.max_new_tokens,
                do_sample=False,  # a sampled answer is the greedy one under the row's own noise
                eos_token_id=list(decoding.stops.ids) or None,
                pad_token_id=FILL_ID,
                use_cache=True,
            ),
            logits_processor=watched,
            stopping_criteria=StoppingCriteriaList([strings] if decoding.stops.strings else []),
        )
    new_BL = written[:, ids_BT.shape[1] :].cpu().numpy().astype(np.int32)
    return [_answer(tokenizer, row, decoding, strings.ended.get(number)) for number, row in enumerate(new_BL)]


def _one_by_one(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    decoding: Decoding,
    samples: Sequence[int] | None,
    observer: LogitsProcessor | None,
) -> list[Answer]:
    """Write every prompt alone, and show the observer each step of all rows as a batch would have."""
    answers, scores = [], []
    for number, prompt in enumerate(prompts):
        steps = Steps()
        own_samples = None if samples is None else [samples[number]]
        answers += generate_batch(
            model, tokenizer, [prompt], decoding=decoding, samples=own_samples, observer=steps if observer else None
        )
        scores.append(steps.scores)
    if observer is not None:
        no_ids_BT = torch.zeros((len(prompts), 0), dtype=torch.int64)
        for step in range(max(map(len, scores))):  # a row that ended goes on with its last step, as in a batch
            observer(no_ids_BT, torch.cat([own[min(step, len(own) - 1)] for own in scores]))  # type: ignore[arg-type]
    return answers


def left_padded(
    prompts: Sequence[np.ndarray], *, device: torch.device
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Lay prompts out with padding on the left, so that every answer begins in the same column; ids and mask."""
    width = max(len(prompt) for prompt in prompts)
    ids_BT = np.full((len(prompts), width), FILL_ID, dtype=np.int64)
    mask_BT = np.zeros((len(prompts), width), dtype=np.int64)
    for number, prompt in enumerate(prompts):
        ids_BT[number, width - len(prompt) :] = prompt
        mask_BT[number, width - len(prompt) :] = 1
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device)


class SeededNoise(LogitsProcessor):
    """Add Gumbel noise to the log-probabilities, so that the largest entry is a draw from them.

    Every row has its own stream of random numbers, so a row's noise does not depend on the rows beside it. And a
    slightly moved distribution mostly draws the same token, which an inverted cumulative sum does not.

    The streams are drawn on the CPU, so they are equal on every device: 0.3 to 1 ms per row and token at
    V = 49,152. Raw bits, which numpy keeps equal over its versions; 32 of them are fine enough where it matters, at
    the small exponentials that win.

    Source:
        Gumbel-max: Maddison et al. 2014, arXiv:1411.0030, section 2. Stable raw bits: NEP 19.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.streams = [np.random.PCG64(seed) for seed in seeds]
        self.bits_BV = np.empty((0, 0), dtype=np.float32)  # kept: fresh pages for it cost more than the numbers

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Return ``scores`` plus noise; -inf stays -inf."""
        if self.bits_BV.shape != scores.shape:
            self.bits_BV = np.empty(scores.shape, dtype=np.float32)
        num_words = -(-scores.shape[1] // 2)
        for own_bits_V, stream in zip(self.bits_BV, self.streams, strict=True):
            own_bits_V[:] = stream.random_raw(num_words).astype("<u8").view("<u4")[: scores.shape[1]]
        uniform_BV = torch.from_numpy(self.bits_BV).to(scores.device)
        uniform_BV.add_(0.5).mul_(2.0**-32).clamp_(max=1 - 2.0**-24)  # never 0 and never 1
        exponential_BV = uniform_BV.neg_().log1p_().neg_()
        return scores - exponential_BV.log_()  # -log of an exponential is a standard Gumbel


class StopStrings(StoppingCriteria):
    """End a row once its answer holds a stop string, and remember after how many ids that was."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Stops, *, width: int) -> None:
        self.tokenizer, self.stops, self.width = tokenizer, stops, width
        self.ended: dict[int, int] = {}

    def __call__(
        self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"] | None, **_: Any
    ) -> Bool[Tensor, " B"]:
        """Say of each row whether it has ended at a string."""
        for number, ids in enumerate(input_ids[:, self.width :].cpu().numpy()):
            if number in self.ended or np.isin(ids, self.stops.ids).any():
                continue
            text = decoded(self.tokenizer, ids)
            if any(string in text for string in self.stops.strings):
                self.ended[number] = len(ids)
        return torch.tensor([number in self.ended for number in range(len(input_ids))], device=input_ids.device)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> str:
    """Turn ids into text as they are: special tokens shown, blanks untouched."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def row_seed(prompt: np.ndarray, sample: int, seed: int) -> int:
    """Derive the seed of one row from its prompt's ids, its sample number and the run's seed: 63 bits."""
    digest = hashlib.blake2b(row_key(prompt), digest_size=8, key=f"{seed}/{sample}".encode())
    return int.from_bytes(digest.digest(), "little") >> 1


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def plain_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Set the model's own generation config aside: transformers fills every unset value from it.

    Some ship a repetition penalty or a bigram ban, under which "greedy" answers are no greedy answers.
    """
    own: Any = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _drawing(decoding: Decoding, prompts: Sequence[np.ndarray], samples: Sequence[int]) -> LogitsProcessorList:
    if not decoding.do_sample:
        return LogitsProcessorList()
    seeds = [row_seed(prompt, sample, decoding.seed) for prompt, sample in zip(prompts, samples, strict=True)]
    steps: list[Any] = [TemperatureLogitsWarper(decoding.temperature)] if decoding.temperature != 1.0 else []
    if decoding.top_p < 1.0:
        steps.append(TopPLogitsWarper(decoding.top_p))
    return LogitsProcessorList([*steps, SeededNoise(seeds)])


def _check_lengths(model: PreTrainedModel, prompts: Sequence[np.ndarray], max_new_tokens: int) -> None:
    longest = max(map(len, prompts), default=0)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if min(map(len, prompts), default=0) == 0:
        raise AlignmentError("Nothing can be generated from no prompt, or from one without ids. Give it some words.")
    if limit is not None and longest + max_new_tokens > limit:
        raise AlignmentError(
            f"A prompt of {longest} ids and {max_new_tokens} new tokens exceed the {limit} positions that this model "
            "was made for. Shorten the prompt (`max_length`) or lower `max_new_tokens`."
        )


def _answer(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, decoding: Decoding, ended: int | None) -> Answer:
    """Cut what was filled in behind the end of one row, and say how it ended."""
    ends = np.flatnonzero(np.isin(ids, decoding.stops.ids))
    if ended is not None:
        return _before_string(tokenizer, ids[:ended], decoding.stops.strings)
    if ends.size:
        ids = ids[: ends[0] + 1]
        return Answer(ids, decoded(tokenizer, ids[:-1]), "stop")
    assert ids.size == decoding.max_new_tokens, (ids.size, decoding.max_new_tokens)
    return Answer(ids, decoded(tokenizer, ids), "length")


def _before_string(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, strings: Sequence[str]) -> Answer:
    """Keep the text before the first stop string, and the ids that lie before it as a whole."""
    text = decoded(tokenizer, ids)
    text = text[: min(text.find(string) for string in strings if string in text)]
    kept = len(ids)
    while kept and not text.startswith(decoded(tokenizer, ids[:kept])):
        kept -= 1
    return Answer(ids[:kept].copy(), text, "stop")
