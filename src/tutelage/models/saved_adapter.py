"""An adapter that ``peft`` saved: what it belongs to, and the weights with it merged in.

In: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``, a loaded base. Out: a plain model.

``transformers`` applies an adapter that lies beside a model's weights without being asked, and then saves the adapter
alone. Here an adapter is applied only where a recipe says so, it is merged at once, and all of it must fit.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import ModelError, TutelageError
from tutelage.models.folder import read_json_object

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED_ADAPTER = "adapter_model.bin"
EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
LAYER = re.compile(r"\.(\d+)\.")  # the first number in a weight's name: "model.layers.3.self_attn.q_proj.lora_A"
# Kinds that peft adds to the input or beside the layers, and cannot turn into plain weights.
UNMERGEABLE = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CARTRIDGE", "CPT"}
)


def holds_adapter(folder: Path) -> bool:
    """Say whether a folder holds an adapter that ``transformers`` would apply by itself."""
    return (folder / ADAPTER_CONFIG).is_file()


def check_adapter(folder: Path) -> None:
    """Refuse an adapter that cannot be merged into a causal language model; only its config is read.

    Raises:
        ModelError: If its weights are missing or pickled, or it is of a kind without merged form.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        if (folder / PICKLED_ADAPTER).is_file():
            raise ModelError(
                f"{folder} holds a pickled adapter ({PICKLED_ADAPTER}), which can run code when it is read. Expected "
                f"{ADAPTER_WEIGHTS}: save it again with `save_pretrained` of peft, where you trust it."
            )
        raise ModelError(f"{folder} has {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}. Save the adapter again with peft.")
    config = read_json_object(folder / ADAPTER_CONFIG)
    kind, task = str(config.get("peft_type", "?")).upper(), config.get("task_type")
    if kind in UNMERGEABLE:
        raise ModelError(
            f"The adapter in {folder} is of the kind {kind}, which cannot be merged into weights. Expected LoRA or "
            "another kind that peft merges."
        )
    if task not in (None, "CAUSAL_LM"):
        raise ModelError(
            f"The adapter in {folder} was trained for {task}, expected CAUSAL_LM: a model that writes the next token."
        )


def recorded_base(folder: Path) -> tuple[str | None, str | None]:
    """Return the model that an adapter says it was trained on, and its revision."""
    config = read_json_object(folder / ADAPTER_CONFIG)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    return (base if isinstance(base, str) and base else None), (revision if isinstance(revision, str) else None)


def merge_saved(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """Add a saved adapter to its base's weights and return the plain model.

    Args:
        model: The base, in its dtype and on its device. Changed in place.
        folder: Of the adapter.

    Raises:
        ModelError: If the adapter belongs to another model, or a part of it fits nowhere.
    """
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    from tutelage.models.adapter import merge_adapter
    from tutelage.models.load import FOREIGN_ERRORS, quiet

    check_adapter(folder)
    try:
        stored = load_file(folder / ADAPTER_WEIGHTS)
        _require_every_layer(model, stored, folder)
        _make_room(model, stored)
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that do not fit: they are refused below
            wrapped: Any = PeftModel.from_pretrained(model, str(folder))
        _require_whole(wrapped, stored, folder)
        with torch.no_grad():
            return merge_adapter(wrapped)
    except FOREIGN_ERRORS as error:
        if isinstance(error, TutelageError):
            raise
        raise ModelError(
            f"The adapter in {folder} does not fit {type(model).__name__}: {_words(error)}. Name the model that it "
            "was trained on with `base`."
        ) from error


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(" .:")  # torch names the weight on the second line


def _make_room(model: "PreTrainedModel", stored: Mapping[str, "Tensor"]) -> None:
    """Give the base as many token embeddings as the adapter was saved with (tokens were added before its training)."""
    rows = [value.shape[0] for name, value in stored.items() if name.endswith(EMBEDDINGS)]
    base: Any = model
    if rows and max(rows) != base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(max(rows), mean_resizing=False)


def _require_every_layer(model: "PreTrainedModel", stored: Mapping[str, "Tensor"], folder: Path) -> None:
    """Refuse an adapter that ends before the model's last layer, unless it says which layers it was trained on.

    An adapter that lists its modules layer by layer fits into any deeper model of the family without a missing weight.
    """
    layers = [int(found.group(1)) for name in stored if (found := LAYER.search(name))]
    last = getattr(model.config.get_text_config(), "num_hidden_layers", 0) - 1
    if layers and max(layers) < last and read_json_object(folder / ADAPTER_CONFIG).get("layers_to_transform") is None:
        raise ModelError(
            f"The adapter in {folder} belongs to another model than this {type(model).__name__}: its last layer is "
            f"{max(layers)}, the model's is {last}. Name the model that it was trained on with `base`. Where it was "
            f"trained on the first layers only, say so with `layers_to_transform` in its {ADAPTER_CONFIG}."
        )


def _require_whole(wrapped: Any, stored: Mapping[str, "Tensor"], folder: Path) -> None:
    """Refuse an adapter of which a file's weight is not in the model, or a part of the model not in the file."""
    import torch
    from peft import get_peft_model_state_dict

    every = wrapped.state_dict()
    placed = get_peft_model_state_dict(wrapped, state_dict=every, save_embedding_layers=False)
    drawn = sorted(name for name in placed if name not in stored)
    for name in stored:
        if name not in placed and name in every:
            placed[name] = every[name]  # embeddings and heads that were saved beside the adapter
    lost = sorted(name for name in stored if name not in placed)
    changed = sorted(
        name for name in stored if name in placed and not torch.equal(stored[name].float(), placed[name].cpu().float())
    )
    for fault, names in (("is no part of the model", lost), ("is missing", drawn), ("is not what was read", changed)):
        if names:
            raise ModelError(
                f"The adapter in {folder} belongs to another model than this "
                f"{type(wrapped.get_base_model()).__name__}: its weight {names[0]} {fault} ({len(names)} such "
                "weights). Name the model that it was trained on with `base`."
            )
