"""What the code assumes about a model, proven on that model when it is loaded.

In: a model and its tokenizer. Out: a checklist with the figure behind every line.
Six forwards of at most 12 tokens: 0.7 s in bfloat16 and 2 s in float32 for 135 M parameters on one busy core.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tutelage.align import num_token_ids
from tutelage.errors import ModelError
from tutelage.models.batching import writes_in_batches
from tutelage.models.device import dtype_name
from tutelage.models.folder import one_line
from tutelage.models.head import final_hidden, find_head, plain_model
from tutelage.models.taps import compare_taps
from tutelage.types import Batch, OutputHead

# Largest difference over largest logit. Head: the same product, but a scale or softcap is rounded
# to the model's dtype there and not here (bfloat16: 2**-8 = 0.4 % per rounding, 0.44 % seen on Gemma).
HEAD_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 1.6e-2}
# Rows: other matrix shapes sum in another order through all layers (SmolLM2-135M: 1.3e-6 in float32,
# 1.2 % in bfloat16; documents that do read each other: 79 %).
ROW_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1.5e-2, torch.bfloat16: 6e-2}
NOT_FINITE = "the model's own logits are not finite"  # no trait of an architecture
LONG, SHORT = 7, 5  # tokens of the two probe documents: unequal, so that one is padded

# What a forward raises when a layout is not supported by an architecture.
FORWARD_ERRORS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError, ModelError)


@dataclass(frozen=True)
class ProbeResult:
    """One line of the checklist; ``detail`` holds the figure and what was allowed.

    What is not ``required`` is proven again, as a condition, by those who need it.
    """

    name: str
    passed: bool
    detail: str
    required: bool = True


def prove_model(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase | None, *, packed: bool = False
) -> list[ProbeResult]:
    """Check head, packing, padding and vocabulary of a model; nothing is raised, the caller decides.

    Logits are compared at the largest difference over the largest logit, in the model's dtype:

    * ``head``: ``find_head`` on ``final_hidden`` equals ``model(...).logits``.
    * ``packed``: a document packed behind another one equals the document alone. Only packed training needs it.
    * ``isolated``: other words in the first document change no bit of the second one, and of a mixture of experts no
      more than rounding. Only packed training needs it.
    * ``padded``: a row padded on the right equals the row alone, and padding stays finite.
    * ``layers``: hidden states by layer number equal the model's own to the bit. Only signals of hidden states need it.
    * ``written``: prompts answered together get the logits of each alone; where not, they are answered one by one.
    * ``vocabulary``: every id of the tokenizer has an embedding and a logit; what else the head holds is padding. Where
      not, rows are refused that use such ids.

    Args:
        model: Plain or wrapped by ``peft``; run in evaluation mode, put back after.
        tokenizer: None leaves the vocabulary out.
        packed: Whether rows will be packed, which makes ``packed`` and ``isolated`` required.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            results = _forward_probes(model, packed=packed)
    finally:
        model.train(was_training)
    return results + ([_vocabulary(model, tokenizer)] if tokenizer is not None else [])


def _forward_probes(model: nn.Module, *, packed: bool) -> list[ProbeResult]:
    try:
        probe = _Probe(model)
    except FORWARD_ERRORS as error:
        return [ProbeResult("head", False, f"the model cannot be run alone: {one_line(error)}")]
    checks = {
        "head": (probe.head, True),
        "packed": (probe.packed, packed),
        "isolated": (probe.isolated, packed),
        "padded": (probe.padded, True),
        "layers": (probe.layers, False),
        "written": (probe.written, False),
    }
    return [replace(_run(name, check), required=required) for name, (check, required) in checks.items()]


def _run(name: str, check: Callable[[], tuple[bool, str]]) -> ProbeResult:
    try:
        return ProbeResult(name, *check())
    except FORWARD_ERRORS as error:
        return ProbeResult(name, False, f"not supported by this model: {one_line(error)}")


