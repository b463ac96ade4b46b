"""What keeping freed memory saves: processor seconds and page faults of the same training steps, with and without.

In: nothing. Out: one line per variant, each in a process of its own: ``python -m benchmarks.allocator``.
"""

import resource
import subprocess
import sys

NUM_STEPS, ROWS, TOKENS = 4, 16, 33


def measure(*, keep: bool) -> str:
    """Train a random model of the sample's width for a few steps; the first one is not counted."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tutelage.models.allocator import keep_freed_memory

    if keep and not keep_freed_memory():
        return "keep: this C library has no mallopt"
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(config.vocab_size, (ROWS, TOKENS))
    before = resource.getrusage(resource.RUSAGE_SELF)
    for number in range(NUM_STEPS + 1):
        if number == 1:
            before = resource.getrusage(resource.RUSAGE_SELF)
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return (
        f"{'keep' if keep else 'default'}: {user:.2f} s user, {system:.2f} s system, "
        f"{after.ru_minflt - before.ru_minflt:,} page faults, peak {after.ru_maxrss / 2**20:.2f} GiB"
    )


def main() -> None:
    """Run both variants twice, in turns."""
    if len(sys.argv) > 1:
        print(measure(keep=sys.argv[1] == "keep"))
        return
    for variant in ("default", "keep", "keep", "default"):
        subprocess.run([sys.executable, "-m", "benchmarks.allocator", variant], check=True)


if __name__ == "__main__":
    main()
