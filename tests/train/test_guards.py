"""R6: a number that is not finite never reaches a weight, and says where it came from."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_training import CE_TERMS, KD_TERMS, PAD, TinyTeacher, run_tiny, tiny_rows, tiny_student, trainable

from tutelage.data.collate import collate
from tutelage.errors import AlignmentError, DataError, NumericsError, TrainingError
from tutelage.train import loop
from tutelage.train.guards import check_rows, check_signal, name_some
from tutelage.train.module import DistillationModule
from tutelage.train.optimizer import optimizer_tensors
from tutelage.types import ClassScores, DenseLogits, FinalHidden, LossTerm, Sampled, TopK

BAD_STEP = 3


class PoisonedTeacher(TinyTeacher):
    """Says NaN about one position of one row, from the third step on."""

    num_calls = 0

    def signal(self, batch):
        signal = super().signal(batch)
        self.num_calls += 1
        if self.num_calls >= BAD_STEP:
            signal.hidden_NE[-1, 0] = float("nan")
            self.row = batch.item_keys[-1]
        return signal


class Watch:
    """Keeps weights and optimizer state after every good step."""

    def __init__(self, monkeypatch):
        make_learner = loop.make_learner
        self.kept = {}

        def make(*args):
            self.learner = make_learner(*args)
            return self.learner

        monkeypatch.setattr(loop, "make_learner", make)

    def state(self):
        tensors = {**self.learner.parameters, **optimizer_tensors(self.learner.optimizer, self.learner.parameters)}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def __call__(self, record):
        self.kept[record.step] = self.state()


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


def assert_untouched(watch, folder, error):
    assert error.value.exit_code == 6
    assert f"Step {BAD_STEP}" in str(error.value)
    assert "row/" in str(error.value)
    assert max(watch.kept) == BAD_STEP - 1
    now, then = watch.state(), watch.kept[BAD_STEP - 1]
    assert now.keys() == then.keys()
    assert all(torch.equal(now[name], then[name]) for name in then)
    assert all(p.grad is None for p in watch.learner.parameters.values())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert not (folder / "weights").exists()


def whole_steps(**changes):
    return {"token_budget": 1000, "evaluate": False, **changes}


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_teacher_that_says_nan_is_refused_by_row(tmp_path, watch, kind):
    teacher = PoisonedTeacher()
    with pytest.raises(NumericsError, match="teacher") as error:
        run_tiny(tmp_path, kind, teacher=teacher, show=watch, **whole_steps())
    assert_untouched(watch, tmp_path, error)
    assert "at 1 of " in str(error.value)
    assert f"rows {teacher.row}." in str(error.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("settings", [{"token_budget": 1000}, {"token_budget": 12}], ids=str)
def test_a_loss_that_is_not_finite_stops_the_whole_step(tmp_path, watch, bad, settings):
    """In the second setting the first micro-batches of the bad step are good: their gradients go too."""
    module = DistillationModule(tiny_student(), CE_TERMS)
    forward, rows_seen = module.forward, []

    def poisoned(batch, signals):
        losses = forward(batch, signals)["targets"]
        rows_seen.extend(batch.item_keys)
        if len(rows_seen) == BAD_STEP * 4:  # the last micro-batch of the third step
            total = losses.objective.total * bad
            losses = dataclasses.replace(losses, objective=dataclasses.replace(losses.objective, total=total))
        return {"targets": losses}

    module.forward = poisoned
    with pytest.raises(NumericsError, match=r"loss is -?(nan|inf)") as error:
        run_tiny(tmp_path, module=module, teacher=False, show=watch, evaluate=False, **settings)
    assert_untouched(watch, tmp_path, error)
    assert rows_seen[-1] in str(error.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_gradient_stops_the_step_and_names_the_parameter(tmp_path, watch, bad):
    module = DistillationModule(tiny_student(), CE_TERMS)
    name, parameter = next((n, p) for n, p in module.named_parameters() if "layers.1.mlp.up_proj" in n)
    calls = []

    def hook(gradient):
        calls.append(1)
        if len(calls) == BAD_STEP:
            gradient = gradient.clone()
            gradient[0, 0] = bad
        return gradient

    parameter.register_hook(hook)
    with pytest.raises(NumericsError, match="gradient") as error:
        run_tiny(tmp_path, module=module, teacher=False, show=watch, **whole_steps())
    assert_untouched(watch, tmp_path, error)
    assert name in str(error.value)


def test_a_loss_of_exactly_zero_is_an_error(tmp_path):
    module = DistillationModule(tiny_student(), [LossTerm("cross_entropy", 0.0)])
    before = trainable(module)
    with pytest.raises(NumericsError, match="exactly 0"):
        run_tiny(tmp_path, module=module, teacher=False)
    assert all(torch.equal(before[name], p) for name, p in trainable(module).items())


def test_a_row_without_target_is_refused_before_anything_is_written(tmp_path):
    rows = tiny_rows()
    rows[7] = dataclasses.replace(rows[7], target_mask=np.zeros_like(rows[7].target_mask))
    with pytest.raises(DataError, match="row/7"):
        run_tiny(tmp_path / "run", rows=rows)
    assert not (tmp_path / "run").exists()


def test_no_rows_is_an_error():
    with pytest.raises(DataError, match="no rows"):
        check_rows([])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_would_swallow_updates_are_refused(tmp_path, dtype):
    module = DistillationModule(tiny_student().to(dtype), CE_TERMS)
    with pytest.raises(TrainingError, match=str(dtype)):
        run_tiny(tmp_path, module=module, teacher=False)


def test_a_student_in_which_nothing_learns_is_refused(tmp_path):
    module = DistillationModule(tiny_student().requires_grad_(False), CE_TERMS)
    with pytest.raises(TrainingError, match="No parameter"):
        run_tiny(tmp_path, module=module, teacher=False)


def signals(batch, num_positions):
    head = TinyTeacher().signal(batch).head
    logprobs_NK = torch.log_softmax(torch.randn(num_positions, 5), dim=1)
    return {
        "dense": DenseLogits(torch.randn(num_positions, 61)),
        "final_hidden": FinalHidden(torch.randn(num_positions, 24), head),
        "topk": TopK(torch.arange(5).repeat(num_positions, 1), logprobs_NK, {2.0: torch.randn(num_positions)}, 61),
        "sampled": Sampled(
            torch.arange(5).repeat(num_positions, 1),
            torch.full((num_positions, 5), 0.2),
            logprobs_NK,
            temperature=1.0,
            vocab_size=61,
        ),
    }


def values_of(signal):
    return {DenseLogits: "logits_NU", FinalHidden: "hidden_NE", TopK: "logprobs_NK", Sampled: "logprobs_NK"}[
        type(signal)
    ]


@pytest.mark.parametrize("kind", ["dense", "final_hidden", "topk", "sampled"])
def test_bad_positions_are_traced_to_their_rows(kind):
    rows = tiny_rows(6)
    batch = collate(rows, pad_id=PAD)
    signal = signals(batch, batch.num_targets)[kind]
    check_signal(signal, batch, step=1)
    first_of_row_4 = sum(int(row.target_mask.sum()) for row in rows[:4])
    getattr(signal, values_of(signal))[first_of_row_4, 2] = float("nan")
    with pytest.raises(NumericsError, match=r"rows row/4\."):
        check_signal(signal, batch, step=1)


def test_a_normaliser_that_is_not_finite_is_found_too():
    batch = collate(tiny_rows(6), pad_id=PAD)
    signal = signals(batch, batch.num_targets)["topk"]
    signal.log_z_N[2.0][0] = float("inf")
    with pytest.raises(NumericsError, match=r"rows row/0\."):
        check_signal(signal, batch, step=1)


def test_the_padding_of_samples_may_hold_anything_but_a_weight_may_not():
    batch = collate(tiny_rows(6), pad_id=PAD)
    signal = signals(batch, batch.num_targets)["sampled"]
    signal.weights_NK[:, 4] = 0
    signal.logprobs_NK[:, 4] = float("nan")
    check_signal(signal, batch, step=1)
    signal.weights_NK[0, 1] = float("nan")
    with pytest.raises(NumericsError, match=r"rows row/0\."):
        check_signal(signal, batch, step=1)


def test_dense_logits_may_be_minus_infinity_where_the_vocabulary_is_padded():
    batch = collate(tiny_rows(6), pad_id=PAD)
    signal = signals(batch, batch.num_targets)["dense"]
    signal.logits_NU[:, -1] = -float("inf")
    check_signal(signal, batch, step=1)


@pytest.mark.parametrize("kind", ["dense", "final_hidden", "topk", "sampled"])
def test_a_signal_for_other_positions_is_refused(kind):
    batch = collate(tiny_rows(6), pad_id=PAD)
    with pytest.raises(AlignmentError, match="positions"):
        check_signal(signals(batch, batch.num_targets + 1)[kind], batch, step=1)


def test_class_scores_have_no_positions_to_check():
    batch = collate(tiny_rows(6), pad_id=PAD)
    check_signal(ClassScores(torch.zeros(6, 2)), batch, step=1)


def test_long_lists_of_rows_are_shortened():
    assert name_some([str(i) for i in range(7)]) == "0, 1, 2, 3, 4 and 2 more"
    assert name_some(["a"]) == "a"


def test_the_objective_is_the_one_of_the_terms(tmp_path):
    assert [t.kind for t in KD_TERMS] == ["cross_entropy", "forward_kl"]
    _, result = run_tiny(tmp_path, max_steps=1, evaluate=False)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["loss_nats"] == pytest.approx(
        0.3 * line["parts"]["cross_entropy"] + 0.7 * line["parts"]["forward_kl"], rel=1e-5
    )
    assert result.final_loss_nats == line["loss_nats"]
