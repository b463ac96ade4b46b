import pytest
from accelerate.tracking import GeneralTracker
from tiny_training import run_tiny

from tutelage.errors import TrainingError
from tutelage.train import trackers
from tutelage.train.trackers import check_trackers


class Heard(GeneralTracker):
    """A tracker that keeps what it is told."""

    name = "heard"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.settings, self.logged, self.is_closed = {}, [], False

    @property
    def tracker(self):
        return self

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **options):
        self.logged.append((step, values))

    def finish(self):
        self.is_closed = True


def test_trackers_hear_every_step_and_evaluation_and_are_closed(tmp_path):
    heard = Heard()
    run_tiny(tmp_path, trackers=[heard], max_steps=4, eval_steps=2)
    steps = [step for step, values in heard.logged if "train/loss_nats" in values]
    evaluations = [step for step, values in heard.logged if "validation/accuracy" in values]
    assert (steps, evaluations) == ([1, 2, 3, 4], [2, 4])
    assert heard.settings["learning_rate"] == 1e-2
    assert heard.is_closed


def test_trackers_are_closed_when_a_run_fails(tmp_path):
    heard = Heard()
    with pytest.raises(TrainingError, match="select_by"):
        run_tiny(tmp_path, trackers=[heard], select_by="nothing")
    assert heard.is_closed


def test_curves_go_nowhere_by_default_and_do_not_change_the_run(tmp_path):
    _, plain = run_tiny(tmp_path / "plain")
    _, followed = run_tiny(tmp_path / "followed", trackers=[Heard()])
    assert plain.final_loss_nats == followed.final_loss_nats
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == sorted(
        path.name for path in (tmp_path / "followed").iterdir()
    )


def test_a_tracker_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["wandb"])
    check_trackers(("wandb",))
    with pytest.raises(TrainingError, match=r"names trackio, whose package is not installed.*pip install trackio"):
        check_trackers(("wandb", "trackio"))
