"""Live curves through accelerate's trackers; without any, nothing leaves the run's folder.

In: names of trackers, the numbers of steps and evaluations. Out: what TensorBoard, Weights & Biases or Trackio show.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers

from tutelage.errors import TrainingError

PROJECT = "tutelage"
LogWith = Sequence[str | GeneralTracker]


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        TrainingError: With the command that installs it.
    """
    missing = [name for name in names if name not in {str(each) for each in get_available_trackers()}]
    if missing:
        raise TrainingError(
            f"`train.report_to` names {missing[0]}, whose package is not installed here. Run `pip install "
            f"{' '.join(missing)}`, or remove it."
        )


@contextmanager
def tracked(accelerator: Accelerator, *, name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Open the accelerator's trackers for one run, and close them however it ends."""
    if not accelerator.log_with:
        yield
        return
    plain = {key: value for key, value in settings.items() if isinstance(value, bool | int | float | str)}
    accelerator.init_trackers(PROJECT, config=plain, init_kwargs={"wandb": {"name": name}, "trackio": {"name": name}})
    try:
        yield
    finally:
        accelerator.end_training()
