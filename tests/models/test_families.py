"""Distillation on each family's own kind of head and layers, against the models' own logits."""

import math

import numpy as np
import pytest
import torch
from tiny_families import (
    EVERY_FAMILY,
    FAMILIES,
    MADE_BY_NUMBER,
    NOT_PACKED,
    SMALL,
    VOCAB,
    WITH_EXPERTS,
    padded,
    tiny_model,
)
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.data.collate import collate
from tutelage.data.plan import MicroBatch, Step
from tutelage.errors import ModelError
from tutelage.models import shrink
from tutelage.models.head import final_hidden, find_head
from tutelage.models.load import load_model
from tutelage.models.probe import prove_model
from tutelage.models.shrink import decoder_layers, drop_layers
from tutelage.models.source import ModelSource
from tutelage.train.loop import make_learner, make_stepper
from tutelage.train.module import TARGETS, DistillationModule
from tutelage.train.options import TrainOptions
from tutelage.types import FinalHidden, LossTerm, StudentRow, TeacherSignals, row_key

ALPHA, TEMPERATURE = 0.3, 2.0
KD = (LossTerm("cross_entropy", ALPHA), LossTerm("forward_kl", 1 - ALPHA, temperature=TEMPERATURE))
TRAINED = {**FAMILIES, **WITH_EXPERTS, **NOT_PACKED}


def some_rows():
    """Three rows of uneven length, of which the last 1 to 3 tokens are targets."""
    generator = np.random.default_rng(5)
    rows = []
    for number, (length, num_targets) in enumerate([(7, 3), (5, 1), (9, 2)]):
        ids = generator.integers(3, VOCAB, size=length).astype(np.int32)
        rows.append(StudentRow(f"row/{number}", ids, np.arange(length) >= length - num_targets, row_key(ids)))
    return rows


class LiveTeacher:
    """Another random model of the family, its final hidden states and its head."""

    def __init__(self, family, dtype):
        self.model = tiny_model(family, seed=1).to(dtype)

    @torch.no_grad()
    def signal(self, batch):
        return FinalHidden(final_hidden(self.model, batch), find_head(self.model))


def own_logits(model, batch):
    logits_BTV = model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    return logits_BTV.flatten(0, 1)[batch.logit_index_N]


def dense_objective(student, teacher, batch):
    """CE and T^2 KL written out over both models' own logits; shares no code with the losses."""
    student_NV = own_logits(student, batch)
    with torch.no_grad():
        target_NV = torch.softmax(own_logits(teacher, batch) / TEMPERATURE, dim=1)
    gold = torch.nn.functional.cross_entropy(student_NV, batch.labels_N, reduction="sum")
    softened_NV = torch.log_softmax(student_NV / TEMPERATURE, dim=1)
    divergence = torch.nn.functional.kl_div(softened_NV, target_NV, reduction="sum")
    return ALPHA * gold + (1 - ALPHA) * TEMPERATURE**2 * divergence


def our_objective(module, batch, teacher=None):
    signals = TeacherSignals() if teacher is None else TeacherSignals(teacher.signal(batch))
    return module(batch, signals)[TARGETS].objective.total


def gradients_of(total, model):
    model.zero_grad()
    total.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


# Grouped products of experts exist in single precision only; where all that a padding token could see is masked, the
# eager attention of Gemma 2 is not finite in double precision (the mask's number overflows in its float32 softmax).
SINGLE = {*WITH_EXPERTS, "gpt_oss", "gemma2"}


@pytest.mark.parametrize("family", TRAINED)
def test_loss_and_gradient_are_those_of_the_models_own_logits_fused_and_plain(family):
    batch = collate(some_rows(), pad_id=0)
    dtype = torch.float32 if family in SINGLE else torch.float64
    student, teacher = tiny_model(family).to(dtype), LiveTeacher(family, dtype)
    expected = dense_objective(student, teacher.model, batch)
    expected_grads = gradients_of(expected, student)
    largest = max(float(grad.abs().max()) for grad in expected_grads.values())
    for fused in (True, False):
        module = DistillationModule(student, KD, fused=fused).eval()
        assert module.fused == fused
        total = our_objective(module, batch, teacher)
        grads = gradients_of(total, student)
        # in double precision what is left are the float32 casts inside of norms and rotary tables
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        assert grads.keys() == expected_grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[name], rtol=0, atol=2e-5 * largest, msg=f"{fused} {name}")


