"""Where settings stop: a recipe's sections become the plain arguments of the other folders.

In: config records. Out: tasks, loss terms, training options, models ready to train.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutelage.cache import Column
from tutelage.config import Method, Recipe, Relation, expand_losses, state_weights
from tutelage.config.losses import KINDS
from tutelage.config.models import Adapt, LoraAdapter, Student, Teacher
from tutelage.config.row_rules import RowSettings
from tutelage.config.signals import HiddenSignal, PooledSignal, SampledSignal, SequencesSignal, Signal, TopKSignal
from tutelage.config.tasks import Classification, Reading
from tutelage.config.texts import Text
from tutelage.config.training import FULL_LEARNING_RATE, LORA_LEARNING_RATE, Train
from tutelage.data.reading import ReadingTask
from tutelage.data.records import RowRules
from tutelage.data.task import ClassificationTask
from tutelage.data.text_pools import TextCuts, TextPart
from tutelage.data.texts import TextTask
from tutelage.errors import CapabilityError
from tutelage.models.adapter import attach_lora, prepare_full
from tutelage.models.chat import Stops, find_stops
from tutelage.models.device import choose_device, choose_dtype
from tutelage.models.generate import Decoding
from tutelage.models.load import load_model
from tutelage.models.resize import grow_embeddings
from tutelage.models.shrink import decoder_layers, drop_layers
from tutelage.models.source import ModelSource, resolve_model
from tutelage.plugins import find_own_loss
from tutelage.teacher.signals import build_column
from tutelage.train.options import TrainOptions
from tutelage.types import LossTerm, StateTerm


def reading_task(name: str, section: Reading) -> ReadingTask:
    """Return the reading task that a recipe describes."""
    return ReadingTask(name=name, template=section.template)


def text_task(name: str, section: Text) -> TextTask:
    """Return the text task that a recipe describes."""
    return TextTask(name=name, template=section.template)


def text_parts(section: Text) -> list[TextPart]:
    """Return a text task's sources."""
    return [TextPart(**part.model_dump()) for part in section.data.parts]


def text_cuts(section: Text, *, adapt_rows: int | None, most: Mapping[str, Any]) -> TextCuts:
    """Return how a text task's rows are divided."""
    names = ("rows", "limit", "validation_rows", "test_rows", "seed", "repeat")
    return TextCuts(adapt_rows=adapt_rows, **{name: getattr(section.data, name) for name in names}, **most)


def row_rules(data: RowSettings) -> RowRules:
    """Return how a task's files are read, and what becomes of rows that are not valid."""
    return RowRules(
        columns=data.columns,
        quotes=data.quotes,
        max_rows=data.max_rows,
        skip_bad=data.on_bad_row == "skip",
        max_left_out=data.max_left_out,
        every_class=not getattr(data, "allow_empty_classes", True),
    )


def classification_task(name: str, section: Classification) -> ClassificationTask:
    """Return the classification that a recipe describes."""
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
        LossTerm(
            kind=loss.kind,
            weight=loss.weight,
            temperature=getattr(loss, "temperature", 1.0),
            beta=getattr(loss, "beta", None) if loss.kind in KINDS else None,
            skew=getattr(loss, "skew", None) if loss.kind in KINDS else None,
            settings=_own_settings(loss),
        )
        for loss in expand_losses(method)
    ]


def _own_settings(loss: Any) -> tuple[tuple[str, Any], ...]:
    own = None if loss.kind in KINDS else find_own_loss(loss.kind)
    return () if own is None else tuple((name, getattr(loss, name)) for name in own.settings)


def state_terms(method: Method, pairs: tuple[tuple[int, int], ...]) -> list[StateTerm]:
    """Return a method's losses of hidden states, over pairs of (student layer, teacher layer)."""
    terms = [StateTerm(kind, weight, pairs) for kind, weight in state_weights(method).items()]
    if not isinstance(method, Relation):
        return terms
    settings = {
        "relation_distance": {"per_sample": method.pairs_per_sample},
        "relation_angle": {"form": method.angle, "per_sample": method.triplets_per_sample},
    }
    return [replace(term, **settings[term.kind]) for term in terms]


def train_options(
    train: Train, changes: Train, student: Student, *, seed: int, bf16: bool, group_rows: int | None = None
) -> TrainOptions:
    """Lay a method's changes over the recipe's ``train`` and fill the defaults that depend on the student."""
    values = {**train.model_dump(exclude={"device"}), **changes.model_dump(exclude={"device"})}
    if values["learning_rate"] is None:
        values["learning_rate"] = LORA_LEARNING_RATE if student.adapter.kind == "lora" else FULL_LEARNING_RATE
    return TrainOptions(
        **values,
        seed=seed,
        bf16=bf16,
        gradient_checkpointing=student.gradient_checkpointing,
        group_rows=group_rows,
    )


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
    columns = [column for signal in signals for column in columns_of_signal(model, signal)]
    if class_token_ids is not None:
        columns.append(build_column(model, kind="class_scores", class_token_ids=class_token_ids))
    return columns


