"""The copy of the teacher's output head, without which a hidden state says nothing.

In: an ``OutputHead``. Out: ``<root>/<teacher>/head/`` and the same head again.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tutelage.cache.layout import FORMAT_VERSION, HEAD_KIND, HEAD_POINT, head_folder
from tutelage.errors import CacheError, IntegrityError
from tutelage.store import make_folder, new_artifact, to_json, verify_artifact
from tutelage.types import OutputHead

TENSORS = "head.safetensors"
SETTINGS = "head.json"


def write_head(root: Path, teacher: str, head: OutputHead, *, provenance: dict[str, Any] | None = None) -> Path:
    """Commit a copy of the head, weights in their own dtype, unless a good one is there.

    Raises:
        DiskError: If the disk is full.
    """
    path = head_folder(root, teacher)
    if has_head(root, teacher):
        return path
    tensors = {"weight": head.weight_VD} if head.bias_V is None else {"weight": head.weight_VD, "bias": head.bias_V}
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    fields = {"teacher": teacher, "provenance": json.loads(json.dumps(provenance or {}))}
    make_folder(path.parent)
    with new_artifact(path, kind=HEAD_KIND, format_version=FORMAT_VERSION, fields=fields, point=HEAD_POINT) as folder:
        save_file(copies, folder / TENSORS)
        # in a file of its own, so that the content digest covers it
        settings = {"scale": head.scale, "softcap": head.softcap, "teacher": teacher}
        (folder / SETTINGS).write_text(to_json(settings), encoding="utf-8")
    return path


def has_head(root: Path, teacher: str) -> bool:
    """Say whether an intact copy of this teacher's head is there; all of its bytes are read."""
    try:
        check_head(root, teacher)
    except IntegrityError:
        return False
    return True


def check_head(root: Path, teacher: str) -> Path:
    """Read every byte of the copied head; return its folder.

    Raises:
        IntegrityError: If it is missing, damaged, or another teacher's.
    """
    path = head_folder(root, teacher)
    manifest = verify_artifact(path)
    if manifest.kind != HEAD_KIND or manifest.fields.get("teacher") != teacher:
        owner = manifest.fields.get("teacher")
        raise CacheError(f"{path} holds a {manifest.kind} of {owner}: folders were moved. Delete it and teach again.")
    return path


def read_head(root: Path, teacher: str, *, device: torch.device | str = "cpu") -> OutputHead:
    """Load the head after checking every byte of it.

    Raises:
        CacheError: If it is missing, damaged, or another teacher's.
    """
    try:
        path = check_head(root, teacher)
    except IntegrityError as error:
        raise CacheError(f"The teacher's output head cannot be used: {error}") from error
    settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    tensors = load_file(path / TENSORS, device=str(device))
    return OutputHead(tensors["weight"], tensors.get("bias"), settings["scale"], settings["softcap"])
