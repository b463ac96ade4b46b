"""Models and tokenizers, read without running foreign code.

In: a ``ModelSource``. Out: a plain ``transformers`` model in evaluation mode, and its tokenizer.
Only safetensors and GGUF are read; ``trust_remote_code`` is False; every weight must be in the file.
"""

import contextlib
import functools
import io
import json
import logging
import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.utils as hub_utils
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from tutelage.align import num_token_ids
from tutelage.errors import DataError, MemoryExhaustedError, ModelError, TutelageError
from tutelage.models.allocator import keep_freed_memory
from tutelage.models.autocast import mend_autocast
from tutelage.models.causal import causal_part, inner_names, left_on_disk
from tutelage.models.finite import require_finite
from tutelage.models.folder import check_weight_files, one_line, refuse_pointers, stored_names
from tutelage.models.hub import is_reachable, why_not
from tutelage.models.padding import cut_padding
from tutelage.models.quantised import quantisation_of, refuse_training, require_kernels
from tutelage.models.resize import grow_embeddings
from tutelage.models.rope import choose_rope_by_row
from tutelage.models.saved_adapter import ADAPTER_CONFIG, merge_saved
from tutelage.models.source import ModelSource, with_adapter
from tutelage.models.template import render_text

# What transformers, safetensors, gguf and json raise on files that are missing, damaged or foreign
# (each seen on a damaged copy; JSONDecodeError is a ValueError).
FOREIGN_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    ArithmeticError,  # sizes of 0, or of more digits than the machine has
    SafetensorError,
    StrictDataclassError,
    struct.error,
)
OUT_OF_MEMORY = "can't allocate memory"  # torch's CPU allocator raises a plain RuntimeError that says so
OBSOLETE_WEIGHTS = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")  # buffers that old checkpoints carry
HEADS = ("lm_head.weight", "lm_head.bias", "embed_out.weight", "output_layer.weight")
# Where transformers is to look for an adapter that it would apply by itself: nowhere.
NO_ADAPTER = {"subfolder": "no-adapter-is-applied-by-itself"}
ADAPTER_FILES = ["adapter_*", "*.json", "*.jinja", "tokenizer*", "*.model", "*.safetensors", "README.md"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
ANSWER = "tutelage-answer"  # stands for the assistant's words when a chat template is read


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load a tokenizer; one without padding token pads with its end token.

    That never costs the end token its supervision: which tokens are targets is decided by
    ``target_mask``, never by comparing ids with the padding id.

    Raises:
        ModelError: If it cannot be read, or has neither a padding nor an end token.
    """
    source = seen(source)
    place = _tokenizer_place(source)
    beside = [Path(place["pretrained_model_name_or_path"]) / name for name in TOKENIZER_FILES]
    refuse_pointers(beside)
    try:
        tokenizer = _read_tokenizer(source, place)
    except ModelError:
        if "gguf_file" not in place or not any(path.is_file() for path in beside):
            raise
        # what a GGUF file says of its tokenizer may be more than transformers can build; then files beside it count
        tokenizer = _read_tokenizer(source, {name: value for name, value in place.items() if name != "gguf_file"})
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            tokenizer.eos_token = _end_token_of_config(tokenizer, source)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _end_token_of_config(tokenizer: PreTrainedTokenizerBase, source: ModelSource) -> str:
    """Return the end token that the model's configuration alone names.

    Raises:
        ModelError: If it names none either.
    """
    found = None
    if source.gguf_file is None:
        with readable(source, "configuration"):  # the file itself: a class of configurations has defaults of its own
            settings = json.loads((local_folder(source) / "config.json").read_text(encoding="utf-8"))
        found = settings.get("eos_token_id", settings.get("text_config", {}).get("eos_token_id"))
    first = next(iter(found), None) if isinstance(found, list) else found
    token = None if first is None else tokenizer.convert_ids_to_tokens(int(first))
    if token is None:
        raise ModelError(
            f"The tokenizer of {source.name} has neither a padding nor an end token, and its config.json names no "
            "`eos_token_id`. Set `eos_token` in tokenizer_config.json, or use another model."
        )
    return str(token)


def load_model(
    source: ModelSource,
    *,
    dtype: torch.dtype,
    device: torch.device,
    read_only: bool = False,
    num_ids: int | None = None,
) -> PreTrainedModel:
    """Load a causal language model in ``dtype``, in evaluation mode.

    GGUF weights are widened to plain tensors and the model is rebuilt around them, since the one
    that transformers returns keeps a ``quantization_config`` and refuses casts. From then on the process
    keeps freed memory (:func:`tutelage.models.allocator.keep_freed_memory`).

    Args:
        source: Where it lies.
        dtype: Of its weights; quantised ones stay as they are where their kernels run, and compute in it.
        device: Where it goes.
        read_only: It will not be trained, so quantised weights are welcome.
        num_ids: How many token ids its rows may use; what its vocabulary holds beyond is padding and cut off. None:
            nothing is cut.

    Raises:
        ModelError: If it cannot be read, a weight is missing from the files, or it is quantised and may not be.
        MemoryExhaustedError: If the device's memory does not suffice.
        NumericsError: If a weight holds NaN or infinity.
    """
    from tutelage.models.sample import require_intact  # late: a sample is made by loading its download

    keep_freed_memory()
    source = seen(source)
    if source.folder is not None and source.gguf_file is None:
        require_intact(source.folder)
        check_weight_files(source.folder)
    model = _load_gguf(source, dtype) if source.gguf_file else _load_safetensors(source, dtype, device, read_only)
    if quantisation_of(model.config) is None:  # the others were put there as they were read
        with readable(source, "model"):
            model.to(device)  # pyright: ignore[reportArgumentType]  # its decorator hides the signature
    if source.adapter is not None:
        model = merge_saved(model, Path(source.adapter))
    if source.resize_embeddings:
        grow_embeddings(model, num_token_ids(load_tokenizer(source)))
    mend_autocast(model)
    require_finite(model, source.name)
    if num_ids is not None:
        cut_padding(model, num_ids)
    choose_rope_by_row(model)
    model.config.name_or_path = ""  # a path of this machine has no place in what we save
    return model.eval()


def load_config(source: ModelSource) -> Any:
    """Load a model's configuration; no weight is read.

    Raises:
        ModelError: If it cannot be read, or describes no causal language model.
    """
    source = seen(source)
    with quiet(), readable(source, "configuration"):
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=False, **_where(source))
    causal_part(config, source.name)
    return config


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase, model_config: Any) -> int:
    """Return the token that ends an answer: what the chat template writes after it, else the end token.

    Raises:
        ModelError: If there is neither.
    """
    turn_end = _template_end(tokenizer) if tokenizer.chat_template else None
    for candidate in (turn_end, tokenizer.eos_token_id, model_config.get_text_config().eos_token_id):
        found = candidate[0] if isinstance(candidate, list) else candidate
        if found is not None:
            return int(found)
    raise ModelError(
        "Neither the chat template, the tokenizer nor the model's config names a token that ends an answer. "
        "Set `eos_token` in the tokenizer's folder."
    )


def local_folder(source: ModelSource) -> Path:
    """Return the folder that holds a source's files; for a hub id its snapshot in the hub's cache.

    Raises:
        ModelError: If a hub id was not downloaded yet.
    """
    source = seen(source)
    if source.folder is not None:
        return source.folder
    with quiet(), readable(source, "files"):
        config_file = cached_file(source.path, "config.json", revision=source.revision, local_files_only=True)
    return Path(str(config_file)).parent


@functools.lru_cache(maxsize=64)
def seen(source: ModelSource) -> ModelSource:
    """Look into the files of a hub id for an adapter; a local source was looked into when it was resolved.

    Raises:
        ModelError: As :func:`tutelage.models.source.with_adapter`.
    """
    if source.folder is not None or source.adapter is not None:
        return source
    plain = replace(source, adapter_weights=None, base=None)
    with quiet(), readable(source, "files"):
        place: dict[str, Any] = {"revision": source.revision, "local_files_only": not is_reachable()}
        found = cached_file(source.path, ADAPTER_CONFIG, _raise_exceptions_for_missing_entries=False, **place)
        if found is None:
            return with_adapter(plain, None, source.adapter_weights, source.base)
        files = snapshot_download(source.path, allow_patterns=ADAPTER_FILES, **place)
    return with_adapter(plain, Path(files), source.adapter_weights, source.base)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back progress bars and advisory notes of transformers, peft and the hub, and restore them after."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub_bars_off = hub_utils.are_progress_bars_disabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    hub_utils.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of one library to another, not to the user
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # switches the hub's bars on too
        if hub_bars_off != hub_utils.are_progress_bars_disabled():
            (hub_utils.disable_progress_bars if hub_bars_off else hub_utils.enable_progress_bars)()


class readable(contextlib.AbstractContextManager[None]):  # noqa: N801  # used as a function
    """Turn whatever a foreign reader raises into a one-line error of ours.

    A class and no generator because ``tokenizers`` raises bare ``Exception``, and only exactly that may be caught.
    """

    def __init__(self, source: ModelSource, part: str) -> None:
        self.source, self.part = source, part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, TutelageError):
            return
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or OUT_OF_MEMORY in str(error):
            raise MemoryExhaustedError(
                f"{self.source.name} does not fit into memory: {one_line(error)}. Use a smaller model or dtype."
            ) from error
        if kind is Exception or isinstance(error, FOREIGN_ERRORS):
            remedy = (
                "Expected a causal language model with *.safetensors, or a .gguf file; check its name and its files"
            )
            if self.source.folder is None and not is_reachable():
                remedy = why_not()
            if self.source.adapter is not None:
                remedy += f". It is the base of the adapter {self.source.adapter}; name another one with `base`"
            raise ModelError(
                f"Cannot read the {self.part} of {self.source.name} ({self.source.path}): {one_line(error)}. {remedy}."
            ) from error


def _where(source: ModelSource) -> dict[str, Any]:
    local: dict[str, Any] = {"local_files_only": source.folder is not None or not is_reachable()}
    if source.folder is None:
        local["revision"] = source.revision
    return local | ({"gguf_file": source.gguf_file} if source.gguf_file else {})


def _read_tokenizer(source: ModelSource, place: dict[str, Any]) -> PreTrainedTokenizerBase:
    with quiet(), readable(source, "tokenizer"):
        return AutoTokenizer.from_pretrained(trust_remote_code=False, **place)


def _tokenizer_place(source: ModelSource) -> dict[str, Any]:
    """Prefer the tokenizer that was saved with an adapter: its training may have added tokens or a template."""
    if source.adapter is not None and any((Path(source.adapter) / name).is_file() for name in TOKENIZER_FILES):
        return {"pretrained_model_name_or_path": source.adapter, "local_files_only": True}
    return {"pretrained_model_name_or_path": source.path, **_where(source)}


def _load_safetensors(
    source: ModelSource, dtype: torch.dtype, device: torch.device, read_only: bool
) -> PreTrainedModel:
    # Otherwise transformers asks a service of the hub to convert pickled weights, and loads what it answers.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with quiet(), readable(source, "model"):
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=False, **_where(source))
        if not read_only:
            refuse_training(config, source.name)
        require_kernels(config, source.name, device=device, dtype=dtype)
        part = causal_part(config, source.name)
        answer: Any = (part.model_class if part.is_inner else AutoModelForCausalLM).from_pretrained(
            source.path,
            config=part.config,
            key_mapping=inner_names(part, stored_names(local_folder(source)), source.name) if part.is_inner else None,
            dtype=dtype,
            device_map={"": device} if quantisation_of(config) is not None else None,
            trust_remote_code=False,
            use_safetensors=True,
            adapter_kwargs=NO_ADAPTER,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below by name
            **_where(source),
        )
    model, loaded = answer
    if part.is_inner:
        loaded["unexpected_keys"] = set(loaded["unexpected_keys"]) - left_on_disk(loaded["unexpected_keys"], model)
    _refuse_misfits(loaded, source)
    if part.is_inner and quantisation_of(model.config) is None:
        model = rebuild_plain(model, dtype)  # the one that was read would be saved under the container's names
    say_ties(model)
    return model


def say_ties(model: PreTrainedModel) -> None:
    """Let the config say whether head and embeddings are one, as the weights do; some checkpoints contradict theirs."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    if head is not None and getattr(config, "tie_word_embeddings", False):
        embeddings: Any = model.get_input_embeddings()
        config.tie_word_embeddings = model.config.tie_word_embeddings = head.weight is embeddings.weight


def _refuse_misfits(loaded: Any, source: ModelSource) -> None:
    """Refuse a model of which a part would be random, or a file of which a part would be ignored."""
    misfits = {
        "lack": sorted(loaded["missing_keys"]),
        "hold, in another shape,": sorted(key[0] for key in loaded["mismatched_keys"]),
        "hold in excess": sorted(key for key in loaded["unexpected_keys"] if not key.endswith(OBSOLETE_WEIGHTS)),
    }
    if set(misfits["lack"]) and all(key.endswith(HEADS) for key in misfits["lack"]):
        raise ModelError(
            f"{source.name} has no output head ({misfits['lack'][0]}): it is a body alone, as embedding models are "
            "saved, and writes no next token. Expected a complete causal language model."
        )
    for fault, keys in misfits.items():
        if keys:
            raise ModelError(
                f"The weight files of {source.name} {fault} {keys[0]} ({len(keys)} such weights): config.json "
                "describes another model. Expected a complete causal language model; download it again."
            )


def _load_gguf(source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
    # The bar over GGUF tensors is plain tqdm on stderr, without a switch.
    with quiet(), readable(source, "model"), contextlib.redirect_stderr(io.StringIO()):
        answer: Any = AutoModelForCausalLM.from_pretrained(
            source.path, dtype=torch.float32, adapter_kwargs=NO_ADAPTER, output_loading_info=True, **_where(source)
        )
        read, loaded = answer
        missing = sorted(set(loaded["missing_keys"]) - set(read.all_tied_weights_keys or {}))
        if missing:
            raise ModelError(
                f"{source.name} ({source.gguf_file}) lacks {', '.join(missing[:3])} ({len(missing)} such weights), "
                f"which a {type(read).__name__} has. Download the file again, or ask who converted it."
            )
        return rebuild_plain(read, dtype)


def rebuild_plain(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Build the same model without ``quantization_config``, from its config and its widened weights.

    Raises:
        ModelError: If a weight of the new model has no counterpart.
    """
    config = model.config
    weights = {name: value.to(dtype) for name, value in model.state_dict().items()}
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    config.dtype = dtype
    rebuilt = type(model)._from_config(config, dtype=dtype)
    missing, unexpected = rebuilt.load_state_dict(weights, strict=False)
    rebuilt.tie_weights()
    lost = [name for name in missing if name not in (rebuilt.all_tied_weights_keys or {})]
    if lost or unexpected:
        raise ModelError(f"The weights do not fit {type(model).__name__}: {(lost + unexpected)[0]} has no counterpart.")
    if model.generation_config is not None:
        rebuilt.generation_config = model.generation_config
    return rebuilt


def _template_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the first special token a chat template writes after the assistant's words."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = render_text(tokenizer, turns)
    except DataError:
        return None  # a template for other roles or another shape of turns: the end token decides
    _, found, tail = text.rpartition(ANSWER)
    if not found:
        return None
    reader: Any = tokenizer  # its methods reach the type checker through __getattr__
    ids = reader.encode(tail, add_special_tokens=False)
    special = (set(reader.all_special_ids) | set(reader.get_added_vocab().values())) - {reader.unk_token_id}
    return next((i for i in ids if i in special), None)