class _Probe:
    """Two documents, the model's own logits for each, and the comparisons."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.output_head: OutputHead = find_head(model)
        weight_VD = self.output_head.weight_VD
        self.dtype, self.device = weight_VD.dtype, weight_VD.device
        ids = _probe_ids(weight_VD.shape[0], 2 * LONG + SHORT).to(self.device)
        self.long_T, self.other_T, self.short_T = ids[:LONG], ids[LONG : 2 * LONG], ids[2 * LONG :]
        self.expected_TV = self._own_logits(self.short_T)
        self._packed: Tensor | None = None

    def head(self) -> tuple[bool, str]:
        """Compare final hidden state plus ``OutputHead`` with the model's own logits."""
        found_TV = self._logits(_padded([self.short_T]))
        return self._compare(found_TV, self.expected_TV, HEAD_TOLERANCES[self.dtype])

    def packed(self) -> tuple[bool, str]:
        """Compare a document behind another one with the document alone."""
        self._packed = self._logits(_packed([self.long_T, self.short_T]))[LONG:]
        return self._compare(self._packed, self.expected_TV, ROW_TOLERANCES[self.dtype])

    def isolated(self) -> tuple[bool, str]:
        """Change the first document's words: shapes stay, so the second one's logits must not move by a bit.

        Experts sum in another order when other tokens are routed to them (OLMoE, Mixtral, Qwen3-MoE: 1e-6 in float32).
        """
        if self._packed is None:
            return False, "packed rows did not run"
        moved_TV = self._logits(_packed([self.other_T, self.short_T]))[LONG:]
        moved = float((moved_TV - self._packed).abs().max())
        has_experts = bool(getattr(plain_model(self.model).config.get_text_config(), "num_experts_per_tok", None))
        allowed = HEAD_TOLERANCES[self.dtype] * float(self.expected_TV.abs().max()) if has_experts else 0.0
        return moved <= allowed, f"moved by {moved:.1e} when the document in front changed, allowed {allowed:.1g}"

    def padded(self) -> tuple[bool, str]:
        """Compare a row padded on the right with the row alone."""
        logits_RV = self._logits(_padded([self.long_T, self.short_T]))
        if not bool(torch.isfinite(logits_RV).all()):
            return False, "logits at padding are not finite, and would poison gradients"
        return self._compare(logits_RV[LONG : LONG + SHORT], self.expected_TV, ROW_TOLERANCES[self.dtype])

    def layers(self) -> tuple[bool, str]:
        """Compare the hidden states after every layer with ``output_hidden_states=True``."""
        problem = compare_taps(self.model, _padded([self.long_T, self.short_T]))
        return problem is None, problem or "0 is the embeddings' output, n that of layer n before the final norm"

    def written(self) -> tuple[bool, str]:
        """Compare what is written for two prompts together with what is written for each alone."""
        if writes_in_batches(self.model):
            return True, "prompts that are answered together get the logits that each gets alone"
        return False, "a batch changes what it writes, so answers are written one by one (slower)"

    def _own_logits(self, ids_T: Int[Tensor, " T"]) -> Float[Tensor, "T V"]:
        output = plain_model(self.model)(input_ids=ids_T[None], use_cache=False, return_dict=True)
        return output.logits[0].float()

    def _logits(self, batch: Batch) -> Float[Tensor, "N V"]:
        return self.output_head.logits(final_hidden(self.model, batch))

    def _compare(
        self, found_TV: Float[Tensor, "T V"], expected_TV: Float[Tensor, "T V"], tolerance: float
    ) -> tuple[bool, str]:
        largest = float(expected_TV.abs().max())
        difference = float((found_TV - expected_TV).abs().max()) / max(largest, torch.finfo(torch.float32).tiny)
        detail = (
            f"differs by {difference:.1e} of the largest logit, allowed {tolerance:.1e} in {dtype_name(self.dtype)}"
        )
        if not math.isfinite(largest):
            detail = f"{NOT_FINITE} in {dtype_name(self.dtype)}"
        return difference <= tolerance, detail  # a NaN is not <= anything


def _probe_ids(vocab_size: int, count: int) -> Int[Tensor, " T"]:
    """Spread ids over the vocabulary, the same ones every time."""
    return torch.randint(0, vocab_size, (count,), generator=torch.Generator().manual_seed(0))


def _padded(documents: list[Tensor]) -> Batch:
    longest = max(len(ids_T) for ids_T in documents)
    ids_BT = torch.stack([nn.functional.pad(ids_T, (0, longest - len(ids_T))) for ids_T in documents])
    mask_BT = torch.stack([torch.arange(longest, device=ids_BT.device) < len(ids_T) for ids_T in documents])
    position_BT = torch.arange(longest, device=ids_BT.device).expand_as(ids_BT)
    return _batch(ids_BT, position_BT, mask_BT.long())


def _packed(documents: list[Tensor]) -> Batch:
    ids_BT = torch.cat(documents)[None]
    position_BT = torch.cat([torch.arange(len(ids_T), device=ids_T.device) for ids_T in documents])[None]
    return _batch(ids_BT, position_BT, None)


def _batch(ids_BT: Tensor, position_BT: Tensor, mask_BT: Tensor | None) -> Batch:
    every_position_N = torch.arange(ids_BT.numel(), device=ids_BT.device)
    labels_N = torch.zeros_like(every_position_N)
    return Batch(ids_BT, position_BT, mask_BT, every_position_N, labels_N, [], [], ids_BT.numel())


def _vocabulary(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> ProbeResult:
    embedding: Any = plain_model(model).get_input_embeddings()
    read, written = int(embedding.weight.shape[0]), int(find_head(model).weight_VD.shape[0])
    largest = num_token_ids(tokenizer) - 1
    detail = f"largest token id {largest}, embeddings for {read}, output head for {written}"
    is_whole = largest < min(read, written)
    beyond = "" if is_whole else ": rows that use a token without one are refused"
    return ProbeResult("vocabulary", is_whole, detail + beyond, required=False)
