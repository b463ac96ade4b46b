"""The whole idea of this package on one page, without importing it: run `python examples/minimal_kd.py`.

1. The teacher reads every row once. Its final hidden states at the supervised positions go into a cache addressed by
   the row's token ids: with the teacher's head they give its full distribution, at any temperature, for ever.
2. The student trains on ``alpha * cross-entropy + (1 - alpha) * T**2 * KL(teacher || student)``, each a *sum* over
   supervised positions, divided once per step by their number.

tests/test_minimal_kd.py holds these functions and the package's to 1e-6 of each other.
"""

import hashlib

import numpy as np
import torch
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

ALPHA, TEMPERATURE = 0.3, 2.0
VOCAB_SIZE, END_OF_TURN = 32, 1


def toy_rows(num_rows: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make (ids, target_mask) rows: a prompt of 4 to 7 tokens, then its last 3 reversed and the end-of-turn token."""
    draw, rows = np.random.default_rng(seed), []
    for _ in range(num_rows):
        prompt = draw.integers(2, VOCAB_SIZE, size=draw.integers(4, 8))
        ids = np.concatenate([prompt, prompt[:-4:-1], [END_OF_TURN]]).astype(np.int32)
        rows.append((ids, np.arange(len(ids)) >= len(prompt)))  # answer and end of turn are targets, the prompt is not
    return rows


def row_key(ids: np.ndarray) -> bytes:
    """Address a row by what the teacher reads: nothing about batches, epochs or masks."""
    return hashlib.blake2b(b"tutelage-row-1" + ids.astype("<i4").tobytes(), digest_size=16).digest()


def logit_indices(target_mask: np.ndarray) -> np.ndarray:
    """Give the logits that predict the targets: logit i predicts token i + 1."""
    return np.flatnonzero(target_mask) - 1


def tiny_llama(hidden_size: int, num_layers: int, seed: int) -> LlamaForCausalLM:
    """Make a random Llama."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def final_hidden(model: LlamaForCausalLM, rows) -> torch.Tensor:
    """Give the last hidden states at the supervised positions of right-padded rows, flat: [N, width]."""
    longest = max(len(ids) for ids, _ in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    flat = []
    for row, (ids, target_mask) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.as_tensor(ids)
        attention_mask[row, : len(ids)] = 1
        flat.append(row * longest + logit_indices(target_mask))
    hidden = model.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[torch.as_tensor(np.concatenate(flat))]


@torch.no_grad()
def teach(teacher: LlamaForCausalLM, rows) -> dict[bytes, torch.Tensor]:
    """Read every row once; keep the final hidden states of its supervised positions."""
    return {row_key(row[0]): final_hidden(teacher, [row]) for row in rows}


def cross_entropy(student_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum -log q(label) over the positions."""
    return -torch.log_softmax(student_logits, dim=-1)[torch.arange(len(labels)), labels].sum()


def forward_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sum T**2 KL(teacher || student) over the positions; T**2 keeps the gradient's size as T grows."""
    log_q = torch.log_softmax(student_logits / temperature, dim=-1)
    log_p = torch.log_softmax(teacher_logits / temperature, dim=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum()


def objective(student_logits, teacher_logits, labels, *, alpha: float, temperature: float) -> torch.Tensor:
    """Mix gold labels and the teacher; still a sum."""
    kl = forward_kl(student_logits, teacher_logits.detach(), temperature)
    return alpha * cross_entropy(student_logits, labels) + (1 - alpha) * kl


def train(student, rows, cache, teacher_head: torch.Tensor, *, num_steps: int, rows_per_step: int = 16) -> list[float]:
    """Train on the cache alone: the teacher's body is not needed any more. Gives the loss per target of each step."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    losses = []
    for step in range(num_steps):
        order = np.random.default_rng((0, step)).permutation(len(rows))  # a pure function of (seed, step)
        chosen = [rows[i] for i in order[:rows_per_step]]
        labels = torch.as_tensor(np.concatenate([ids[mask] for ids, mask in chosen])).long()
        teacher_logits = linear(torch.cat([cache[row_key(ids)] for ids, _ in chosen]), teacher_head)
        student_logits = student.lm_head(final_hidden(student, chosen))
        loss = objective(student_logits, teacher_logits, labels, alpha=ALPHA, temperature=TEMPERATURE) / len(labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Distil a random teacher into a smaller student and print the loss as it falls."""
    rows = toy_rows(64, seed=0)
    teacher, student = tiny_llama(32, 3, seed=1).eval(), tiny_llama(16, 2, seed=2)
    cache = teach(teacher, rows)
    losses = train(student, rows, cache, teacher.lm_head.weight.detach(), num_steps=100)
    print(f"{len(cache)} rows cached; loss per target {losses[0]:.3f} -> {losses[-1]:.3f} nats")


if __name__ == "__main__":
    main()
