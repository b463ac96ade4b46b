"""The files of a model folder, checked before a library opens them.

In: a folder. Out: its weight files, its JSON files, its licence; or what is wrong in one line.
"""

import functools
import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tutelage.errors import ModelError

SINGLE = "model.safetensors"  # read instead of the files of an index, where both are there
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
HEADER_LENGTH = struct.Struct("<Q")
LONGEST_HEADER = 100_000_000  # as the safetensors library
LARGEST_POINTER = 1024
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LICENCE_LINE = re.compile(r"^license:\s*(\S+)\s*$", re.MULTILINE)


def check_weight_files(folder: Path) -> list[Path]:
    """Return a folder's safetensors files; the index may name only files of the folder, no link may lead out.

    Raises:
        ModelError: If config.json or the weights are missing, pickled, or point elsewhere.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json. Expected a model saved by `save_pretrained`.")
    refuse_pointers([folder / "config.json"])
    files = _whole_weights(folder)
    index = folder / INDEX
    if index.exists():
        weight_map = read_json_object(index).get("weight_map")
        named = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
        bad = sorted(name for name in named if Path(name).name != name or not (folder / name).is_file())
        if bad:
            raise ModelError(f"{index} names {bad[0]!r}, which is not a file of this folder. Download the model again.")
        files = sorted({folder / name for name in named} | {file for file in files if file.name == SINGLE})
        if not named:
            raise ModelError(f"{index} names no weight file in `weight_map`. Download the model again.")
    if not files:
        raise ModelError(_no_safetensors(folder))
    for file in files:
        if not _stays_inside(file, folder):
            raise ModelError(f"{file} is a link out of its folder. Copy the weights into the folder.")
        status = file.stat()
        _check_safetensors(file, status.st_size, status.st_mtime_ns)
    return files


def stored_names(folder: Path) -> list[str]:
    """Return the names of all weights in a folder's files; only headers are read.

    Raises:
        ModelError: As :func:`check_weight_files`.
    """
    names = []
    for path in check_weight_files(folder):
        with path.open("rb") as stream:
            header = json.loads(stream.read(HEADER_LENGTH.unpack(stream.read(HEADER_LENGTH.size))[0]))
        names += [name for name in header if name != "__metadata__"]
    return names


@functools.lru_cache(maxsize=1024)
def _check_safetensors(path: Path, num_bytes: int, modified_ns: int) -> None:
    """Refuse what is no safetensors file, or was cut short; only the header is read.

    Source of the layout: https://github.com/huggingface/safetensors#format
    """
    with path.open("rb") as stream:
        start = stream.read(HEADER_LENGTH.size)
        length = HEADER_LENGTH.unpack(start)[0] if len(start) == HEADER_LENGTH.size else LONGEST_HEADER + 1
        header = stream.read(length) if length <= LONGEST_HEADER else b""
    if not header.startswith(b"{"):
        raise ModelError(f"Cannot read {path}: expected a safetensors file, found {what_it_is(path)}.")
    if len(header) < length:
        raise ModelError(_cut(path, num_bytes, HEADER_LENGTH.size + length))
    try:
        entries = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"Cannot read {path}: its header is damaged. Expected safetensors; download it again."
        ) from error
    whole = HEADER_LENGTH.size + length + max(ends, default=0)
    if num_bytes < whole:
        raise ModelError(_cut(path, num_bytes, whole))


def _cut(path: Path, num_bytes: int, whole: int) -> str:
    return (
        f"Cannot read {path}: it was cut short. It has {num_bytes:,} bytes, its header says {whole:,} at least. "
        "Expected the whole file; download it again."
    )


def refuse_pointers(paths: Iterable[Path]) -> None:
    """Refuse files that are there as Git LFS's pointers only.

    Raises:
        ModelError: With the first of them.
    """
    for path in paths:
        if path.is_file() and path.stat().st_size < LARGEST_POINTER and path.read_bytes().startswith(LFS_POINTER):
            raise ModelError(f"{path} is {what_it_is(path)}.")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        ModelError: If the file is missing, is no JSON, or holds something else.
    """
    refuse_pointers([path])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read {path}: {one_line(error)}. Expected JSON; download the model again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, expected an object. Download the model again.")
    return content


def one_line(error: BaseException, *, limit: int = 200) -> str:
    """Shorten a foreign error to its kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    text = " ".join(lines[0].split()).rstrip(" .:") if lines else ""
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__


def has_weights(folder: Path) -> bool:
    """Say whether a folder holds weights of a whole model, in whatever format, and not an adapter's alone."""
    pickled = any(file.name.startswith(("pytorch_model", "model.")) for file in folder.glob("*.bin"))
    return bool(_whole_weights(folder)) or (folder / INDEX).exists() or pickled


def _whole_weights(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_model"))


def _no_safetensors(folder: Path) -> str:
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED and "adapter" not in file.name)
    if pickled:
        return (
            f"{folder} holds only pickled weights ({pickled[0]}), which can run code when they are read. Expected "
            "*.safetensors: convert it once where you trust it, with `save_pretrained` of transformers."
        )
    return f"{folder} has no *.safetensors file. Expected a model saved by `save_pretrained`."


def _stays_inside(file: Path, folder: Path) -> bool:
    target, root = file.resolve(), folder.resolve()
    # The hub's own cache keeps NAME/snapshots/COMMIT/file as a link to NAME/blobs/HASH.
    hub_blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    return target.is_relative_to(root) or target.is_relative_to(hub_blobs)


def licence_of(folder: Path) -> str | None:
    """Read ``license:`` from a model card; None when the folder has no card."""
    card = folder / "README.md"
    found = LICENCE_LINE.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    return found.group(1).strip("'\"") if found else None


def what_it_is(path: Path) -> str:
    """Describe a file that is not what its name says, with what to do."""
    with path.open("rb") as stream:
        start = stream.read(1024)
    if start.startswith(LFS_POINTER):
        return "the pointer that Git LFS leaves for it; run `git lfs pull` in its folder, or download the file itself"
    if not start.strip(b"\0"):
        return "empty: a download that did not happen; download it again"
    if start.lstrip()[:1] == b"<":
        return "a web page: the download was answered with an error or a login page; download it again"
    if start.startswith(b"GGUF"):
        return "a GGUF file; name it `*.gguf`"
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a pickled PyTorch file, which can run code when it is read; use *.safetensors"
    return f"something else (it begins with {start[:8]!r}); download it again"
