"""The identity of a model: what its outputs depend on, as sixteen hex digits.

In: a folder or a model, its dtype and compute settings. Out: the name of its part of the teacher cache.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.models.device import dtype_name
from tutelage.models.folder import check_weight_files, read_json_object
from tutelage.models.head import plain_model
from tutelage.models.load import local_folder, seen
from tutelage.models.source import ModelSource
from tutelage.store import file_sha256, value_digest

FINGERPRINT_VERSION = 1
# Where a model lay and which release wrote its config: no part of what it computes.
NOT_IDENTITY = frozenset({"_name_or_path", "_model_name_or_path", "name_or_path", "transformers_version"})


def model_fingerprint(
    folder_or_model: Path | str | nn.Module,
    *,
    dtype: torch.dtype,
    extra: dict[str, Any] | None = None,
    adapter: Path | None = None,
    gguf_file: str | None = None,
) -> str:
    """Hash weights, config, adapter, dtype and compute settings.

    Folders are hashed by their files (about 0.4 GB/s, once per process and file), models by their
    tensors; the two differ for the same weights, so name one model always in the same way.

    Args:
        folder_or_model: A folder of safetensors (or GGUF, with ``gguf_file``), or a loaded model.
        dtype: The dtype the forward runs in.
        extra: JSON values that change the numbers, e.g. :func:`tutelage.models.device.describe_device`.
        adapter: Folder of a ``peft`` adapter applied on top.
        gguf_file: The weight file of a GGUF source.

    Returns:
        16 hex digits.

    Raises:
        ModelError: If a folder has no readable config or weights.
    """
    if isinstance(folder_or_model, nn.Module):
        content = _model_content(folder_or_model)
    else:
        content = _folder_content(Path(folder_or_model), gguf_file)
    identity = {
        "version": FINGERPRINT_VERSION,
        "content": content,
        "adapter": _adapter_content(adapter) if adapter is not None else None,
        "dtype": dtype_name(dtype),
        "extra": extra or {},
    }
    return value_digest(identity, length=16)


def source_fingerprint(source: ModelSource, *, dtype: torch.dtype, extra: dict[str, Any] | None = None) -> str:
    """Hash what a source's outputs depend on, the adapter that is merged into it included.

    Raises:
        ModelError: If a file cannot be read.
    """
    source = seen(source)
    adapter = Path(source.adapter) if source.adapter is not None else None
    if source.resize_embeddings:
        extra = {**(extra or {}), "resize_embeddings": True}
    return model_fingerprint(
        local_folder(source), dtype=dtype, extra=extra, adapter=adapter, gguf_file=source.gguf_file
    )


def _folder_content(folder: Path, gguf_file: str | None) -> dict[str, Any]:
    if gguf_file is not None:
        return {"weights": {gguf_file: _file_digest(folder / gguf_file)}}
    weights = {file.name: _file_digest(file) for file in check_weight_files(folder)}
    return {"config": _identity_of(read_json_object(folder / "config.json")), "weights": weights}


def _adapter_content(folder: Path) -> dict[str, Any]:
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors. Expected an adapter saved by `save_pretrained`.")
    config = read_json_object(folder / "adapter_config.json")
    return {
        "config": {key: value for key, value in config.items() if key != "base_model_name_or_path"},
        "weights": _file_digest(weights),
    }


def _model_content(model: nn.Module) -> dict[str, Any]:
    weights = {name: tensor_sha256(value) for name, value in model.state_dict().items()}
    return {"config": _identity_of(plain_model(model).config.to_dict()), "weights": weights}


def _identity_of(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return {key: str(value) if isinstance(value, torch.dtype) else value for key, value in kept.items()}


def tensor_sha256(tensor: Tensor) -> str:
    """Hash a tensor's dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{dtype_name(plain.dtype)}{tuple(plain.shape)}".encode())
    digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError as error:
        raise ModelError(f"No weight file at {path}. Expected one; download the model again.") from error
    return _cached_digest(path.resolve(), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _cached_digest(path: Path, num_bytes: int, modified_ns: int) -> str:
    return file_sha256(path)
