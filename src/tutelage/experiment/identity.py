"""Names of runs and the folders they live in.

In: what distinguishes a run. Out: ids such as ``KD1_sentiment_S1_T4_a0.5_seed42`` and paths. The folder of whatever a
stage makes ends in the first digits of its key, so that results of other settings lie beside each other.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tutelage.store import safe_name

# Short forms of the settings that a reader meets most often in an id.
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
KEY_DIGITS = 8  # of a key in a folder's name; the whole key stands in the manifest
MAX_ID_LENGTH = 70  # leaves room for a dot, the key and the name of a temporary
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def run_id(method: str, task: str, student: str, settings: Mapping[str, object], seed: int | None) -> str:
    """Name a run: ``METHOD_TASK_STUDENT[_SETTINGS][_seedN]``.

    Settings come in the order given; numbers are written as briefly as they can be read back. A long name ends in a
    hash of the whole.
    """
    parts = [method, task, student]
    parts += [f"{SHORT_SETTINGS.get(name, name.rpartition('.')[2])}{_short(value)}" for name, value in settings.items()]
    if seed is not None:
        parts.append(f"seed{seed}")
    whole = "_".join(part for part in parts if part)
    name = NOT_IN_NAMES.sub("-", whole)
    if len(name) > MAX_ID_LENGTH:
        digest = hashlib.sha256(whole.encode()).hexdigest()[:KEY_DIGITS]
        name = f"{name[: MAX_ID_LENGTH - KEY_DIGITS - 1]}-{digest}"
    return safe_name(name, what="run id")


def _short(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        brief = f"{value:g}"
        return (brief if float(brief) == value else repr(value)).replace("+", "")
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

    def stage(self, stage: str, subject: str, key: str) -> Path:
        """What a stage made of a task or a student."""
        return self.root / stage / keyed(subject, key)

    def adapted(self, key: str) -> Path:
        """Adapted teachers are shared by all experiments too."""
        return self.workspace / "models" / f"adapted-{key}"

    def run(self, name: str, key: str) -> Path:
        """One finished run."""
        return self.root / keyed(name, key)

    def curves(self, name: str, key: str) -> Path:
        """Files of a tracker that writes beside the runs, such as TensorBoard."""
        return self.root / "curves" / keyed(name, key)

    def work(self, name: str) -> Path:
        """Checkpoints of a run that is not finished; deleted once it is."""
        return self.root / "work" / name


def keyed(name: str, key: str) -> str:
    """Add the first digits of a key to a name."""
    return f"{name}.{key[:KEY_DIGITS]}"
