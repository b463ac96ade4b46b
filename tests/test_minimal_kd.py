import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage.align import logit_indices
from tutelage.losses import cross_entropy, dense_forward_kl, head_losses
from tutelage.types import FinalHidden, LossTerm, OutputHead, row_key

SCRIPT = Path(__file__).parents[1] / "examples" / "minimal_kd.py"
TOLERANCE = 1e-6  # relative, float32


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("minimal_kd", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spec.loader.exec_module(module)
    yield module
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def step(page):
    """One step's tensors: rows, models, the cache, labels."""
    rows = page.toy_rows(6, seed=3)
    teacher, student = page.tiny_llama(32, 2, seed=1).eval(), page.tiny_llama(16, 2, seed=2)
    cache = page.teach(teacher, rows)
    teacher_hidden = torch.cat([cache[page.row_key(ids)] for ids, _ in rows])
    labels = torch.cat([torch.as_tensor(ids[mask]) for ids, mask in rows]).long()
    return rows, teacher, student, teacher_hidden, labels


def test_it_does_not_import_the_package():
    assert "import tutelage" not in SCRIPT.read_text()
    assert "from tutelage" not in SCRIPT.read_text()
    assert len(SCRIPT.read_text().splitlines()) <= 140


def test_rows_are_addressed_and_positions_found_as_in_the_package(page):
    for ids, target_mask in page.toy_rows(5, seed=0):
        assert page.row_key(ids) == row_key(ids)
        assert page.logit_indices(target_mask).tolist() == logit_indices(target_mask).tolist()
        assert ids[-1] == page.END_OF_TURN
        assert target_mask[-1]


def test_cached_hidden_states_give_the_teachers_own_logits(page, step):
    rows, teacher, _, teacher_hidden, _ = step
    with torch.no_grad():
        logits = [
            teacher(torch.as_tensor(ids).long()[None]).logits[0, logit_indices(target_mask)]
            for ids, target_mask in rows
        ]
        torch.testing.assert_close(teacher.lm_head(teacher_hidden), torch.cat(logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_each_loss_equals_the_packages(page, step, temperature):
    rows, teacher, student, teacher_hidden, labels = step
    with torch.no_grad():
        student_logits = student.lm_head(page.final_hidden(student, rows))
        teacher_logits = teacher.lm_head(teacher_hidden)
    expected = dense_forward_kl(student_logits, teacher_logits, temperature=temperature).total.item()
    assert page.forward_kl(student_logits, teacher_logits, temperature).item() == pytest.approx(expected, rel=TOLERANCE)
    expected = cross_entropy(student_logits, labels).total.item()
    assert page.cross_entropy(student_logits, labels).item() == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("fused", [True, False])
def test_the_objective_and_its_gradients_equal_the_packages(page, step, fused):
    rows, teacher, student, teacher_hidden, labels = step
    head_weight = teacher.lm_head.weight.detach()
    logits = student.lm_head(page.final_hidden(student, rows))
    total = page.objective(
        logits, teacher_hidden @ head_weight.T, labels, alpha=page.ALPHA, temperature=page.TEMPERATURE
    )
    parameters = list(student.parameters())
    expected = torch.autograd.grad(total, parameters)
    terms = [
        LossTerm("cross_entropy", page.ALPHA),
        LossTerm("forward_kl", 1 - page.ALPHA, page.TEMPERATURE),
    ]
    losses = head_losses(
        page.final_hidden(student, rows),
        OutputHead(student.lm_head.weight),
        labels,
        FinalHidden(teacher_hidden, OutputHead(head_weight)),
        terms=terms,
        fused=fused,
    )
    assert losses.objective.count == len(labels)
    assert losses.objective.total.item() == pytest.approx(total.item(), rel=TOLERANCE)
    for ours, theirs in zip(torch.autograd.grad(losses.objective.total, parameters), expected, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE * 10 * scale)


def test_it_runs_and_its_loss_falls():
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        check=True,
        timeout=280,  # transformers takes a while to import on a busy machine
        env={"OMP_NUM_THREADS": "1", "PATH": ""},
    )
    first, last = done.stdout.split("loss per target ")[1].removesuffix(" nats\n").split(" -> ")
    assert float(last) < 0.8 * float(first)