@pytest.mark.parametrize(
    ("family", "names"), [("gemma2", "SOFTCAPS"), ("granite", "DIVISORS"), ("cohere", "MULTIPLIERS")]
)
def test_a_head_that_is_read_without_its_cap_or_scale_gives_another_loss(family, names, monkeypatch):
    batch = collate(some_rows(), pad_id=0)
    student, teacher = tiny_model(family), LiveTeacher(family, torch.float32)
    expected = dense_objective(student, teacher.model, batch).item()
    monkeypatch.setattr(f"tutelage.models.head.{names}", ())
    wrong = our_objective(DistillationModule(student, KD).eval(), batch, teacher).item()
    assert abs(wrong - expected) > 0.01 * abs(expected)


@pytest.mark.parametrize("family", TRAINED)
def test_one_step_moves_every_weight_and_lowers_the_loss(family):
    rows = some_rows()
    module = DistillationModule(tiny_model(family), KD)
    options = TrainOptions(learning_rate=1e-3, warmup_ratio=0.0, weight_decay=0.0, per_device_train_batch_size=3)
    learner = make_learner(module, options, 10)
    teacher = LiveTeacher(family, torch.float32)
    stepper = make_stepper(module.eval(), learner, rows, [teacher], options, pad_id=0)
    num_tokens, num_targets = sum(len(row.ids) for row in rows), sum(int(row.target_mask.sum()) for row in rows)
    step = Step(0, (MicroBatch((0, 1, 2), num_tokens, num_targets),), num_targets, num_tokens)
    before = {name: parameter.detach().clone() for name, parameter in learner.parameters.items()}
    first = stepper.run(step, number=1)
    assert math.isfinite(first.objective)
    assert set(first.parts) == {"cross_entropy", "forward_kl"}
    unmoved = [name for name, parameter in learner.parameters.items() if torch.equal(parameter, before[name])]
    assert all("experts" in name or "router" in name or "gate" in name for name in unmoved), unmoved
    assert stepper.run(step, number=2).objective < first.objective


# Heads.


def test_a_head_has_bias_and_softcap_where_its_family_says_so():
    assert find_head(tiny_model("phi")).bias_V is not None
    assert find_head(tiny_model("gpt2")).bias_V is None
    assert find_head(tiny_model("recurrent_gemma")).softcap == 30.0  # under a name of its own


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "cohere", "gpt2"])
def test_a_tied_head_is_the_embedding_and_gets_the_gradient_of_both_uses(family):
    model = tiny_model(family)
    assert find_head(model).weight_VD is model.get_input_embeddings().weight
    batch = padded([[5, 6, 7, 8]])
    model.zero_grad()
    find_head(model).logits(final_hidden(model, batch)).square().sum().backward()
    gradient_VD = model.get_input_embeddings().weight.grad
    assert gradient_VD is not None
    assert (gradient_VD[50] != 0).any(), "an id that no row holds: from the head"
    assert not torch.allclose(gradient_VD[5], gradient_VD[50]), "from the embedding too"


# Layouts that a family does not know.


@pytest.mark.parametrize("family", WITH_EXPERTS)
def test_experts_move_a_packed_document_by_rounding_and_pass(family):
    results = prove_model(tiny_model(family), None, packed=True)
    assert all(result.passed for result in results), results


@pytest.mark.parametrize("family", NOT_PACKED)
def test_a_family_that_cannot_be_packed_passes_padded_and_is_refused_packed(family):
    model = tiny_model(family)
    for packed in (False, True):
        results = prove_model(model, None, packed=packed)
        failed = {result.name for result in results if not result.passed}
        assert failed == {"packed", "isolated"}
        assert {result.name for result in results if result.required} >= {"head", "padded"}
        assert all(result.required == packed for result in results if result.name in failed)


