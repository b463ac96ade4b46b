import dataclasses

import pytest

from tutelage.errors import ConfigError
from tutelage.train.options import CHECKS, TrainOptions


def test_the_option_list_is_a_visible_diff():
    assert [f.name for f in dataclasses.fields(TrainOptions)] == [
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "token_budget",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_ratio",
        "eval_steps",
        "save_steps",
        "save_weights",
        "early_stopping_patience",
        "early_stopping_threshold",
        "logging_steps",
        "report_to",
        "seed",
        "bf16",
        "fused",
        "packed",
        "group_rows",
        "gradient_checkpointing",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("num_train_epochs", -1.0),
        ("max_steps", 0),
        ("per_device_train_batch_size", 0),
        ("token_budget", 0),
        ("max_grad_norm", 0.0),
        ("lr_scheduler_type", "reduce_lr_on_plateau"),
        ("warmup_ratio", 1.5),
        ("eval_steps", "step"),
        ("save_steps", 0),
        ("early_stopping_patience", 0),
        ("seed", -1),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        TrainOptions(**{name: value})


def test_all_wrong_values_are_reported_at_once():
    with pytest.raises(ConfigError, match=r"learning_rate.*seed"):
        TrainOptions(learning_rate=-1.0, seed=-1)


def test_every_checked_name_is_a_field():
    assert set(CHECKS) <= {f.name for f in dataclasses.fields(TrainOptions)}


def test_max_steps_wins_over_epochs_and_epochs_may_be_fractions():
    assert TrainOptions(num_train_epochs=3.0, max_steps=2).num_steps(10) == 2
    assert TrainOptions(num_train_epochs=1.5).num_steps(5) == 8
    assert TrainOptions(num_train_epochs=0.01).num_steps(5) == 1
