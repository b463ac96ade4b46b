"""Hidden states by layer number: one convention, proven against the model's own."""

import pytest
import torch
from tiny_families import FAMILIES, packed, padded, tiny_model

from tutelage.errors import CapabilityError, ModelError
from tutelage.models import taps
from tutelage.models.adapter import attach_lora
from tutelage.models.head import final_hidden
from tutelage.models.taps import compare_taps, read_states, require_taps, tapped_layers

ROWS = [[5, 6, 7, 8, 9], [10, 11, 12]]
LAYERS = [0, 1, 2, 3, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_equal_the_models_own_hidden_states_before_the_final_norm(family):
    model, batch = tiny_model(family), padded(ROWS)
    with torch.no_grad():
        states = read_states(model, batch, LAYERS)
        own = model(
            batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True, use_cache=False
        ).hidden_states
        assert compare_taps(model, batch) is None
    for layer in LAYERS[:-1]:
        assert torch.equal(states.tapped[layer], own[layer].flatten(0, 1)), layer
    assert torch.equal(states.final_GD, own[-1].flatten(0, 1))
    assert not torch.equal(states.tapped[4], own[-1].flatten(0, 1))  # the convention: before the final norm


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_layer_zero_is_what_the_first_layer_reads_scaled_embeddings_included(family):
    model, batch = tiny_model(family), padded([ROWS[0]])
    with torch.no_grad():
        found = read_states(model, batch, [0]).tapped[0]
        plain = model.get_input_embeddings()(batch.input_ids)[0]
    ratio = {"llama": 1.0, "gemma2": 32**0.5, "granite": 2.0}[family]
    expected = plain if family == "gemma2" else plain * ratio  # Gemma's own embedding module scales
    torch.testing.assert_close(found, expected)
    if family == "gemma2":
        weight_row = model.get_input_embeddings().weight[ROWS[0][0]]
        torch.testing.assert_close(found[0], weight_row * ratio)


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_off_by_one_is_caught(monkeypatch, shift):
    real = taps._tap

    def shifted(stack, layer, found):
        inner: dict[int, torch.Tensor] = {}
        wrong = min(max(layer + shift, 0), len(stack))
        handle = real(stack, wrong, inner)
        # what was read under the wrong number is filed under the right one, after the same forward
        relay = stack[-1].register_forward_hook(lambda *_: found.__setitem__(layer, inner[wrong]))
        return Both(handle, relay)

    monkeypatch.setattr(taps, "_tap", shifted)
    batch = padded(ROWS)
    with torch.no_grad():
        problem = compare_taps(tiny_model(), batch)
        assert problem is not None
        assert "differ from the model's own" in problem
        with pytest.raises(ModelError, match="leave `hidden` and `pooled` out"):
            require_taps(tiny_model())


class Both:
    def __init__(self, *handles):
        self.handles = handles

    def remove(self):
        for handle in self.handles:
            handle.remove()


def test_a_tap_behind_the_final_norm_is_caught(monkeypatch):
    # the defect of reading transformers' last entry as if it were the last layer's output
    real = taps._tap
    model, batch = tiny_model(), padded(ROWS)

    def normed(stack, layer, found):
        if layer < len(stack):
            return real(stack, layer, found)
        return model.model.norm.register_forward_hook(lambda module, inputs, output: found.update({layer: output}))

    monkeypatch.setattr(taps, "_tap", normed)
    with torch.no_grad():
        assert compare_taps(model, batch) == "hidden states after layer 4 differ from the model's own"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_may_be_asked_for_hidden_states(family):
    require_taps(tiny_model(family).bfloat16())


def test_tapping_changes_no_bit_and_leaves_no_hook():
    model, batch = tiny_model(), padded(ROWS)
    with torch.no_grad():
        before = final_hidden(model, batch)
        states = read_states(model, batch, LAYERS)
        after = final_hidden(model, batch)
    assert torch.equal(before, states.final_GD)
    assert torch.equal(before, after)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with tapped_layers(model, [1]) as found:
        pass
    assert found == {}


def test_packed_documents_give_the_states_that_they_give_alone():
    model = tiny_model()
    with torch.no_grad():
        together = read_states(model, packed(ROWS), [2]).tapped[2]
        alone = read_states(model, padded([ROWS[1]]), [2]).tapped[2]
    torch.testing.assert_close(together[5:], alone, rtol=0, atol=2e-4)


def test_adapters_are_read_through():
    wrapped = attach_lora(tiny_model(), dropout=0.0).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        adapted = read_states(wrapped, padded(ROWS), [2]).tapped[2]
        plain = read_states(tiny_model(), padded(ROWS), [2]).tapped[2]
        assert compare_taps(wrapped, padded(ROWS)) is None
    assert not torch.allclose(adapted, plain)


def test_gradients_flow_through_a_tap():
    model = tiny_model()
    read_states(model, padded(ROWS), [2]).tapped[2].sum().backward()
    assert model.model.layers[1].mlp.up_proj.weight.grad is not None
    assert model.model.layers[2].mlp.up_proj.weight.grad is None


@pytest.mark.parametrize("layer", [-1, 5])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(CapabilityError, match="the model has 4 decoder layers"):
        read_states(tiny_model(), padded(ROWS), [layer])
