"""Names of runs and the folders they live in.

In: what distinguishes a run. Out: ids such as ``KD1_sentiment_S1_T4_a0.5_seed42`` and paths.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tutelage.store import safe_name

# Short forms of the settings that a reader meets most often in an id (SPEC 5).
SHORT_SETTINGS = {
    "temperature": "T",
    "alpha": "a",
    "logit.temperature": "T",
    "logit.alpha": "a",
    "lambda_dist": "ld",
    "lambda_angle": "la",
    "lambda": "l",
    "train.learning_rate": "lr",
    "train.num_train_epochs": "ep",
    "train.max_steps": "st",
    "train.per_device_train_batch_size": "bs",
    "train.weight_decay": "wd",
}


def run_id(method: str, task: str, student: str, settings: Mapping[str, object], seed: int | None) -> str:
    """Name a run: ``METHOD_TASK_STUDENT[_SETTINGS][_seedN]``.

    Settings come in the order given; numbers are written as briefly as they can be read back.
    """
    parts = [method, task, student]
    parts += [f"{SHORT_SETTINGS.get(name, name.rpartition('.')[2])}{_short(value)}" for name, value in settings.items()]
    if seed is not None:
        parts.append(f"seed{seed}")
    return safe_name("_".join(part for part in parts if part), what="run id")


def _short(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}".replace("+", "")
    return str(value)


@dataclass(frozen=True)
class Folders:
    """Where an experiment keeps what: everything below ``workspace``."""

    workspace: Path
    experiment: str

    @property
    def root(self) -> Path:
        """The experiment's own folder."""
        return self.workspace / self.experiment

    @property
    def cache(self) -> Path:
        """Teacher caches are shared by all experiments of a workspace."""
        return self.workspace / "cache"

    def prepared(self, task: str) -> Path:
        """A task's rows."""
        return self.root / "prepare" / task

    def adapted(self, key: str) -> Path:
        """Adapted teachers are shared too: the folder's name is the key of the stage."""
        return self.workspace / "models" / f"adapted-{key}"

    def taught(self, task: str) -> Path:
        """What the teacher answered on a task, and where its cache is."""
        return self.root / "teach" / task

    def shrunk(self, student: str) -> Path:
        """A student's layer map."""
        return self.root / "shrink" / student

    def run(self, name: str) -> Path:
        """One finished run."""
        return self.root / name

    def work(self, name: str) -> Path:
        """Checkpoints of a run that is not finished; deleted once it is."""
        return self.root / "work" / name
