import pytest
import torch
from tiny_families import FAMILIES, packed, padded, tiny_model

from tutelage.errors import ModelError
from tutelage.models.export import count_parameters
from tutelage.models.load import load_model
from tutelage.models.probe import prove_model
from tutelage.models.shrink import choose_layers, decoder_layers, drop_layers, layer_influence
from tutelage.models.source import ModelSource

ROWS = [[5, 6, 7, 8, 9], [10, 11, 12]]


@pytest.mark.parametrize("family", FAMILIES)
def test_influence_is_the_mean_turn_over_real_tokens(family):
    model = tiny_model(family)
    kept = []
    for layer in decoder_layers(model):
        layer.register_forward_hook(
            lambda _, args, out: kept.append((args[0], out[0] if isinstance(out, tuple) else out))
        )
    found = layer_influence(model, [padded(ROWS)])
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    expected = []
    for before, after in kept:  # an independent oracle in float64, token by token
        a, b = before[real].double(), after[real].double()
        expected.append(float((1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean()))
    assert found == pytest.approx(expected, abs=1e-6)


def test_influence_ignores_padding_and_batching():
    model = tiny_model()
    together = layer_influence(model, [padded(ROWS)])
    wider = layer_influence(model, [padded([*ROWS, [20] * 9], pad_id=33), padded(ROWS, pad_id=44)])
    apart = layer_influence(model, [padded([ROWS[0]]), padded([ROWS[1]])])
    line = layer_influence(model, [packed(ROWS)])
    assert together == pytest.approx(apart, abs=1e-6)
    assert together == pytest.approx(line, abs=1e-6)
    assert together == pytest.approx(layer_influence(model, [padded(ROWS, pad_id=77)]), abs=1e-6)
    assert together != pytest.approx(wider, abs=1e-6)


def test_a_layer_that_does_nothing_has_no_influence():
    model = tiny_model()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        decoder_layers(model)[2].get_submodule(name).weight.data.zero_()
    influence = layer_influence(model, [padded(ROWS)])
    assert influence[2] == pytest.approx(0.0, abs=1e-6)
    assert min(influence[:2] + influence[3:]) > 0.01


def test_measuring_leaves_the_model_as_it_was():
    model = tiny_model().train()
    layer_influence(model, [padded(ROWS)])
    assert model.training
    assert not any(layer._forward_hooks for layer in decoder_layers(model))


def test_influence_needs_rows_and_finite_weights():
    with pytest.raises(ModelError, match="at least one batch"):
        layer_influence(tiny_model(), [])
    model = tiny_model()
    decoder_layers(model)[1].mlp.down_proj.weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        layer_influence(model, [padded(ROWS)])


def test_each_rule_keeps_what_it_says():
    influence = [0.0, 0.1, 0.9, 0.1, 0.5, 0.0]
    assert choose_layers(6, 3, by="first") == (0, 1, 2)
    assert choose_layers(6, 3, by="last") == (3, 4, 5)
    assert choose_layers(7, 3, by="even") == (0, 3, 6)
    assert choose_layers(6, 4, by="influence", influence=influence) == (0, 2, 4, 5)
    assert choose_layers(6, 5, by="influence", influence=influence) == (0, 1, 2, 4, 5)  # a tie: the lower layer


@pytest.mark.parametrize("num_layers", [2, 3, 5, 12, 30])
def test_every_rule_gives_ascending_distinct_layers(num_layers):
    influence = [(7 * layer) % 5 / 5 for layer in range(num_layers)]
    for keep in range(2, num_layers + 1):
        for by in ("even", "first", "last", "influence"):
            kept = choose_layers(num_layers, keep, by=by, influence=influence)
            assert list(kept) == sorted(set(kept))
            assert len(kept) == keep
            if by in ("even", "influence"):
                assert (kept[0], kept[-1]) == (0, num_layers - 1)


@pytest.mark.parametrize(
    ("keep", "by", "message"),
    [
        (0, "first", "expected 1 to 4"),
        (5, "last", "shrink.layers is 5"),
        (1, "even", "expected 2 to 4"),
        (2, "middle", "Found shrink.by 'middle'"),
        (2, "influence", "found nothing"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(keep, by, message):
    with pytest.raises(ModelError, match=message):
        choose_layers(4, keep, by=by)


def test_influence_of_another_model_is_refused():
    with pytest.raises(ModelError, match="found 3 figures"):
        choose_layers(4, 2, by="influence", influence=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("kept", [(0, 2, 3), (1, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shrunk_model_passes_its_proofs_generates_and_reloads(family, kept, tmp_path):
    model = tiny_model(family)
    expected = [weight.clone() for i in kept for weight in decoder_layers(model)[i].parameters()]
    drop_layers(model, kept)
    found = [weight for layer in decoder_layers(model) for weight in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(result.passed for result in prove_model(model, None)), prove_model(model, None)
    model.save_pretrained(tmp_path)
    again = load_model(ModelSource("again", str(tmp_path)), dtype=torch.float32, device=torch.device("cpu"))
    ids_BT = torch.tensor([ROWS[0]])
    with torch.no_grad():
        assert torch.equal(model(ids_BT).logits, again(ids_BT).logits)
        written = model.generate(ids_BT, max_new_tokens=6, do_sample=False, eos_token_id=None)
        for _ in range(6):  # the same without KV cache: layer numbers address it
            ids_BT = torch.cat([ids_BT, model(ids_BT, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(written, ids_BT)


def test_keeping_every_layer_changes_nothing_and_dropping_counts():
    model = tiny_model("gemma3")
    full = count_parameters(model)
    per_layer = sum(p.numel() for p in decoder_layers(model)[0].parameters())
    assert count_parameters(drop_layers(model, range(4))) == full
    assert count_parameters(drop_layers(model, (0, 3))) == full - 2 * per_layer
    assert model.config.num_hidden_layers == len(model.config.layer_types) == 2


@pytest.mark.parametrize("kept", [(), (1, 0), (0, 0), (0, 4), (-1, 2)])
def test_a_layer_map_that_is_not_ascending_or_in_range_is_refused(kept):
    model = tiny_model()
    with pytest.raises(ModelError, match="layer map"):
        drop_layers(model, kept)
    assert len(decoder_layers(model)) == 4


def test_layers_that_share_keys_and_values_are_refused():
    model = tiny_model()
    decoder_layers(model)[3].self_attn.is_kv_shared_layer = True
    with pytest.raises(ModelError, match="share keys and values"):
        drop_layers(model, (0, 1))


def test_a_model_without_a_list_of_layers_is_refused():
    model = tiny_model()
    model.config.num_hidden_layers = 9
    with pytest.raises(ModelError, match="no list of 9 decoder layers"):
        decoder_layers(model)
