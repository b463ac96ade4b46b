"""How the memory of a process grows over many arms, with and without giving freed memory back between them.

In: nothing. Out: one line per variant, each in a process of its own: ``python -m benchmarks.memory_of_arms``.
``python -m benchmarks.memory_of_arms VARIANT NUM_ARMS`` runs one of them here.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

VARIANTS = ("keep", "give back")
NUM_ARMS = (2, 20)
NUM_STEPS, ROWS, TOKENS = 3, 8, 33


def one_arm(number: int, folder: Path) -> float:
    """Train, select and save a random student of 72 million parameters; return the seconds of its steps."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tutelage.models.adapter import prepare_full
    from tutelage.train.loop import train
    from tutelage.train.module import DistillationModule
    from tutelage.train.options import TrainOptions
    from tutelage.types import LossTerm, StudentRow, row_key

    torch.manual_seed(number)
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    student = prepare_full(LlamaForCausalLM(config))
    generator = np.random.default_rng(number)
    rows = []
    for index in range(NUM_STEPS * ROWS):
        ids = generator.integers(1, config.vocab_size, size=generator.integers(9, TOKENS + 1)).astype(np.int32)
        rows.append(StudentRow(f"row/{index}", ids, np.arange(len(ids)) >= 4, row_key(ids)))
    began = time.perf_counter()
    train(
        DistillationModule(student, [LossTerm("cross_entropy", 1.0)]), rows, None,
        TrainOptions(per_device_train_batch_size=ROWS, save_steps=None, eval_steps=NUM_STEPS),
        folder=folder, pad_id=0, evaluate=lambda model: {"accuracy": 0.5},
    )  # fmt: skip
    return time.perf_counter() - began


def measure(variant: str, num_arms: int) -> str:
    """Run arms one after the other in this process."""
    from tutelage.models.allocator import give_back_memory, keep_freed_memory

    keep_freed_memory()
    seconds = 0.0
    for number in range(num_arms):
        with tempfile.TemporaryDirectory() as folder:
            seconds += one_arm(number, Path(folder))
        if variant == "give back":
            give_back_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    resident = psutil.Process().memory_info().rss / 2**20
    return (
        f"{variant}, {num_arms} arms: peak {peak:,.0f} MiB, {resident:,.0f} MiB after the last one, "
        f"{seconds / num_arms:.2f} s per arm"
    )


def main() -> None:
    """Run every variant with few and with many arms."""
    if len(sys.argv) == 3:
        print(measure(sys.argv[1], int(sys.argv[2])))
        return
    for variant in VARIANTS:
        for num_arms in NUM_ARMS:
            subprocess.run([sys.executable, "-m", "benchmarks.memory_of_arms", variant, str(num_arms)], check=True)


if __name__ == "__main__":
    main()
