"""A run small enough to repeat a hundred times: two layers, twenty rows, dropout on."""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.models.adapter import attach_lora, prepare_full
from tutelage.models.head import final_hidden, find_head
from tutelage.train.loop import train
from tutelage.train.module import DistillationModule
from tutelage.train.options import TrainOptions
from tutelage.types import FinalHidden, LossTerm, StudentRow, row_key

VOCAB = 61
PAD = 0
KD_TERMS = (LossTerm("cross_entropy", 0.3), LossTerm("forward_kl", 0.7, temperature=2.0))
CE_TERMS = (LossTerm("cross_entropy", 1.0),)


def tiny_model(seed=0, *, layers=2, dropout=0.1, hidden=16):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def tiny_student(kind="full", *, dropout=0.1):
    model = tiny_model(1, dropout=dropout)
    if kind == "full":
        return prepare_full(model)
    torch.manual_seed(2)
    return attach_lora(model, r=4, alpha=8.0, dropout=dropout)


def tiny_rows(num_rows=20, seed=3):
    """Rows of 5 to 12 tokens, of which the last 1 to 4 are targets."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        ids = generator.integers(1, VOCAB, size=generator.integers(5, 13)).astype(np.int32)
        target_mask = np.zeros(len(ids), dtype=bool)
        target_mask[-int(generator.integers(1, 5)) :] = True
        rows.append(StudentRow(f"row/{number}", ids, target_mask, row_key(ids)))
    return rows


class TinyTeacher:
    """A live teacher: the final hidden states of another tiny model."""

    def __init__(self):
        self.model = tiny_model(9, layers=1, hidden=24).eval()
        with torch.no_grad():  # an opinion: fresh weights would give nearly uniform probabilities
            self.model.lm_head.weight.mul_(20.0)

    @torch.no_grad()
    def signal(self, batch):
        return FinalHidden(final_hidden(self.model, batch), find_head(self.model))


def tiny_options(**changes):
    """Seven steps over 1.4 epochs of five steps, each cut into micro-batches, evaluated twice."""
    settings = {
        "learning_rate": 1e-2,
        "max_steps": 7,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "eval_steps": 3,
        "save_steps": None,
        "early_stopping_patience": None,
    }
    return TrainOptions(**{**settings, **changes})


def loss_on(rows):
    """An evaluation that needs no labels: minus the mean cross-entropy over all tokens."""

    @torch.no_grad()
    def evaluate(model):
        assert not model.training
        nats = [float(model(ids, labels=ids).loss) for ids in (torch.tensor(row.ids)[None].long() for row in rows[:4])]
        return {"accuracy": -sum(nats) / len(nats), "other": 0.5}

    return evaluate


def run_tiny(folder: Path, kind="full", *, rows=None, module=None, teacher=True, evaluate=True, show=None, **changes):
    """Train a fresh tiny student in ``folder``; return the module and the result."""
    rows = tiny_rows() if rows is None else rows
    train_arguments = {
        name: changes.pop(name) for name in ("resume", "run_key", "select_by", "trackers") if name in changes
    }
    terms = KD_TERMS if teacher else CE_TERMS
    module = DistillationModule(tiny_student(kind), terms) if module is None else module
    result = train(
        module,
        rows,
        TinyTeacher() if teacher is True else (teacher or None),
        tiny_options(**changes),
        folder=folder,
        pad_id=PAD,
        evaluate=loss_on(rows) if evaluate is True else (evaluate or None),
        show=show,
        **train_arguments,
    )
    return module, result


def trainable(module):
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
