import json
import math
import os
import signal

import pytest
import torch
from tiny_training import (
    CE_TERMS,
    KD_TERMS,
    TinyTeacher,
    loss_on,
    run_tiny,
    tiny_options,
    tiny_rows,
    tiny_student,
    trainable,
)

from tutelage.errors import NumericsError, PreemptedError, TrainingError
from tutelage.train import checkpoint
from tutelage.train.module import DistillationModule
from tutelage.train.optimizer import make_optimizer, trainable_parameters
from tutelage.train.run import Run
from tutelage.train.signals import STOP_SIGNALS
from tutelage.types import LossTerm


def lines(folder, name="metrics"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def same_weights(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Scripted:
    """An evaluation that gives the listed metrics in turn, and keeps the weights that it saw."""

    def __init__(self, *metrics):
        self.metrics = metrics
        self.seen = []

    def __call__(self, model):
        self.seen.append({f"student.{n}": p.detach().clone() for n, p in model.named_parameters()})
        return {"accuracy": self.metrics[len(self.seen) - 1]}


class RecordingTeacher(TinyTeacher):
    def __init__(self):
        super().__init__()
        self.keys = []

    def signal(self, batch):
        self.keys.extend(batch.item_keys)
        return super().signal(batch)


def test_steps_beyond_an_epoch_start_the_next_one_and_every_row_comes_once_in_each(tmp_path):
    teacher, rows = RecordingTeacher(), tiny_rows(20)
    _, result = run_tiny(tmp_path, rows=rows, teacher=teacher, max_steps=12, evaluate=False)
    epochs = [teacher.keys[start : start + 20] for start in (0, 20)]
    assert all(sorted(epoch) == sorted(row.item_key for row in rows) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len(teacher.keys) == 48
    assert [line["epoch"] for line in lines(tmp_path)] == [round(step / 5, 6) for step in range(1, 13)]
    assert result.steps == 12


def test_epochs_are_counted_when_no_steps_are_given(tmp_path):
    _, result = run_tiny(tmp_path, max_steps=None, num_train_epochs=1.5, evaluate=False)
    assert result.steps == 8


def test_tokens_and_targets_are_the_rows_own(tmp_path):
    rows = tiny_rows(20)
    _, result = run_tiny(tmp_path, rows=rows, max_steps=5, evaluate=False)
    assert result.tokens == sum(len(row.ids) for row in rows) == lines(tmp_path)[-1]["tokens"]
    assert result.targets == sum(int(row.target_mask.sum()) for row in rows) == lines(tmp_path)[-1]["targets"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    weights, content = [], []
    for name, seed in (("a", 42), ("b", 42), ("c", 43)):
        torch.rand(len(content) + 1)  # what ran before does not matter
        module, _ = run_tiny(tmp_path / name, seed=seed)
        weights.append(trainable(module))
        content.append((tmp_path / name / "metrics.jsonl").read_bytes())
    assert content[0] == content[1] != content[2]
    assert same_weights(weights[0], weights[1])
    assert not same_weights(weights[0], weights[2])


def test_metrics_hold_no_times_and_timings_hold_them(tmp_path):
    run_tiny(tmp_path, max_steps=2)
    assert list(lines(tmp_path)[0]) == [
        "step",
        "epoch",
        "loss_nats",
        "parts",
        "grad_norm",
        "learning_rate",
        "tokens",
        "targets",
        "rows",
    ]
    assert [set(line) for line in lines(tmp_path, "timings")] == [{"step", "seconds", "tokens_per_second"}] * 2


def test_logging_steps_thin_the_log_out_and_keep_the_last_step(tmp_path):
    run_tiny(tmp_path, logging_steps=3)
    assert [line["step"] for line in lines(tmp_path)] == [3, 6, 7]


def test_the_learning_rate_warms_up_from_above_zero_and_follows_the_cosine(tmp_path):
    run_tiny(tmp_path, max_steps=10, warmup_ratio=0.2, evaluate=False)
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    expected = [1 / 3, 2 / 3] + [0.5 * (1 + math.cos(math.pi * done / 8)) for done in range(8)]
    assert rates == pytest.approx([1e-2 * factor for factor in expected])


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_run_of_one_step_moves_the_weights(tmp_path, kind):
    module = DistillationModule(tiny_student(kind), KD_TERMS)
    before = trainable(module)
    _, result = run_tiny(tmp_path, kind, module=module, max_steps=1)
    assert result.steps == 1
    assert not same_weights(before, trainable(module))


def test_one_epoch_of_one_batch_moves_the_weights(tmp_path):
    module = DistillationModule(tiny_student(), KD_TERMS)
    before = trainable(module)
    _, result = run_tiny(tmp_path, module=module, rows=tiny_rows(3), max_steps=None, num_train_epochs=1.0)
    assert result.steps == 1
    assert not same_weights(before, trainable(module))


def test_a_run_whose_weights_did_not_move_is_not_finished(tmp_path):
    with pytest.raises(TrainingError, match=r"same as before training.*learning_rate.*1e-60"):
        run_tiny(tmp_path, learning_rate=1e-60, weight_decay=0.0)
    assert not (tmp_path / "weights").exists()


def test_weights_that_no_row_reads_are_checked_before_they_are_kept(tmp_path):
    module = DistillationModule(tiny_student(), CE_TERMS)
    layer = module.student.model.layers[0].self_attn.q_proj
    evaluate = loss_on(tiny_rows())

    def poison(model):
        metrics = evaluate(model)
        layer.weight.data[0, 0] = float("nan")
        return metrics

    with pytest.raises(NumericsError, match=r"weights are not finite: student.model.layers.0.self_attn.q_proj"):
        run_tiny(tmp_path, module=module, teacher=False, evaluate=poison, max_steps=1)
    assert not (tmp_path / "weights").exists()


def test_norms_and_biases_are_not_decayed():
    parameters = trainable_parameters(DistillationModule(tiny_student(), CE_TERMS))
    optimizer = make_optimizer(parameters, tiny_options(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(parameters)
    for name, parameter in parameters.items():
        assert decay[id(parameter)] == (0.0 if "norm" in name else 0.1)


def test_the_best_weights_are_in_the_student_at_the_end_and_the_earlier_of_equals_wins(tmp_path):
    evaluate = Scripted(0.1, 0.5, 0.5, 0.2)
    module, result = run_tiny(tmp_path, evaluate=evaluate, eval_steps=2)
    assert (result.best_step, result.best_metric, result.steps) == (4, 0.5, 7)
    assert same_weights(trainable(module), evaluate.seen[1])
    assert not same_weights(trainable(module), evaluate.seen[3])
    assert [(line["step"], line["accuracy"]) for line in lines(tmp_path, "evaluations")] == [
        (2, 0.1),
        (4, 0.5),
        (6, 0.5),
        (7, 0.2),
    ]


def test_without_evaluation_the_last_weights_stay(tmp_path):
    _, result = run_tiny(tmp_path, evaluate=False)
    assert (result.best_step, result.best_metric) == (7, None)


def test_evaluation_comes_at_the_end_of_every_epoch_and_of_the_run(tmp_path):
    run_tiny(tmp_path, max_steps=12, eval_steps="epoch")
    assert [line["step"] for line in lines(tmp_path, "evaluations")] == [5, 10, 12]


def test_the_student_evaluates_in_eval_mode_and_trains_on_in_train_mode(tmp_path):
    modes = []
    module = DistillationModule(tiny_student(), KD_TERMS)

    def evaluate(model):
        assert model is module.student
        modes.append(model.training)
        return {"accuracy": 0.5}

    run_tiny(tmp_path, module=module, evaluate=evaluate, show=lambda record: modes.append(module.training))
    assert modes == [True, True, True, False, True, True, True, False, True, False]
    assert not module.training


def test_patience_stops_a_run_that_gains_too_little(tmp_path):
    evaluate = Scripted(0.5, 0.5005, 0.5009, 0.9)
    _, result = run_tiny(
        tmp_path, evaluate=evaluate, eval_steps=1, early_stopping_patience=2, early_stopping_threshold=0.01
    )
    assert result.stopped_early
    assert (result.steps, result.best_step, result.best_metric) == (3, 3, 0.5009)


def test_a_clear_gain_renews_the_patience(tmp_path):
    evaluate = Scripted(0.5, 0.4, 0.6, 0.5, 0.4, 0.9)
    _, result = run_tiny(tmp_path, evaluate=evaluate, eval_steps=1, early_stopping_patience=2)
    assert (result.steps, result.best_step, result.stopped_early) == (5, 3, True)


def test_a_missing_metric_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"'f1'.*accuracy, other"):
        run_tiny(tmp_path, select_by="f1")


def test_a_metric_that_is_not_finite_is_an_error(tmp_path):
    with pytest.raises(NumericsError, match="accuracy is nan"):
        run_tiny(tmp_path, evaluate=Scripted(float("nan")))


def test_a_student_learns(tmp_path):
    module = DistillationModule(tiny_student(dropout=0.0), CE_TERMS)
    run_tiny(tmp_path, module=module, teacher=False, rows=tiny_rows(8), max_steps=40, evaluate=False)
    losses = [line["loss_nats"] for line in lines(tmp_path)]
    assert losses[0] > 3.9  # about ln 61
    assert losses[-1] < 0.5 * losses[0]


def test_a_student_comes_closer_to_its_teacher(tmp_path):
    module = DistillationModule(tiny_student(dropout=0.0), [LossTerm("forward_kl", 1.0)])
    run_tiny(tmp_path, module=module, rows=tiny_rows(8), max_steps=40, evaluate=False)
    divergences = [line["loss_nats"] for line in lines(tmp_path)]
    assert divergences[0] > 0.3
    assert divergences[-1] < 0.5 * divergences[0]


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path):
    module, result = run_tiny(tmp_path)
    content = (tmp_path / "metrics.jsonl").read_bytes()

    def refuse(model):
        raise AssertionError("evaluated again")

    again, same = run_tiny(tmp_path, evaluate=refuse)
    assert same == result
    assert same_weights(trainable(module), trainable(again))
    assert not again.training
    assert (tmp_path / "metrics.jsonl").read_bytes() == content
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_can_be_started_anew(tmp_path):
    run_tiny(tmp_path)
    steps = []
    run_tiny(tmp_path, resume=False, show=lambda record: steps.append(record.step))
    assert steps == list(range(1, 8))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 2e-2}, {"run_key": "other"}, {"rows": tiny_rows(20, seed=8)}],
    ids=["lr", "key", "rows"],
)
def test_stored_state_of_another_run_is_refused(tmp_path, finished, changes):
    if finished:
        run_tiny(tmp_path)
    else:
        with pytest.raises(PreemptedError):
            run_tiny(tmp_path, show=lambda record: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingError, match="other settings"):
        run_tiny(tmp_path, **changes)


def test_nothing_is_written_when_the_weights_are_not_wanted(tmp_path):
    run_tiny(tmp_path, save_weights=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluations.jsonl",
        "metrics.jsonl",
        "timings.jsonl",
    ]


@pytest.mark.parametrize("signum", STOP_SIGNALS)
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_ends_the_step_saves_and_leaves_with_75(tmp_path, signum, times):
    before = [signal.getsignal(s) for s in STOP_SIGNALS]

    def show(record):
        if record.step == 2:
            for _ in range(times):
                os.kill(os.getpid(), signum)

    with pytest.raises(PreemptedError, match=rf"{signum.name}.*step 2 of 7") as error:
        run_tiny(tmp_path, show=show)
    assert error.value.exit_code == 75
    assert [signal.getsignal(s) for s in STOP_SIGNALS] == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-00000002"]
    _, result = run_tiny(tmp_path)
    assert result.steps == 7


def test_a_second_signal_while_the_checkpoint_is_written_does_no_harm(tmp_path, monkeypatch):
    verify = checkpoint.verify_artifact

    def signalled_verify(path):
        os.kill(os.getpid(), signal.SIGINT)
        return verify(path)

    monkeypatch.setattr(checkpoint, "verify_artifact", signalled_verify)
    with pytest.raises(PreemptedError, match="SIGTERM"):
        run_tiny(tmp_path, show=lambda record: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.undo()
    assert run_tiny(tmp_path)[1].steps == 7


def test_a_signal_during_the_evaluation_saves_what_it_found(tmp_path):
    evaluate = loss_on(tiny_rows())
    calls = []

    def signalled(model):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(model)

    with pytest.raises(PreemptedError, match="after step 3"):
        run_tiny(tmp_path, evaluate=signalled)
    run_tiny(tmp_path, evaluate=signalled)
    assert len(calls) == 3  # steps 3, 6 and 7: step 3 was not evaluated twice
    assert [line["step"] for line in lines(tmp_path, "evaluations")] == [3, 6, 7]


def test_a_signal_before_the_first_step_leaves_nothing_to_save(tmp_path, monkeypatch):
    restore = Run.restore

    def signalled_restore(self, *, resume):
        os.kill(os.getpid(), signal.SIGTERM)
        return restore(self, resume=resume)

    monkeypatch.setattr(Run, "restore", signalled_restore)
    with pytest.raises(PreemptedError, match="after step 0"):
        run_tiny(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_each_step_is_shown(tmp_path):
    shown = []
    run_tiny(tmp_path, show=shown.append)
    assert [record.step for record in shown] == list(range(1, 8))
    assert {record.num_steps for record in shown} == {7}
    assert [record.loss_nats for record in shown] == [line["loss_nats"] for line in lines(tmp_path)]
    assert shown[-1].eta_seconds == 0.0
    assert all(record.tokens_per_second > 0 for record in shown)
