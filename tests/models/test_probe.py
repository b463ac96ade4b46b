import pytest
import torch
from tiny_families import FAMILIES, tiny_model, tiny_tokenizer

from tutelage.models import probe
from tutelage.models.adapter import attach_lora
from tutelage.models.probe import prove_model


def by_name(results):
    return {result.name: result for result in results}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_its_proofs(family, dtype):
    results = by_name(prove_model(tiny_model(family).to(dtype), tiny_tokenizer(), packed=True))
    assert list(results) == ["head", "packed", "isolated", "padded", "layers", "written", "vocabulary"]
    assert all(result.passed for result in results.values()), results


def test_a_wrapped_model_passes_and_keeps_its_mode():
    model = attach_lora(tiny_model(), dropout=0.5).train()
    assert all(result.passed for result in prove_model(model, None))
    assert model.training


@pytest.mark.parametrize(
    ("family", "names"), [("cohere", "MULTIPLIERS"), ("granite", "DIVISORS"), ("gemma2", "SOFTCAPS")]
)
def test_a_head_field_we_do_not_know_fails_the_head_proof_with_its_figure(family, names, monkeypatch):
    monkeypatch.setattr(f"tutelage.models.head.{names}", ())
    result = by_name(prove_model(tiny_model(family), None))["head"]
    assert not result.passed
    assert "allowed 1.0e-05 in float32" in result.detail
    assert float(result.detail.split()[2]) > 1e-3


def test_a_leak_between_packed_documents_is_found(monkeypatch):
    forward = probe.final_hidden

    def leaking(model, batch):  # what the default cache does: the document mask is gone
        mask_BT = batch.attention_mask if batch.attention_mask is not None else torch.ones_like(batch.input_ids)
        return forward(model, probe.Batch(**{**vars(batch), "attention_mask": mask_BT}))

    monkeypatch.setattr(probe, "final_hidden", leaking)
    results = by_name(prove_model(tiny_model(), None))
    assert results["head"].passed
    assert results["padded"].passed
    assert not results["packed"].passed
    assert not results["isolated"].passed


def test_a_small_leak_below_the_rounding_of_bfloat16_is_found(monkeypatch):
    # The tolerance of `packed` must be wide in bfloat16; `isolated` is exact.
    forward = probe.final_hidden

    def leaking(model, batch):
        hidden_ND = forward(model, batch)
        return hidden_ND + 0.02 * hidden_ND[0] if batch.attention_mask is None else hidden_ND

    monkeypatch.setattr(probe, "final_hidden", leaking)
    results = by_name(prove_model(tiny_model().bfloat16(), None))
    assert results["packed"].passed
    assert not results["isolated"].passed


def test_ignored_padding_is_found(monkeypatch):
    forward = probe.final_hidden

    def blind(model, batch):  # reads the padding of shorter rows, from the left
        if batch.attention_mask is None or batch.input_ids.shape[0] == 1:
            return forward(model, batch)
        flipped_BT = batch.input_ids.roll(1, dims=1)
        return forward(model, probe.Batch(**{**vars(batch), "input_ids": flipped_BT}))

    monkeypatch.setattr(probe, "final_hidden", blind)
    assert not by_name(prove_model(tiny_model(), None))["padded"].passed


def test_non_finite_padding_is_found(monkeypatch):
    forward = probe.final_hidden

    def poisoned(model, batch):
        hidden_ND = forward(model, batch).clone()
        if batch.attention_mask is not None:
            hidden_ND[batch.attention_mask.flatten() == 0] = torch.nan
        return hidden_ND

    monkeypatch.setattr(probe, "final_hidden", poisoned)
    result = by_name(prove_model(tiny_model(), None))["padded"]
    assert not result.passed
    assert "not finite" in result.detail


def test_non_finite_weights_fail_every_comparison():
    model = tiny_model()
    model.model.norm.weight.data.fill_(torch.nan)
    results = by_name(prove_model(model, None))
    assert not any(results[name].passed for name in ("head", "packed", "isolated", "padded"))


def test_a_layout_that_raises_fails_only_its_own_proof(monkeypatch):
    forward = probe.final_hidden

    def picky(model, batch):
        if batch.attention_mask is None:
            raise ValueError("position_ids are not supported\nsecond line")
        return forward(model, batch)

    monkeypatch.setattr(probe, "final_hidden", picky)
    results = by_name(prove_model(tiny_model(), None))
    assert results["head"].passed
    assert results["packed"].detail == "not supported by this model: ValueError: position_ids are not supported"
    assert not results["isolated"].passed


def test_a_wrong_layer_number_is_found_and_stops_nobody_who_reads_no_layers(monkeypatch):
    monkeypatch.setattr(probe, "compare_taps", lambda model, batch: "hidden states after layer 1 differ")
    result = by_name(prove_model(tiny_model(), None))["layers"]
    assert not result.passed
    assert not result.required
    assert all(
        other.required
        for other in prove_model(tiny_model(), None, packed=True)
        if other.name not in ("layers", "written")
    )


def test_a_model_whose_layers_cannot_be_addressed_fails_only_that_line():
    model = tiny_model()
    model.config.num_hidden_layers = 3  # so that no list of layers fits
    results = by_name(prove_model(model, None))
    assert "cannot be addressed" in results["layers"].detail
    assert results["head"].passed


def test_a_tokenizer_with_ids_beyond_the_embeddings_is_found():
    result = by_name(prove_model(tiny_model(vocab_size=80, pad_token_id=0), tiny_tokenizer()))["vocabulary"]
    assert not result.passed
    assert not result.required  # rows decide: those that use such an id are refused
    assert result.detail.startswith("largest token id 92, embeddings for 80, output head for 80: rows")


def test_an_output_head_that_lacks_a_token_is_found_and_padding_is_not():
    model = tiny_model(tie_word_embeddings=False)
    for written, passed in ((80, False), (93, True), (128, True)):
        model.lm_head = torch.nn.Linear(model.config.hidden_size, written, bias=False)
        assert by_name(prove_model(model, tiny_tokenizer()))["vocabulary"].passed is passed


def test_a_model_that_cannot_run_gives_a_failed_head_and_no_error():
    results = prove_model(tiny_model().model, None)
    assert [result.name for result in results] == ["head"]
    assert not results[0].passed


@pytest.mark.real_model
def test_the_sample_model_is_read_and_passes_its_proofs(tmp_path):
    from tutelage.models.load import end_of_turn_id, load_model, load_tokenizer
    from tutelage.models.shrink import decoder_layers
    from tutelage.models.source import resolve_model

    source = resolve_model("sample:smollm2-135m-instruct", base_folder=tmp_path)
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=torch.float32, device=torch.device("cpu"))
    assert "Q4_1" in source.name
    assert source.licence == "Apache-2.0"
    assert len(decoder_layers(model)) == 30
    assert tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer, model.config)) == "<|im_end|>"
    results = prove_model(model, tokenizer)
    assert all(result.passed for result in results), results
