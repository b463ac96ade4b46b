"""A finished student as an ordinary model folder.

In: a plain model and its tokenizer. Out: safetensors, config and tokenizer files without a path of this machine.
"""

import copy
import json
from pathlib import Path

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutelage.errors import DiskError, ModelError
from tutelage.models.load import quiet
from tutelage.store import make_folder, write_json

PRIVATE_KEYS = ("_name_or_path", "_model_name_or_path", "name_or_path", "base_model_name_or_path")
CONFIG_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")


def save_student(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write a model folder that ``from_pretrained`` reads; call it inside ``store.new_artifact``.

    Args:
        model: A plain model; merge an adapter first. Not changed.
        tokenizer: Written beside the weights.
        folder: Filled; made if missing.

    Returns:
        ``folder``.

    Raises:
        ModelError: If the model is wrapped.
        DiskError: If the disk is full.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"Found a {type(model).__name__}, expected a plain model. Merge the adapter (merge_adapter).")
    make_folder(folder)
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
    for name in CONFIG_FILES:
        _clear_private(folder / name)
    return folder


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Count parameters; tied ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def _clear_private(path: Path) -> None:
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    cleared = {key: value for key, value in copy.copy(content).items() if key not in PRIVATE_KEYS}
    if cleared != content:
        write_json(path, cleared)
