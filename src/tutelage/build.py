"""Where settings stop: a recipe's sections become the plain arguments of the other folders.

In: config records. Out: tasks, loss terms, training options, models ready to train.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutelage.cache import Column
from tutelage.config import ForwardKlLoss, Recipe, expand_losses
from tutelage.config.models import Adapt, LoraAdapter, Student, Teacher
from tutelage.config.signals import Signal, TopKSignal
from tutelage.config.tasks import Classification
from tutelage.config.training import FULL_LEARNING_RATE, LORA_LEARNING_RATE, Train
from tutelage.data.task import ClassificationTask
from tutelage.models.adapter import attach_lora, prepare_full
from tutelage.models.device import choose_device, choose_dtype, dtype_name
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.shrink import drop_layers
from tutelage.models.source import ModelSource, resolve_model
from tutelage.teacher.signals import build_column
from tutelage.train.options import TrainOptions
from tutelage.types import LossTerm


def classification_task(name: str, section: Classification) -> ClassificationTask:
    """Return the task that a recipe describes."""
    return ClassificationTask(
        name=name,
        template=section.template,
        labels=tuple(section.verbalisers),
        verbalisers=tuple(section.verbalisers.values()),
        **({"text_column": section.data.text} if section.data.text else {}),
        **({"label_column": section.data.label} if section.data.label else {}),
    )


def loss_terms(method: Any) -> list[LossTerm]:
    """Return a method's weighted sum of losses."""
    return [
        LossTerm(kind=loss.kind, weight=loss.weight, temperature=getattr(loss, "temperature", 1.0))
        for loss in expand_losses(method)
    ]


def signal_temperatures(method: Any) -> list[float]:
    """Return the temperatures at which a method reads the teacher."""
    return sorted({loss.temperature for loss in expand_losses(method) if isinstance(loss, ForwardKlLoss)})


def train_options(train: Train, changes: Train, student: Student, *, seed: int, bf16: bool) -> TrainOptions:
    """Lay a method's changes over the recipe's ``train`` and fill the defaults that depend on the student."""
    values = {**train.model_dump(exclude={"device"}), **changes.model_dump(exclude={"device"})}
    if values["learning_rate"] is None:
        values["learning_rate"] = LORA_LEARNING_RATE if student.adapter.kind == "lora" else FULL_LEARNING_RATE
    return TrainOptions(**values, seed=seed, bf16=bf16, gradient_checkpointing=student.gradient_checkpointing)


def adapt_options(adapt: Adapt, *, bf16: bool) -> TrainOptions:
    """Return the options under which a teacher is adapted: no selection, no checkpoints between."""
    return TrainOptions(
        learning_rate=adapt.learning_rate,
        max_steps=adapt.max_steps,
        per_device_train_batch_size=adapt.per_device_train_batch_size,
        weight_decay=0.0,
        save_steps=None,
        early_stopping_patience=None,
        seed=adapt.seed,
        bf16=bf16,
    )


def signal_columns(model: nn.Module, signals: tuple[Signal, ...], *, class_token_ids: list[int] | None) -> list[Column]:
    """Return the cache's columns for a recipe's signals, and the class scores where labels are one token each."""
    columns = [signal_column(model, signal) for signal in signals]
    if class_token_ids is not None:
        columns.append(build_column(model, kind="class_scores", class_token_ids=class_token_ids))
    return columns


def signal_column(model: nn.Module, signal: Signal) -> Column:
    """Return the cache's column for one signal of this teacher."""
    if isinstance(signal, TopKSignal):
        return build_column(model, kind=signal.kind, k=signal.k, temperatures=signal.temperatures)
    return build_column(model, kind=signal.kind, dtype=None if signal.dtype == "auto" else signal.dtype)


def teacher_compute(teacher: Teacher) -> tuple[torch.device, torch.dtype]:
    """Choose where and in which precision the teacher runs."""
    device = choose_device(teacher.device)
    return device, choose_dtype(teacher.dtype, device)


def student_compute(recipe: Recipe, student: Student) -> tuple[torch.device, torch.dtype]:
    """Choose where and in which precision a student computes; its trained parameters are float32 in any case."""
    device = choose_device(recipe.train.device)
    return device, choose_dtype(student.dtype, device)


def teacher_source(recipe: Recipe, base_folder: Path) -> ModelSource:
    """Find the teacher's weights."""
    return resolve_model(recipe.teacher.model, base_folder=base_folder, revision=recipe.teacher.revision)


def load_student(
    source: ModelSource, section: Student, *, layers: tuple[int, ...] | None, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Load a student as it is before training: layers left out, adapters attached.

    A fully trained student keeps float32 parameters; under LoRA the frozen base is in ``dtype``.
    """
    is_lora = isinstance(section.adapter, LoraAdapter)
    model = load_model(source, dtype=dtype if is_lora else torch.float32, device=device)
    if layers is not None:
        drop_layers(model, layers)
    return prepare_student(model, section), load_tokenizer(source)


def prepare_student(model: PreTrainedModel, section: Student) -> nn.Module:
    """Attach the adapter, or make every parameter trainable."""
    if isinstance(section.adapter, LoraAdapter):
        return attach_adapter(model, section.adapter)
    return prepare_full(model)


def attach_adapter(model: PreTrainedModel, adapter: LoraAdapter) -> nn.Module:
    """Attach the adapter that a recipe describes."""
    return attach_lora(
        model,
        r=adapter.r,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        targets=adapter.targets,
        last_layers=adapter.last_layers,
    )


def compute_facts(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Return what makes two computations comparable to the last bit, as far as a recipe decides it."""
    return {"device": device.type, "dtype": dtype_name(dtype)}
