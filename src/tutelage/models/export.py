"""A finished student as an ordinary model folder.

In: a plain model and its tokenizer. Out: safetensors, config and tokenizer files without a path of this machine.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutelage.errors import DiskError, IntegrityError, ModelError
from tutelage.models.finite import require_finite
from tutelage.models.load import load_model, quiet, say_ties
from tutelage.models.padding import padding_of, whole_vocabulary
from tutelage.models.source import ModelSource
from tutelage.store import make_folder, write_json

PRIVATE_KEYS = ("_name_or_path", "_model_name_or_path", "name_or_path", "base_model_name_or_path")
PROBE_TOKENS = 7
LOGIT_TOLERANCE = 1e-2  # equal weights and settings give equal logits; rounding of another kernel is no other model
CONFIG_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")


def save_student(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, *, end_of_turn_id: int | None = None
) -> Path:
    """Write a model folder that ``from_pretrained`` reads; call it inside ``store.new_artifact``.

    Args:
        model: A plain model; merge an adapter first. Not changed.
        tokenizer: Written beside the weights.
        folder: Filled; made if missing.
        end_of_turn_id: The token that ended the answers which it has learnt: whoever generates with the folder stops
            there, whatever the model's own end token was. None: its own.

    Returns:
        ``folder``.

    Raises:
        ModelError: If the model is wrapped.
        DiskError: If the disk is full.
    """
    if not isinstance(model, PreTrainedModel) or getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(f"Found a {type(model).__name__}, expected a plain model. Merge the adapter (merge_adapter).")
    require_finite(model, "the finished model")
    say_ties(model)
    make_folder(folder)
    with whole_vocabulary(model):
        return _save(model, tokenizer, folder, end_of_turn_id)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, end_of_turn_id: int | None) -> Path:
    try:
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # its own kind of I/O error, without errno
        if "No space left" in str(error) or "os error 28" in str(error):
            raise DiskError(
                f"No space left while writing {folder}. Free some space and run the same command."
            ) from error
        raise ModelError(f"Cannot write the weights to {folder}: {error}") from error
    if end_of_turn_id is not None:
        _end_answers_with(folder / "generation_config.json", model, end_of_turn_id)
    for name in CONFIG_FILES:
        _clear_private(folder / name)
    require_same(model, folder)
    return folder


def _end_answers_with(path: Path, model: PreTrainedModel, end_of_turn_id: int) -> None:
    """Put a token in front of the end tokens of a generation config, which is made where there is none."""
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    own = settings.get("eos_token_id", model.config.get_text_config().eos_token_id)
    known = own if isinstance(own, list) else [] if own is None else [own]
    ends = list(dict.fromkeys([end_of_turn_id, *known]))
    if own is None or known != ends:
        write_json(path, {**settings, "eos_token_id": ends if len(ends) > 1 else ends[0]})


def require_same(model: PreTrainedModel, folder: Path) -> None:
    """Load a saved model back and compare it with the one in memory: weights, buffers, settings, logits.

    Args:
        model: What was saved.
        folder: Where.

    Raises:
        IntegrityError: If the files give another model: nothing of it may be committed.
    """
    again = load_model(ModelSource("the saved model", str(folder)), dtype=model.dtype, device=model.device)
    difference = _first_difference(model, again)
    if difference is not None:
        raise IntegrityError(
            f"What was written to {folder} is not the model that was trained: {difference}. Nothing was committed. "
            "This architecture cannot be saved by this version of transformers; report it."
        )


def _first_difference(model: PreTrainedModel, again: PreTrainedModel) -> str | None:
    own, new = dict(_tensors(model)), dict(_tensors(again))
    for name in sorted(own.keys() | new.keys()):
        if name not in new or name not in own:
            return f"{name} is {'not in the files' if name in own else 'in the files only'}"
        if own[name].dtype != new[name].dtype or not torch.equal(own[name], new[name]):
            return f"{name} has other values ({own[name].dtype} {tuple(own[name].shape)} in memory)"
    was_training = model.training
    embedding: Any = model.get_input_embeddings()
    ids_BT = torch.arange(PROBE_TOKENS, device=model.device)[None] % embedding.weight.shape[0]
    try:
        with torch.inference_mode():
            own_BTV, new_BTV = (each.eval()(input_ids=ids_BT, use_cache=False).logits for each in (model, again))
    finally:
        model.train(was_training)
    largest = float(own_BTV.abs().max())
    moved = float((own_BTV - new_BTV).abs().max())
    return None if moved <= LOGIT_TOLERANCE * largest else f"its logits differ by {moved:.1e} of {largest:.1e}"


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """List weights and buffers, those too that no file holds (rotary tables)."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Count parameters as they are saved, the vocabulary's padding included; tied ones once."""
    found = sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
    padding = padding_of(model)
    return found if padding is None or trainable_only else found + padding.num_parameters


def _clear_private(path: Path) -> None:
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    cleared = {key: value for key, value in copy.copy(content).items() if key not in PRIVATE_KEYS}
    if cleared != content:
        write_json(path, cleared)
