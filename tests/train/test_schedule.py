import math

import pytest

from tutelage.errors import ConfigError
from tutelage.train.options import SCHEDULERS, TrainOptions
from tutelage.train.schedule import rate_factor

NEEDED = {"cosine_with_min_lr": {"min_lr_rate": 0.1}, "warmup_stable_decay": {"num_decay_steps": 1}}
# At 10 steps of which 2 warm up: the factors of steps 3, 6 and 10, by each schedule's own formula.
AFTER_WARMUP = {
    "linear": (1.0, 5 / 8, 1 / 8),
    "cosine": (1.0, 0.5 * (1 + math.cos(math.pi * 3 / 8)), 0.5 * (1 + math.cos(math.pi * 7 / 8))),
    "cosine_with_restarts": (1.0, 0.5 * (1 + math.cos(math.pi * 3 / 8)), 0.5 * (1 + math.cos(math.pi * 7 / 8))),
    "polynomial": (1.0, (1 - 1e-3) * 5 / 8 + 1e-3, (1 - 1e-3) / 8 + 1e-3),
    "constant": (1.0, 1.0, 1.0),
    "constant_with_warmup": (1.0, 1.0, 1.0),
    "inverse_sqrt": (1.0, math.sqrt(2 / 5), math.sqrt(2 / 9)),
    "cosine_with_min_lr": (
        1.0,
        0.45 * (1 + math.cos(math.pi * 3 / 8)) + 0.1,
        0.45 * (1 + math.cos(math.pi * 7 / 8)) + 0.1,
    ),
    "warmup_stable_decay": (1.0, 1.0, 1.0),
}


def factors(name, num_steps, *, warmup_ratio=0.1, learning_rate=1e-4, **settings):
    options = TrainOptions(
        lr_scheduler_type=name,
        lr_scheduler_kwargs={**NEEDED.get(name, {}), **settings},
        warmup_ratio=warmup_ratio,
        learning_rate=learning_rate,
    )
    schedule = rate_factor(options, num_steps)
    return [schedule(step) for step in range(num_steps)]


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("warmup_ratio", [0.1, 0.5])
@pytest.mark.parametrize("num_steps", [2, 3, 7, 40])
def test_the_first_step_of_every_schedule_has_a_rate_and_none_is_above_the_peak(name, num_steps, warmup_ratio):
    found = factors(name, num_steps, warmup_ratio=warmup_ratio)
    assert 0.0 < found[0] <= 1.0
    assert max(found) <= 1.0


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "warmup_stable_decay"])
def test_the_only_step_of_a_run_has_a_rate(name, warmup_ratio):
    assert factors(name, 1, warmup_ratio=warmup_ratio)[0] > 0.0


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_steps_after_the_warm_up_are_those_of_the_schedule(name):
    found = factors(name, 10, warmup_ratio=0.2)
    assert (found[2], found[5], found[9]) == pytest.approx(AFTER_WARMUP[name])


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "constant_with_warmup", "warmup_stable_decay"])
def test_a_warm_up_from_zero_is_entered_one_step_later(name):
    assert factors(name, 20, warmup_ratio=0.2)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    ("name", "settings", "cause"),
    [
        ("warmup_stable_decay", {}, "`num_decay_steps` is missing"),
        ("cosine_with_min_lr", {}, "`min_lr` or `min_lr_rate` is missing"),
        ("cosine", {"num_cycle": 2}, "'num_cycle' is not known; expected num_cycles"),
        ("constant_with_warmup", {"power": 2}, "'power' is not known; this schedule takes none"),
        ("cosine", {"num_cycles": float("nan")}, "`num_cycles` is nan, expected a finite number"),
        ("cosine", {"num_cycles": "two"}, "schedule cosine: "),
        ("polynomial", {"lr_end": 1.0}, "must be smaller than initial lr"),
        ("inverse_sqrt", {"timescale": 0}, "schedule inverse_sqrt: "),
        ("polynomial", {"lr_end": -1e-3, "power": 0.1}, "has the learning rate -"),
        ("warmup_stable_decay", {"num_decay_steps": 10}, "num_decay_steps is 10, but 9 of 10 steps follow"),
        ("warmup_stable_decay", {"num_decay_steps": 2, "decay_type": "log"}, "decay type"),
        ("warmup_stable_decay", {"num_decay_steps": 2, "num_stable_steps": 2}, "'num_stable_steps' is not known"),
    ],
)
def test_arguments_that_a_schedule_cannot_use_are_one_line(name, settings, cause):
    options = TrainOptions(lr_scheduler_type=name, lr_scheduler_kwargs=settings)
    with pytest.raises(ConfigError, match=cause) as refused:
        rate_factor(options, 10)
    assert "\n" not in str(refused.value)
    assert "Change `lr_scheduler_kwargs`" in str(refused.value)
