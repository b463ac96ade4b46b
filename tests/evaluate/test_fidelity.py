"""KL to the teacher and top-1 agreement against a float64 oracle."""

import numpy as np
import pytest
import torch

from tutelage.errors import CapabilityError, DataError, NumericsError
from tutelage.evaluate import choices, fidelity
from tutelage.teacher.live import LiveTeacher
from tutelage.types import ClassScores, Sampled, StudentRow

OPTIONS = {"pad_id": 0, "token_budget": 64, "device": "cpu"}
KINDS = [{"kind": "dense"}, {"kind": "final_hidden"}, {"kind": "topk", "k": 8}]
# The cached precision of final_hidden is bfloat16: hidden states of size 1 move logits of size 10 by a few hundredths.
TOLERANCES = {"dense": 1e-5, "final_hidden": 0.05, "topk": 1e-2}


def oracle(student, teacher, rows, oracle_logprobs) -> dict[str, float]:
    kls, agreements = [], []
    for row in rows:
        theirs, own = oracle_logprobs(teacher, row.ids), oracle_logprobs(student, row.ids)
        for target in np.flatnonzero(row.target_mask):
            p, q = theirs[target - 1], own[target - 1]
            kls.append((np.exp(p) * (p - q)).sum())
            agreements.append(p.argmax() == q.argmax())
    return {"kl_to_teacher": np.mean(kls), "top1_agreement": np.mean(agreements), "num_targets": len(kls)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
def test_a_student_is_close_to_itself(model, rows, kind):
    found = fidelity(model, rows, LiveTeacher(model, **kind), **OPTIONS)
    assert found["kl_to_teacher"] == pytest.approx(
        0.0, abs=TOLERANCES[kind["kind"]] if kind["kind"] != "topk" else 1e-5
    )
    assert found["top1_agreement"] >= 0.95
    assert found["num_targets"] == sum(row.target_mask.sum() for row in rows)


def test_kl_and_agreement_equal_a_float64_oracle(make_model, rows, oracle_logprobs):
    student, teacher = make_model(1), make_model(2)
    expected = oracle(student, teacher, rows, oracle_logprobs)
    found = fidelity(student, rows, LiveTeacher(teacher, kind="dense"), **OPTIONS)
    assert found == pytest.approx(expected, abs=1e-4)
    assert expected["kl_to_teacher"] > 0.3
    assert 0 <= expected["top1_agreement"] < 1


def test_every_signal_gives_about_the_same_kl_and_topk_never_more(make_model, rows):
    student, teacher = make_model(1), make_model(2)
    found = {kind["kind"]: fidelity(student, rows, LiveTeacher(teacher, **kind), **OPTIONS) for kind in KINDS}
    dense = found["dense"]["kl_to_teacher"]
    assert found["final_hidden"]["kl_to_teacher"] == pytest.approx(dense, rel=0.05)
    assert found["topk"]["kl_to_teacher"] <= dense + 1e-3  # merging tokens into a tail can only lose information
    whole = fidelity(student, rows, LiveTeacher(teacher, kind="topk", k=60), **OPTIONS)
    assert whole["kl_to_teacher"] == pytest.approx(dense, rel=0.01)
    assert found["topk"]["top1_agreement"] == pytest.approx(found["dense"]["top1_agreement"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
def test_batches_and_chunks_do_not_matter(make_model, rows, kind, monkeypatch):
    student, teacher = make_model(1), LiveTeacher(make_model(2), **kind)
    whole = fidelity(student, rows, teacher, **OPTIONS | {"token_budget": 10_000})
    alone = fidelity(student, list(reversed(rows)), teacher, **OPTIONS | {"token_budget": 1})
    assert alone == pytest.approx(whole, rel=0.02)  # bfloat16 storage rounds either way; the order may not show
    monkeypatch.setattr(choices, "CHUNK_BYTES", 2 * 61 * 4)
    chunked = fidelity(student, rows, teacher, **OPTIONS | {"token_budget": 10_000})
    assert chunked == pytest.approx(whole, rel=1e-5)


def test_the_students_mode_is_put_back_and_no_gradient_is_left(make_model, rows):
    student = make_model(1, dropout=0.5).train()
    first = fidelity(student, rows, LiveTeacher(make_model(2)), **OPTIONS)
    assert fidelity(student, rows, LiveTeacher(make_model(2)), **OPTIONS) == first
    assert all(module.training for module in student.modules())
    assert all(parameter.grad is None for parameter in student.parameters())


def test_rows_without_targets_are_an_error(model, rows):
    bare = [StudentRow(row.item_key, row.ids, np.zeros(len(row.ids), dtype=bool), row.teacher_key) for row in rows]
    with pytest.raises(DataError, match="found none in 10 rows"):
        fidelity(model, bare, LiveTeacher(model), **OPTIONS)
    with pytest.raises(DataError, match="found none in 0 rows"):
        fidelity(model, [], LiveTeacher(model), **OPTIONS)
    some = [*bare[:5], *rows[5:]]
    found = fidelity(model, some, LiveTeacher(model), **OPTIONS)
    assert found["num_targets"] == sum(row.target_mask.sum() for row in rows[5:])


def test_a_signal_without_a_token_distribution_is_refused(model, rows):
    class Scores:
        def signal(self, batch):
            return ClassScores(torch.zeros(len(batch.item_keys), 2))

    with pytest.raises(CapabilityError, match="found ClassScores"):
        fidelity(model, rows, Scores(), **OPTIONS)


def test_samples_are_refused_with_the_reason(model, rows):
    class Samples:
        def signal(self, batch):
            one_N1 = torch.ones(batch.num_targets, 1)
            return Sampled(one_N1.long(), one_N1, -one_N1, temperature=1.0, vocab_size=61)

    with pytest.raises(CapabilityError, match=r"found Sampled.*final_hidden or topk: samples estimate"):
        fidelity(model, rows, Samples(), **OPTIONS)


def test_a_kl_that_is_not_finite_is_an_error_that_names_rows(make_model, rows):
    broken = make_model(1)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="row/"):
        fidelity(broken, rows, LiveTeacher(make_model(2)), **OPTIONS)
