"""A teach stage with every kind of column, its crash points, and forks of the test that die in it.

A killed process is a fork of the test with the teacher already built: a fresh one would spend its time on imports.
It dies by SIGKILL, so nothing can tidy up after it.
"""

import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sequences import END, TOKENIZER
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, teacher_rows
from transformers import LlamaForCausalLM

from tutelage.cache import (
    COLUMNS,
    ClassScoresColumn,
    Column,
    FinalHiddenColumn,
    HiddenColumn,
    PooledColumn,
    SampledColumn,
    TopKColumn,
    cache_digest,
    verify_cache,
)
from tutelage.cache.layout import column_folder, head_folder, shard_folders
from tutelage.cache.sequences import SequencesColumn
from tutelage.cache.shard import open_shard
from tutelage.store import crash, verify_artifact
from tutelage.teacher import teach
from tutelage.teacher.passes import Progress
from tutelage.teacher.sequences import generate_sequences, row_of_prompt

FORWARD_COLUMNS: tuple[Column, ...] = (
    FinalHiddenColumn(32, "fp32"),
    TopKColumn(8, (1, 2), VOCAB_SIZE),
    TopKColumn(8, (1, 2), VOCAB_SIZE, "q8"),
    SampledColumn(6, 2.0, 0, VOCAB_SIZE, head_k=2),
    ClassScoresColumn((3, 4)),
    HiddenColumn(1, 32, "int8", 0.5),
    *([HiddenColumn(2, 32, "fp8")] if hasattr(torch, "float8_e4m3fn") else []),
    PooledColumn(2, 32, "fp32"),
)
ANSWERS = SequencesColumn(VOCAB_SIZE, 5, num_samples=2, do_sample=True, temperature=1.5, seed=1, stop_ids=(END,))
EVERY_COLUMN: tuple[Column, ...] = (*FORWARD_COLUMNS, ANSWERS)
assert {column.kind for column in EVERY_COLUMN} == set(COLUMNS), "a new kind of column belongs in here"

ROWS = teacher_rows(12)
PROMPTS = [row_of_prompt(row.ids[:6]) for row in ROWS]
SHARD_ROWS = 6
NUM_SHARDS = len(ROWS) // SHARD_ROWS  # of each column
TOKEN_BUDGET = 50


def fill(
    model: LlamaForCausalLM,
    root: Path,
    *,
    order: np.ndarray | None = None,
    shard_rows: int = SHARD_ROWS,
    progress: Progress | None = None,
) -> tuple[int, list[str]]:
    """Teach every column: how many rows and prompts were computed, and the folders that were repaired.

    Args:
        model: The teacher.
        root: The cache.
        order: In which rows and prompts are handed over.
        shard_rows: Rows of a shard.
        progress: Called after every batch.
    """
    order = np.arange(len(ROWS)) if order is None else order
    taught = teach(
        model,
        [ROWS[number] for number in order],
        columns=FORWARD_COLUMNS,
        root=root,
        fingerprint=FINGERPRINT,
        shard_rows=shard_rows,
        token_budget=TOKEN_BUDGET,
        progress=progress,
    )
    written = generate_sequences(
        model,
        TOKENIZER,
        [PROMPTS[number] for number in order],
        column=ANSWERS,
        root=root,
        fingerprint=FINGERPRINT,
        shard_rows=shard_rows,
        token_budget=4 * TOKEN_BUDGET,
        progress=progress,
    )
    return taught.computed + written.computed, [*taught.repaired, *written.repaired]


def digests(root: Path) -> dict[str, str]:
    """Hash every column and the copied head.

    Raises:
        IntegrityError: If anything is damaged.
    """
    head = verify_artifact(head_folder(root, FINGERPRINT)).content_digest
    return {"head": head} | {column.name: cache_digest(root, FINGERPRINT, column) for column in EVERY_COLUMN}


def what_is_wrong(root: Path, expected: dict[str, str]) -> str | None:
    """Judge a cache that should hold what an undisturbed run leaves; None when it does."""
    damaged = verify_cache(root, FINGERPRINT)
    if damaged:
        return f"damaged: {damaged}"
    found = digests(root)
    if found != expected:
        return f"other content: {[name for name in expected if found[name] != expected[name]]}"
    left = list(root.rglob("*.tmp.*"))
    return f"left behind: {left}" if left else None


def stored_keys(root: Path, column: Column) -> list[bytes]:
    """List the keys of a column's rows, as often as they are stored, sorted."""
    folders = shard_folders(column_folder(root, FINGERPRINT, column))
    return sorted(key for folder in folders for key in open_shard(folder).keys)


def wanted_keys(column: Column) -> list[bytes]:
    """List the keys of the rows that a column should hold, each once, sorted."""
    return sorted({row.key for row in (PROMPTS if column is ANSWERS else ROWS)})


def start(action: Callable[[], object], **environment: str) -> int:
    """Run in a fork that ends with 0 when all went well; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ.update(environment)
        crash._passages.clear()
        action()
        code = 0
    except BaseException:
        traceback.print_exc()  # nothing else would say why: os._exit skips pytest's own report
        raise
    finally:
        os._exit(code)


def exit_codes(children: Sequence[int]) -> list[int]:
    """Wait for forks; a negative number is the signal that ended one, as for :mod:`subprocess`."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def killed_at(passage: str, action: Callable[[], object]) -> bool:
    """Run in a fork that is armed to die at one passage of a crash point; say whether SIGKILL ended it."""
    return exit_codes([start(action, TUTELAGE_CRASH_POINT=passage)]) == [-signal.SIGKILL]


def killed_after(seconds: float, action: Callable[[], object]) -> bool:
    """Run in a fork and kill it from here after a while; say whether that came before its end."""
    child = start(action)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)  # a child that has ended is not reaped yet: its number is still its own
    return exit_codes([child]) == [-signal.SIGKILL]


def passages_of(action: Callable[[], object], trace: Path) -> list[str]:
    """List every passage of a crash point in one undisturbed run, in order, as ``NAME:COUNT``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CRASH_TRACE", str(trace))
        action()
    counts: Counter[str] = Counter()
    named = []
    for name in trace.read_text().splitlines():
        counts[name] += 1
        named.append(f"{name}:{counts[name]}")
    return named


def some_of(passages: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Draw passages of ``count`` different crash points."""
    generator = np.random.default_rng(seed)
    shuffled = [passages[int(number)] for number in generator.permutation(len(passages))]
    drawn = {passage.rpartition(":")[0]: passage for passage in shuffled}
    return [drawn[name] for name in list(drawn)[:count]]
