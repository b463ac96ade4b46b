"""New rows of embeddings are the mean of the others, and nothing else moves."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.errors import ModelError
from tutelage.models.resize import grow_embeddings


def tiny(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            tie_word_embeddings=tied, pad_token_id=0,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_old_logits_stay_and_new_rows_are_the_mean(tied):
    model, ids_BT = tiny(tied=tied), torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        before = model(input_ids=ids_BT).logits
        grow_embeddings(model, 13)
        after = model(input_ids=ids_BT).logits
    assert model.config.vocab_size == 13
    assert torch.equal(after[..., :10], before)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        torch.testing.assert_close(layer.weight[10:], layer.weight[:10].mean(dim=0).expand(3, -1))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_a_model_with_enough_rows_is_left_alone():
    model = tiny(tied=True)
    weight = model.get_input_embeddings().weight
    grow_embeddings(model, 10)
    assert model.get_input_embeddings().weight is weight


def test_quantised_weights_are_refused():
    model = tiny(tied=True)
    model.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(ModelError, match="Remove `resize_embeddings`"):
        grow_embeddings(model, 13)
