"""How others store a top-k signal, written here from their descriptions so that all can be measured alike.

In: a ``TopK`` record. Out: its bytes per position in a format, and the record as it is read back.

Every format keeps true log-probabilities, so that each side has its best semantics (k + 1 buckets).
"""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tutelage.types import TopK

Stored = tuple[float, TopK]
POLYNOMIAL_DEGREE = 4
EXACT_VALUES = 4  # the first log-probabilities fall too steeply for a polynomial
FLOAT16_BYTES = 2


def topk_table(signal: TopK) -> pa.Table:
    """Lay a signal out as two list columns, ids of 32 bits and values of 16."""
    ids = pa.array(list(signal.ids_NK.numpy().astype(np.int32)), type=pa.list_(pa.int32()))
    values = pa.array(list(signal.logprobs_NK.numpy().astype(np.float16)), type=pa.list_(pa.float16()))
    return pa.table({"ids": ids, "logprobs": values})


def halved(signal: TopK) -> TopK:
    """Round the values to float16, as all formats here do."""
    return replace(signal, logprobs_NK=signal.logprobs_NK.half().float())


def parquet_lists(signal: TopK) -> Stored:
    """Count a Parquet file of lists with zstd, its footer included."""
    sink = io.BytesIO()
    pq.write_table(topk_table(signal), sink, compression="zstd")
    return len(sink.getvalue()) / len(signal.ids_NK), halved(signal)


def flat_int32_fp16(signal: TopK) -> Stored:
    """Count 32-bit ids and 16-bit values, laid flat."""
    return signal.ids_NK.shape[1] * (4 + FLOAT16_BYTES), halved(signal)


def polynomial(signal: TopK) -> Stored:
    """Count ids of ``ceil(log2 V)`` bits and a polynomial over the rank, the way of DistillKit.

    The first values are exact, the others a polynomial of degree 4 in the logarithm of the rank, fitted per position.
    """
    num_positions, k = signal.ids_NK.shape
    rank_K = np.log1p(np.arange(k))
    basis_KC = np.polynomial.polynomial.polyvander(rank_K[EXACT_VALUES:], POLYNOMIAL_DEGREE)
    values_NK = signal.logprobs_NK.double().numpy()
    fit_CN = np.linalg.lstsq(basis_KC, values_NK[:, EXACT_VALUES:].T, rcond=None)[0].astype(np.float16)
    read_NK = np.concatenate([values_NK[:, :EXACT_VALUES].astype(np.float16), (basis_KC @ fit_CN).T], axis=1)
    size = -(-k * (signal.vocab_size - 1).bit_length() // 8) + FLOAT16_BYTES * (EXACT_VALUES + POLYNOMIAL_DEGREE + 1)
    read = torch.from_numpy(np.minimum(read_NK.astype(np.float32), 0.0))
    assert read.shape[0] == num_positions
    return size, replace(signal, logprobs_NK=read)


FORMATS: dict[str, Callable[[TopK], Stored]] = {
    "parquet lists + zstd": parquet_lists,
    "int32 + fp16": flat_int32_fp16,
    "DistillKit-style polynomial": polynomial,
}