def columns_of_signal(model: nn.Module, signal: Signal) -> list[Column]:
    """Return the cache's columns for one signal of this teacher: one per temperature of draws, one per layer.

    Raises:
        CapabilityError: If the teacher has no such layer, or a setting does not fit it.
    """
    build = partial(build_column, model, kind=signal.kind)
    match signal:
        case TopKSignal():
            return [build(k=signal.k, temperatures=signal.temperatures, dtype=signal.dtype)]
        case SampledSignal():
            draws = partial(build, draws=signal.draws, exact=signal.exact, seed=signal.seed)
            return [draws(temperature=temperature) for temperature in signal.temperatures]
        case SequencesSignal():
            return []  # generated apart, see experiment/sequences.py
    build = partial(build, dtype=None if signal.dtype == "auto" else signal.dtype)
    match signal:
        case HiddenSignal():
            subset = partial(build, token_subset_ratio=signal.token_subset_ratio, seed=signal.seed)
            return [subset(layer=layer) for layer in layer_numbers(signal, len(decoder_layers(model)))]
        case PooledSignal():
            return [build(layer=layer) for layer in layer_numbers(signal, len(decoder_layers(model)))]
    return [build()]


def layer_numbers(signal: HiddenSignal | PooledSignal, num_layers: int) -> tuple[int, ...]:
    """Return the layer numbers of a signal: as listed, or the multiples of its stride up to the teacher's last layer.

    Raises:
        CapabilityError: If the stride is larger than the number of layers.
    """
    if signal.layers is not None:
        return signal.layers
    assert signal.stride is not None, "the recipe gives one of both"
    layers = tuple(range(signal.stride, num_layers + 1, signal.stride))
    if not layers:
        raise CapabilityError(
            f"The signal {signal.kind} has stride {signal.stride}, but the teacher has {num_layers} decoder layers. "
            "Lower `stride`, or list `layers`."
        )
    return layers


def sequence_decoding(
    signal: SequencesSignal, tokenizer: PreTrainedTokenizerBase, model: nn.Module, *, chat: bool
) -> Decoding:
    """Return how the teacher's answers are decoded; they end where this model ends a turn, and at the signal's strings.

    Raises:
        ModelError: If nothing ends an answer of this model.
        CapabilityError: If the settings contradict each other.
    """
    stops = find_stops(tokenizer, model, chat=chat)
    return Decoding(
        stops=Stops(stops.ids, (*stops.strings, *signal.stop)),
        max_new_tokens=signal.max_new_tokens,
        do_sample=signal.do_sample,
        temperature=signal.temperature,
        top_p=signal.top_p,
        num_samples=signal.num_samples,
        seed=signal.seed,
    )


def teacher_compute(teacher: Teacher) -> tuple[torch.device, torch.dtype]:
    """Choose where and in which precision the teacher runs."""
    device = choose_device(teacher.device)
    return device, choose_dtype(teacher.dtype, device)


def student_compute(recipe: Recipe, student: Student) -> tuple[torch.device, torch.dtype]:
    """Choose where and in which precision a student computes; its trained parameters are float32 in any case."""
    device = choose_device(recipe.train.device)
    return device, choose_dtype(student.dtype, device)


def model_source(section: Teacher | Student, base_folder: Path) -> ModelSource:
    """Find the weights that a section names; a student without a `model` has none of its own."""
    assert section.model is not None, "the caller knows that the section names a model"
    source = resolve_model(
        section.model,
        base_folder=base_folder,
        revision=section.revision,
        adapter_weights=section.adapter_weights,
        base=section.base,
    )
    return replace(source, resize_embeddings=section.resize_embeddings)


def teacher_source(recipe: Recipe, base_folder: Path) -> ModelSource:
    """Find the teacher's weights."""
    return model_source(recipe.teacher, base_folder)


def load_student(
    source: ModelSource,
    section: Student,
    *,
    layers: tuple[int, ...] | None,
    num_ids: int,
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """Load a student as it is before training: layers left out, adapters attached.

    A fully trained student keeps float32 parameters; under LoRA the frozen base is in ``dtype``. With
    ``resize_embeddings`` it knows all of the ``num_ids`` ids that rows may use.
    """
    is_lora = isinstance(section.adapter, LoraAdapter)
    model = load_model(source, dtype=dtype if is_lora else torch.float32, device=device, num_ids=num_ids)
    if section.resize_embeddings:
        grow_embeddings(model, num_ids)
    if layers is not None:
        drop_layers(model, layers)
    return prepare_student(model, section)


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
