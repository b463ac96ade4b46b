import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_training import CE_TERMS, KD_TERMS, PAD, TinyTeacher, run_tiny, tiny_model, tiny_rows, tiny_student, trainable

from tutelage.data.collate import collate
from tutelage.models.head import final_hidden
from tutelage.train.module import DistillationModule, called_head
from tutelage.types import TeacherSignals


@pytest.fixture
def batch():
    return collate(tiny_rows(6), pad_id=PAD)


def gradients(module, batch, signal):
    module.zero_grad()
    losses = module(batch, TeacherSignals(signal))["targets"]
    losses.objective.total.backward()
    return losses.objective.total.detach(), {
        n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None
    }


def test_fused_and_plain_give_the_same_losses_and_gradients(batch):
    signal = TinyTeacher().signal(batch)
    total, grads = gradients(DistillationModule(tiny_student(dropout=0.0), KD_TERMS, fused=True), batch, signal)
    plain, plain_grads = gradients(DistillationModule(tiny_student(dropout=0.0), KD_TERMS, fused=False), batch, signal)
    torch.testing.assert_close(total, plain, rtol=1e-5, atol=1e-5)
    assert grads.keys() == plain_grads.keys()
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, plain_grads[name], rtol=1e-4, atol=1e-5)


def test_without_a_teacher_the_loss_is_cross_entropy(batch):
    student = tiny_student(dropout=0.0)
    losses = DistillationModule(student, CE_TERMS)(batch, TeacherSignals())["targets"]
    logits_NV = student(batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)[batch.logit_index_N]
    expected = torch.nn.functional.cross_entropy(logits_NV, batch.labels_N, reduction="sum")
    torch.testing.assert_close(losses.objective.total, expected, rtol=1e-5, atol=1e-5)
    assert losses.objective.count == batch.num_targets


def test_what_sharding_frameworks_look_for_is_the_student_s():
    student = tiny_student()
    module = DistillationModule(student, CE_TERMS)
    assert module.get_output_embeddings() is student.get_output_embeddings()
    assert module._no_split_modules == ["LlamaDecoderLayer"]
    assert DistillationModule(tiny_student("lora"), CE_TERMS)._no_split_modules == ["LlamaDecoderLayer"]


def test_a_tied_head_is_one_trainable_parameter():
    assert (
        sum("embed_tokens" in n or "lm_head" in n for n in trainable(DistillationModule(tiny_student(), CE_TERMS))) == 1
    )


def adapter_on_head(**changes):
    torch.manual_seed(4)
    config = LoraConfig(r=2, lora_alpha=4, **{"target_modules": ["q_proj", "lm_head"], "lora_dropout": 0.0, **changes})
    model = get_peft_model(tiny_model(1, dropout=0.0), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


@pytest.mark.parametrize("changes", [{}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}], ids=str)
def test_an_adapter_on_the_head_takes_the_plain_path_and_says_so(batch, changes):
    model = adapter_on_head(**changes)
    with pytest.warns(UserWarning, match="plain path"):
        module = DistillationModule(model, KD_TERMS, fused=True)
    assert not module.fused
    model.eval()
    logits_NV = model(batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)[batch.logit_index_N]
    torch.testing.assert_close(called_head(model).logits(final_hidden(model, batch)), logits_NV, rtol=1e-4, atol=1e-5)
    _, grads = gradients(module, batch, TinyTeacher().signal(batch))
    assert any("lm_head" in name and gradient.abs().max() > 0 for name, gradient in grads.items())


def test_an_adapter_on_the_head_trains(tmp_path):
    with pytest.warns(UserWarning, match="plain path"):
        module = DistillationModule(adapter_on_head(), CE_TERMS)
    before = trainable(module)
    run_tiny(tmp_path, module=module, teacher=False, max_steps=3)
    assert all(not torch.equal(before[name], p) for name, p in trainable(module).items())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gradient_checkpointing_changes_no_bit(tmp_path, kind):
    plain, result = run_tiny(tmp_path / "plain", kind)
    recomputed, other = run_tiny(tmp_path / "recomputed", kind, gradient_checkpointing=True)
    assert recomputed.student.is_gradient_checkpointing
    assert result.final_loss_nats == other.final_loss_nats
    other_weights = trainable(recomputed)
    assert all(torch.equal(tensor, other_weights[name]) for name, tensor in trainable(plain).items())


def test_autocast_computes_in_bf16_and_keeps_float32_weights(tmp_path, batch):
    module = DistillationModule(tiny_student(dropout=0.0), KD_TERMS, bf16=True)
    signal = TinyTeacher().signal(batch)
    seen = []
    module.student.model.layers[0].mlp.up_proj.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    total, _ = gradients(module, batch, signal)
    exact, _ = gradients(DistillationModule(tiny_student(dropout=0.0), KD_TERMS), batch, signal)
    assert seen == [torch.bfloat16]
    assert total.dtype == torch.float32
    assert abs(float(total / exact) - 1) < 0.01  # bf16 keeps 8 bits
    run_tiny(tmp_path, module=module, max_steps=2)
    assert {p.dtype for p in trainable(module).values()} == {torch.float32}
