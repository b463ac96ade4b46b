"""A GGUF file: what it is, checked by its header, and the model in it with its weights widened.

In: a path, or a ``ModelSource`` with a ``gguf_file``. Out: nothing or an error in plain words; a model.
"""

import contextlib
import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from tutelage.errors import ModelError
from tutelage.models.folder import what_it_is

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes per metadata value, by type
DEFAULT_ALIGNMENT = 32

# Source of the layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md


@dataclass(frozen=True)
class StoredTensor:
    """One entry of the table of tensors."""

    name: str
    num_elements: int
    row_elements: int
    ggml_type: int
    offset: int  # from the start of the data


def check_gguf(path: Path) -> None:
    """Refuse a file that is no GGUF file, was cut short, or holds a number format that cannot be widened here.

    Only the header is read (a few MB, mostly the tokenizer's words).

    Raises:
        ModelError: In plain words, with what to do.
    """
    status = path.stat()
    _check(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _check(path: Path, num_bytes: int, modified_ns: int) -> None:
    with path.open("rb") as stream:
        start = stream.read(len(MAGIC))
        if start != MAGIC:
            raise ModelError(f"{path} is no GGUF file but {what_it_is(path)}.")
        try:
            architecture, tensors, data_start = _read_header(stream, path)
        except (struct.error, UnicodeDecodeError, OverflowError, MemoryError, KeyError) as error:
            raise ModelError(_cut(path, num_bytes, "inside its header")) from error
    for each in tensors:
        _refuse_unreadable(each, architecture, path)
    end = max((data_start + each.offset + _stored_bytes(each) for each in tensors), default=data_start)
    if num_bytes < end:
        raise ModelError(_cut(path, num_bytes, f"it should have {end:,} bytes at least"))


def _cut(path: Path, num_bytes: int, how: str) -> str:
    return f"{path} was cut short: it ends after {num_bytes:,} bytes, {how}. Download it again."


def _read_header(stream: Any, path: Path) -> tuple[str, list[StoredTensor], int]:
    """Walk over metadata and the table of tensors; return the architecture, the table and where the data starts."""

    def number(form: str) -> Any:
        return struct.unpack(form, stream.read(struct.calcsize(form)))[0]

    def type_and_offset() -> tuple[int, int]:
        return number("<I"), number("<Q")

    def text() -> str:
        length = number("<Q")
        found = stream.read(length)
        if len(found) < length:
            raise struct.error("cut")
        return found.decode("utf-8")

    def skip(kind: int) -> None:
        if kind == STRING:
            stream.seek(number("<Q"), io.SEEK_CUR)
        elif kind == ARRAY:
            element, count = number("<I"), number("<Q")
            if element in WIDTHS:
                stream.seek(count * WIDTHS[element], io.SEEK_CUR)
            else:
                for _ in range(count):
                    skip(element)
        else:
            stream.seek(WIDTHS[kind], io.SEEK_CUR)

    layout = number("<I")
    if layout not in VERSIONS:
        raise ModelError(
            f"{path} has GGUF version {layout}, expected {' or '.join(map(str, VERSIONS))}. Convert it again with a "
            "present llama.cpp."
        )
    num_tensors, num_values = number("<Q"), number("<Q")
    architecture, alignment = "", DEFAULT_ALIGNMENT
    for _ in range(num_values):
        name, kind = text(), number("<I")
        if name == "general.alignment" and kind == 4:
            alignment = number("<I")
        elif name == "general.architecture" and kind == STRING:
            architecture = text()
        else:
            skip(kind)
    tensors = []
    for _ in range(num_tensors):
        name = text()
        dimensions = [number("<Q") for _ in range(number("<I"))]
        tensors.append(StoredTensor(name, prod(dimensions), dimensions[0] if dimensions else 1, *type_and_offset()))
    return architecture, tensors, -(-stream.tell() // alignment) * alignment


def _stored_bytes(tensor: StoredTensor) -> int:
    import gguf

    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.ggml_type)]
    return tensor.num_elements // block_elements * block_bytes


def _refuse_unreadable(tensor: StoredTensor, architecture: str, path: Path) -> None:
    """Refuse a number format that nobody here can widen, and rows that no format could have."""
    import gguf

    other = "Use the same model as F16, Q8_0 or Q4_K_M, or its folder of safetensors."
    try:
        kind = gguf.GGMLQuantizationType(tensor.ggml_type)
    except ValueError:
        raise ModelError(
            f"{path} holds {tensor.name} in GGUF's number format {tensor.ggml_type}, which the installed gguf "
            f"{version('gguf')} does not know. {other}"
        ) from None
    if kind.name not in _readable_formats(architecture):
        raise ModelError(f"{path} holds {tensor.name} as {kind.name}, which cannot be widened here. {other}")
    block_elements = gguf.GGML_QUANT_SIZES[kind][0]
    if tensor.row_elements % block_elements:
        raise ModelError(
            f"{path} holds {tensor.name} as {kind.name}, whose blocks of {block_elements} numbers do not divide its "
            f"rows of {tensor.row_elements:,}: the header is damaged. Download it again."
        )


@lru_cache(maxsize=8)
def _readable_formats(architecture: str) -> frozenset[str]:
    """Name the formats that can be widened: those of gguf, or for some architectures those of transformers' own reader.

    Both depend on the installed release, so both are asked.
    """
    import gguf
    import numpy as np

    found = set()
    for kind, (_, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        with contextlib.suppress(NotImplementedError):
            gguf.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), kind)
            found.add(kind.name)
    try:
        from transformers.integrations.gguf import GGUF_ARCHS
        from transformers.integrations.gguf.dequant import GGML_NAME
    except ImportError:
        return frozenset(found)
    own = {*(gguf.GGMLQuantizationType(kind).name for kind in GGML_NAME), "F32", "F16", "BF16"}
    return frozenset(found & own if architecture in GGUF_ARCHS else found)
