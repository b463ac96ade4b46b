"""Hidden states have the width of their layer, whatever the embeddings and the head have."""

import pytest
import torch
import transformers as hf
from tiny_families import SMALL, padded, tiny_model

from tutelage.errors import ModelError
from tutelage.models.taps import layer_width, read_states, refuse_streams
from tutelage.teacher.signals import build_column


def test_columns_of_a_model_with_narrow_embeddings_have_the_width_of_its_layers():
    config = hf.OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False)
    model = hf.OPTForCausalLM(config).eval()  # as OPT-350M
    with torch.no_grad():
        grid = read_states(model, padded([[5, 6, 7]]), [0, 2, 4])
    for layer, states_GD in grid.tapped.items():
        assert layer_width(model, layer) == states_GD.shape[1] == 32
        assert build_column(model, kind="hidden", layer=layer).width == 32
        assert build_column(model, kind="pooled", layer=layer).width == 32
    assert build_column(model, kind="final_hidden").width == grid.final_GD.shape[1] == 16
    assert layer_width(tiny_model(), 3) == 32


def test_a_model_of_several_streams_says_so_from_its_configuration():
    with pytest.raises(ModelError, match=r"keeps 4 streams of hidden states .*gemma3n"):
        refuse_streams(hf.Gemma3nTextConfig(), "m")
    refuse_streams(hf.Gemma3TextConfig(), "m")
