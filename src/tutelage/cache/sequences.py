"""The column of generated sequences: what the teacher wrote after a prompt, with how it ended.

In: ids, finish reasons and texts of K samples per prompt. Out: one block of bytes per prompt, and back.
Axes here: N prompts, K samples of a prompt, L tokens and M bytes of the longest answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tutelage.cache.column import Column, TensorDict, first_true
from tutelage.store import value_digest
from tutelage.types import TeacherRow

Finish = Literal["stop", "length"]
FINISHES: tuple[Finish, ...] = ("stop", "length")  # the stored number is the place in this list
NO_ID = -1
HEADER = np.dtype([("finish", "u1"), ("num_ids", "<u4"), ("num_bytes", "<u4")])  # one per sample, packed: 9 bytes
TEXT_BYTES_PER_ID = 16  # for forecasts only: English takes 4 to 5 bytes per token, other scripts up to three times that


@dataclass(frozen=True)
class Answer:
    """One generated sequence.

    ``ids`` end with the end token where there was one; ``text`` never holds it. An answer that ended at a stop
    string holds neither that string nor an end token.
    """

    ids: np.ndarray  # int32 [L]
    text: str
    finish: Finish


@dataclass(frozen=True)
class SequencesColumn(Column):
    """The teacher's answers to a prompt, at position 0 of the prompt's row.

    Every setting that decides what is generated is part of the spec, and its digest part of the name; a greedy
    column carries ``temperature = top_p = 1`` and ``seed = 0``.
    """

    vocab_size: int  # ids lie in [0, U): it decides between 16 and 32 bits
    max_new_tokens: int
    num_samples: int = 1  # K
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    template: str = "raw"  # digest of the chat template that made the prompts, or "raw"

    kind: ClassVar[str] = "sequences"

    @property
    @override
    def name(self) -> str:
        how = "sampled" if self.do_sample else "greedy"
        return f"sequences-{how}-n{self.num_samples}-m{self.max_new_tokens}-{value_digest(self.spec, length=8)}"

    @property
    @override
    def spec(self) -> dict[str, Any]:
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: list(value) for name, value in settings.items() if isinstance(value, tuple)}
        return {"kind": self.kind, **settings, **lists}

    @property
    def id_dtype(self) -> np.dtype:
        """How an id is stored: ``u2`` if U <= 65,536, else ``u4``."""
        return np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")

    @property
    @override
    def max_bytes(self) -> float:
        """Bytes per prompt when every sample runs to the limit, its text estimated generously."""
        per_id = self.id_dtype.itemsize + TEXT_BYTES_PER_ID
        return self.num_samples * (HEADER.itemsize + self.max_new_tokens * per_id)

    @override
    def positions_of(self, row: TeacherRow) -> np.ndarray:
        return np.zeros(1, dtype=np.int64)

    @override
    def fits(self, num_bytes: np.ndarray, counts: np.ndarray) -> bool:
        return bool((counts == 1).all() and (num_bytes >= self.num_samples * HEADER.itemsize).all())

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        text_bytes_NK = tensors["text_bytes_NK"]
        wrong_N = ((text_bytes_NK < 0) | (text_bytes_NK > tensors["text_NKM"].shape[2])).any(dim=1)
        if bool(wrong_N.any()):
            return first_true(wrong_N, "a text is not as long as it is said to be")
        for number, samples in enumerate(_rows_of(tensors)):
            for finish, ids, stored in samples:
                reason = self._problem(finish, ids, stored)
                if reason is not None:
                    return number, reason
        return None

    def _problem(self, finish: int, ids: np.ndarray, stored: bytes) -> str | None:
        if not 0 <= finish < len(FINISHES):
            return f"the finish reason {finish} is not one of {len(FINISHES)}"
        if ids.size > self.max_new_tokens:
            return f"an answer has {ids.size} ids, more than max_new_tokens = {self.max_new_tokens}"
        if ids.size and not (ids.min() >= 0 and ids.max() < self.vocab_size):
            return f"an answer holds an id outside of [0, {self.vocab_size})"
        if FINISHES[finish] == "length" and ids.size != self.max_new_tokens:
            return f"an answer of {ids.size} ids is said to be cut at max_new_tokens = {self.max_new_tokens}"
        try:
            stored.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"a text is not UTF-8 ({error.reason})"
        return None

    @override
    def encode_rows(self, tensors: TensorDict, counts: np.ndarray) -> list[bytes]:
        assert (counts == 1).all(), "a prompt has one position"
        return [self._encode(samples) for samples in _rows_of(tensors)]

    def _encode(self, samples: list[tuple[int, np.ndarray, bytes]]) -> bytes:
        assert len(samples) == self.num_samples, (len(samples), self.num_samples)
        header = np.array([(finish, ids.size, len(stored)) for finish, ids, stored in samples], dtype=HEADER)
        ids = np.concatenate([ids for _, ids, _ in samples]).astype(self.id_dtype)
        return header.tobytes() + ids.tobytes() + b"".join(stored for _, _, stored in samples)

    @override
    def decode_rows(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> TensorDict:
        return _padded([self._decode(block.tobytes()) for block in blocks], self.num_samples)

    def _decode(self, block: bytes) -> list[tuple[int, np.ndarray, bytes]]:
        header = np.frombuffer(block, HEADER, count=self.num_samples)
        start = header.nbytes
        samples = []
        texts_start = start + int(header["num_ids"].sum()) * self.id_dtype.itemsize
        for finish, num_ids, num_bytes in header.tolist():
            ids = np.frombuffer(block, self.id_dtype, count=num_ids, offset=start).astype(np.int64)
            samples.append((finish, ids, block[texts_start : texts_start + num_bytes]))
            start += ids.size * self.id_dtype.itemsize
            texts_start += num_bytes
        return samples

    @override
    def count_parts(self, blocks: Iterable[np.ndarray], counts: np.ndarray) -> dict[str, int]:
        headers = [np.frombuffer(block.tobytes(), HEADER, count=self.num_samples) for block in blocks]
        num_ids = sum(int(header["num_ids"].sum()) for header in headers)
        return {
            "ids": num_ids * self.id_dtype.itemsize,
            "text": sum(int(header["num_bytes"].sum()) for header in headers),
            "lengths": sum(header.nbytes for header in headers),
        }


def pack_answers(answers: Sequence[Sequence[Answer]]) -> TensorDict:
    """Lay answers out as the column's tensors.

    Args:
        answers: Per prompt its samples, as many for every prompt.

    Returns:
        ``ids_NKL`` int64, -1 behind an answer's end; ``finish_NK`` int64, 0 for stop and 1 for length;
        ``text_NKM`` uint8, UTF-8 padded with 0; ``text_bytes_NK`` int64.
    """
    rows = [
        [(FINISHES.index(each.finish), each.ids.astype(np.int64), each.text.encode("utf-8")) for each in samples]
        for samples in answers
    ]
    return _padded(rows, len(rows[0]) if rows else 1)


def unpack_answers(tensors: TensorDict) -> list[list[Answer]]:
    """Undo :func:`pack_answers`."""
    return [
        [Answer(ids.astype(np.int32), stored.decode("utf-8"), FINISHES[finish]) for finish, ids, stored in samples]
        for samples in _rows_of(tensors)
    ]


def _padded(rows: list[list[tuple[int, np.ndarray, bytes]]], num_samples: int) -> TensorDict:
    flat = [sample for samples in rows for sample in samples]
    num_ids = np.array([ids.size for _, ids, _ in flat], dtype=np.int64)
    num_bytes = np.array([len(stored) for _, _, stored in flat], dtype=np.int64)
    ids = np.full((len(flat), num_ids.max(initial=0)), NO_ID, dtype=np.int64)
    text = np.zeros((len(flat), num_bytes.max(initial=0)), dtype=np.uint8)
    for number, (_, own_ids, stored) in enumerate(flat):
        ids[number, : own_ids.size] = own_ids
        text[number, : len(stored)] = np.frombuffer(stored, dtype=np.uint8)
    shape = (len(rows), num_samples)
    return {
        "ids_NKL": torch.from_numpy(ids).reshape(*shape, ids.shape[1]),
        "finish_NK": torch.tensor([finish for finish, _, _ in flat], dtype=torch.int64).reshape(shape),
        "text_NKM": torch.from_numpy(text).reshape(*shape, text.shape[1]),
        "text_bytes_NK": torch.from_numpy(num_bytes).reshape(shape),
    }


def _rows_of(tensors: TensorDict) -> list[list[tuple[int, np.ndarray, bytes]]]:
    """Cut the padding off: per prompt, per sample, finish number, ids and UTF-8 bytes."""
    ids_NKL, text_NKM = _numpy(tensors["ids_NKL"]), _numpy(tensors["text_NKM"])
    finish_NK, text_bytes_NK = tensors["finish_NK"].tolist(), tensors["text_bytes_NK"].tolist()
    rows = zip(finish_NK, ids_NKL, text_NKM, text_bytes_NK, strict=True)
    return [
        [
            (finish, _without_padding(ids), text[:num_bytes].tobytes())
            for finish, ids, text, num_bytes in zip(*row, strict=True)
        ]
        for row in rows
    ]


def _without_padding(ids: np.ndarray) -> np.ndarray:
    """Drop the padding at the end only, so that an id of -1 in the middle is seen and refused."""
    real = np.flatnonzero(ids != NO_ID)
    return ids[: real[-1] + 1] if real.size else ids[:0]


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
