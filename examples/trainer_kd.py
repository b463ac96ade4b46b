"""The package's loss in transformers' ``Trainer``: run `python examples/trainer_kd.py`.

``num_items_in_batch`` is the number of targets in the whole optimizer step. Each micro-batch gives a *sum*, divided by
that number: batches of 1 accumulated 4 times train as one batch of 4 does, whatever the lengths of their rows.
"""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import tutelage

VOCAB_SIZE, IGNORED, END = 32, -100, 1


class DistillationTrainer(Trainer):
    """A ``Trainer`` whose student also learns from a teacher that reads the same tokens."""

    def __init__(self, *args, teacher, temperature: float = 2.0, alpha: float = 0.3, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval()
        self.temperature, self.alpha = temperature, alpha
        self.model_accepts_loss_kwargs = True  # the loss divides by num_items_in_batch: nothing else may divide it

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mix gold labels and teacher over the targets."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        with torch.no_grad():
            teacher_logits = self.teacher(**inputs).logits
        loss = tutelage.kd_loss(
            outputs.logits, teacher_logits, labels, shift=True, temperature=self.temperature, alpha=self.alpha
        )
        mean = loss.over(num_items_in_batch)
        return (mean, outputs) if return_outputs else mean


def toy_rows(num_rows: int, seed: int) -> list[dict[str, list[int]]]:
    """Make rows: a prompt of 4 to 9 tokens, then some of them reversed and an end token; only these are targets."""
    draw, rows = torch.Generator().manual_seed(seed), []
    for number in range(num_rows):
        prompt = torch.randint(2, VOCAB_SIZE, (4 + number % 6,), generator=draw).tolist()
        answer = [*prompt[: -2 - number % 3 : -1], END]
        rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return rows


def pad(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Lay rows out as one batch, padded on the right."""
    longest = max(len(row["input_ids"]) for row in rows)
    short = [longest - len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * gap for row, gap in zip(rows, short, strict=True)]),
        "labels": torch.tensor([row["labels"] + [IGNORED] * gap for row, gap in zip(rows, short, strict=True)]),
        "attention_mask": torch.tensor([[1] * (longest - gap) + [0] * gap for gap in short]),
    }


def tiny_llama(hidden_size: int, seed: int) -> LlamaForCausalLM:
    """Make a random Llama."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def train(student, teacher, rows, *, batch_size: int, accumulate: int, steps: int) -> list[float]:
    """Train in place; return the loss per target of every step."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulate,
            max_steps=steps,
            learning_rate=1e-2,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=True,
        )
        trainer = DistillationTrainer(
            model=student, args=arguments, train_dataset=rows, data_collator=pad, teacher=teacher
        )
        trainer.train()
        return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def main() -> None:
    """Distil a random teacher into a smaller student and print the loss as it falls."""
    losses = train(tiny_llama(16, 2), tiny_llama(32, 1), toy_rows(64, 0), batch_size=4, accumulate=4, steps=40)
    print(f"loss per target {losses[0]:.3f} -> {losses[-1]:.3f} nats")


if __name__ == "__main__":
    main()