@pytest.mark.parametrize("family", NOT_PACKED)
def test_packing_such_a_family_would_give_another_loss(family):
    rows = some_rows()
    module = DistillationModule(tiny_model(family), (LossTerm("cross_entropy", 1.0),)).eval()
    totals = [our_objective(module, collate(rows, pad_id=0, packed=packed)).item() for packed in (False, True)]
    assert abs(totals[1] - totals[0]) > 1e-3 * totals[0]


# Fewer layers.


@pytest.mark.parametrize("family", [*WITH_EXPERTS, *NOT_PACKED])
@pytest.mark.parametrize("kept", [(0, 2, 3), (1, 3)], ids=str)
def test_a_family_with_experts_or_layers_of_several_kinds_loses_layers_if_the_rest_can_be_described(family, kept):
    model = tiny_model(family)
    passed = {result.name for result in prove_model(model, None) if result.passed}
    drop_layers(model, kept)
    assert {result.name for result in prove_model(model, None) if result.passed} >= passed  # without LFM2's waves: more
    assert_writes_alike_with_and_without_cache(model)


def assert_writes_alike_with_and_without_cache(model):
    ids_BT = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        written = model.generate(ids_BT, max_new_tokens=6, do_sample=False, eos_token_id=None)
        for _ in range(6):
            ids_BT = torch.cat([ids_BT, model(ids_BT, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(written, ids_BT)


@pytest.mark.parametrize("family", ["gemma3", "cohere2", "olmo3", "qwen2_half_sliding", "smollm3"])
def test_the_kinds_of_attention_stay_with_their_layers(family):
    model = tiny_model(family)
    name = "layer_types" if family != "smollm3" else "no_rope_layers"
    before = list(getattr(model.config, name))
    drop_layers(model, (1, 3))
    assert list(getattr(model.config, name)) == [before[1], before[3]]
    assert_writes_alike_with_and_without_cache(model)


@pytest.mark.parametrize(
    ("family", "found"),
    [("diffllama", "lambda_init"), ("jamba", "feed_forward")],
)
def test_a_layer_that_its_new_number_would_change_is_refused(family, found):
    with pytest.raises(ModelError, match=r"does not describe the layers \[1, 3\]") as error:
        drop_layers(tiny_model(family), (1, 3))
    assert found in str(error.value)
    assert "Keep the first layers" in str(error.value)


@pytest.mark.parametrize("family", MADE_BY_NUMBER)
def test_the_first_layers_of_such_a_family_may_stay(family, tmp_path):
    model = tiny_model(family)
    drop_layers(model, (0, 1))
    assert logits_after_saving(model, tmp_path) == pytest.approx(logits_of(model), abs=1e-5)


def test_without_that_refusal_the_saved_student_is_another_model(monkeypatch, tmp_path):
    # DiffLlama keeps a scale by depth in its layers and in no file: all weights fit, nothing is reported missing
    monkeypatch.setattr(shrink, "_require_rebuildable", lambda model, kept: None)
    model = tiny_model("diffllama")
    drop_layers(model, (1, 3))
    assert np.abs(logits_after_saving(model, tmp_path) - logits_of(model)).max() > 0.1


@torch.no_grad()
def logits_of(model):
    return model(torch.tensor([[5, 6, 7, 8, 9]]), use_cache=False).logits.numpy()


def logits_after_saving(model, folder):
    model.save_pretrained(folder)
    return logits_of(load_model(ModelSource("again", str(folder)), dtype=torch.float32, device=torch.device("cpu")))


def test_a_setting_that_only_one_layer_has_is_found():
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    decoder_layers(model)[2].self_attn.scaling = 0.9
    with pytest.raises(ModelError, match=r"layer 2: self_attn.scaling is 0.9"):
        drop_layers(model, (0, 2))


def test_every_family_of_the_tests_is_in_one_group():
    assert len(EVERY_FAMILY) == sum(map(len, (FAMILIES, WITH_EXPERTS, NOT_PACKED, MADE_BY_NUMBER)))
