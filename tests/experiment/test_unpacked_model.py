"""A model whose documents would read each other when packed: trained padded, refused packed, never silently wrong."""

import pytest
import torch
from tiny_experiment import RECIPE, WORDS, run_tiny, write_experiment
from transformers import OPTConfig, OPTForCausalLM

from tutelage.errors import ModelError


@pytest.fixture
def recipe(tmp_path):
    kept = [line for line in RECIPE.splitlines(keepends=True) if not line.startswith(("  adapt:", "  PSEUDO:"))]
    path = write_experiment(tmp_path, recipe="".join(kept))
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(WORDS), hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    (tmp_path / "model" / "model.safetensors").unlink()
    OPTForCausalLM(config).save_pretrained(tmp_path / "model")
    return path


def test_padded_rows_train_and_packed_ones_are_refused_with_the_setting_to_change(recipe):
    with pytest.raises(ModelError, match=r"set `train.packed: false`"):
        run_tiny(recipe, "seeds.report=[1]", "train.packed=true", until="train")
    done = run_tiny(recipe, "seeds.report=[1]", until="train")
    assert sum(line.startswith("  no   packed: differs by") for line in done.lines) == 1
    assert done.record("KD1_sentiment_S1_T2_a0.3_seed1")["metrics"]["test"]["n"] == 32
