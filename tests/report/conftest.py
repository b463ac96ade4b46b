"""One made-up experiment and its report for the whole folder's tests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_experiment import QUESTION, REPORT_COMMAND, write_experiment

from tutelage.report.build import Built, build_report
from tutelage.report.collect import Experiment, collect
from tutelage.report.pairing import ItemScores
from tutelage.report.summary import summarise


@pytest.fixture(scope="session")
def experiment_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("runs") / "reviews", num_items=240)


@pytest.fixture(scope="session")
def built(experiment_folder: Path) -> Built:
    return build_report(experiment_folder, question=QUESTION, command=REPORT_COMMAND)


@pytest.fixture(scope="session")
def experiment(experiment_folder: Path) -> Experiment:
    return collect(experiment_folder)


@pytest.fixture(scope="session")
def group(experiment: Experiment) -> dict[str, Any]:
    return summarise(experiment, question=QUESTION, command=REPORT_COMMAND)["groups"][0]


@pytest.fixture
def change_records() -> Callable[..., Experiment]:
    """Return a function that copies an experiment with every run's record passed through ``change``."""

    def changed(experiment: Experiment, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Experiment:
        runs, trials = (
            tuple(replace(run, record=change(dict(run.record))) for run in each)
            for each in (experiment.runs, experiment.trials)
        )
        return Experiment(experiment.name, runs, trials)

    return changed


@pytest.fixture
def scored() -> Callable[..., ItemScores]:
    """Return a function that makes a run's scores from a list, with item keys ``i0, i1, ..``."""

    def make(scores: Any, *, clusters: Any = None, keys: Any = None) -> ItemScores:
        default = np.array([f"i{index:05d}" for index in range(len(scores))])
        item_keys = default if keys is None else np.asarray(keys)
        return ItemScores(item_keys, item_keys if clusters is None else np.asarray(clusters), np.asarray(scores, float))

    return make
