import pytest
import torch
from tiny_families import FAMILIES, packed, padded, tiny_model

from tutelage.errors import ModelError
from tutelage.models.adapter import attach_lora
from tutelage.models.head import final_hidden, find_head, plain_model

ROW = [5, 6, 7, 8, 9]


@pytest.mark.parametrize("family", FAMILIES)
def test_head_on_final_hidden_equals_the_models_own_logits(family):
    model = tiny_model(family)
    with torch.no_grad():
        found = find_head(model).logits(final_hidden(model, padded([ROW])))
        expected = model(torch.tensor([ROW])).logits[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_head_reads_scale_and_softcap_of_each_family():
    assert find_head(tiny_model("cohere")).scale == 0.25
    assert find_head(tiny_model("granite")).scale == pytest.approx(1 / 6)
    assert find_head(tiny_model("gemma2")).softcap == 5.0
    assert (find_head(tiny_model("llama")).scale, find_head(tiny_model("llama")).softcap) == (1.0, None)


@pytest.mark.parametrize("family", ["llama", "llama_untied"])
def test_head_shares_the_models_parameter_so_gradients_reach_it(family):
    model = tiny_model(family)
    head = find_head(model)
    assert head.weight_VD is model.lm_head.weight
    head.logits(final_hidden(model, padded([ROW], at=[2]))).sum().backward()
    assert model.lm_head.weight.grad is not None


def test_head_bias_is_found():
    model = tiny_model("llama_untied")
    model.lm_head = torch.nn.Linear(32, 97, bias=True)
    with torch.no_grad():
        found = find_head(model).logits(final_hidden(model, padded([ROW])))
        expected = model(torch.tensor([ROW])).logits[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_only_the_supervised_positions_come_back_in_their_order():
    model = tiny_model()
    with torch.no_grad():
        everywhere = final_hidden(model, padded([ROW, [10, 11, 12]]))
        some = final_hidden(model, padded([ROW, [10, 11, 12]], at=[6, 1]))
    torch.testing.assert_close(some, everywhere[[6, 1]], rtol=0, atol=0)


def test_no_supervised_position_gives_an_empty_tensor_on_the_graph():
    model = tiny_model()
    hidden_ND = final_hidden(model, padded([ROW], at=[]))
    assert hidden_ND.shape == (0, 32)
    hidden_ND.sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


def test_final_hidden_under_an_adapter_reads_the_adapter():
    model = tiny_model()
    with torch.no_grad():
        before = final_hidden(model, padded([ROW]))
    wrapped = attach_lora(model, dropout=0.0).eval()
    with torch.no_grad():
        assert torch.equal(final_hidden(wrapped, padded([ROW])), before)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        found = find_head(wrapped).logits(final_hidden(wrapped, padded([ROW])))
        expected = wrapped(torch.tensor([ROW])).logits[0]
    assert not torch.allclose(final_hidden(wrapped, padded([ROW])), before)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_do_not_read_each_other(family):
    model = tiny_model(family)
    with torch.no_grad():
        alone = final_hidden(model, padded([[20, 21, 22]]))
        behind = final_hidden(model, packed([ROW, [20, 21, 22]]))[len(ROW) :]
        other = final_hidden(model, packed([[30, 31, 32, 33, 34], [20, 21, 22]]))[len(ROW) :]
    torch.testing.assert_close(behind, alone, rtol=0, atol=2e-4)
    assert torch.equal(behind, other)


def test_documents_leak_with_the_default_cache_in_this_version_of_transformers():
    # The reason for use_cache=False in final_hidden; if this fails upstream has changed, and it may go.
    model = tiny_model()
    batch = packed([ROW, [20, 21, 22]])
    with torch.no_grad():
        alone = final_hidden(model, padded([[20, 21, 22]]))
        cached = model.get_decoder()(input_ids=batch.input_ids, position_ids=batch.position_ids)
    assert (cached.last_hidden_state[0, len(ROW) :] - alone).abs().max() > 0.1


def test_a_model_without_causal_head_is_refused():
    with pytest.raises(ModelError, match="output head"):
        find_head(tiny_model().model)
    with pytest.raises(ModelError, match="expected a transformers"):
        plain_model(torch.nn.Linear(2, 2))


def test_an_adapter_on_the_head_is_refused():
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(tiny_model("llama_untied"), LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(ModelError, match="off the head"):
        find_head(wrapped)
