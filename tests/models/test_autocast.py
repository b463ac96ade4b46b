import pytest
import torch
import transformers as hf
from tiny_families import VOCAB, tiny_tokenizer

from tutelage.models.adapter import prepare_full
from tutelage.models.export import save_student
from tutelage.models.load import load_model
from tutelage.models.source import ModelSource


@pytest.fixture
def folder(tmp_path):
    config = hf.DbrxConfig(
        vocab_size=VOCAB, d_model=32, n_heads=4, n_layers=2, max_seq_len=64,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10_000.0},
        ffn_config={"ffn_hidden_size": 32, "moe_num_experts": 2, "moe_top_k": 1, "hidden_size": 32},
    )  # fmt: skip
    torch.manual_seed(0)
    hf.DbrxForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_dbrx_trains_under_bfloat16_autocast_and_is_saved(folder, tmp_path):
    model = prepare_full(load_model(ModelSource("m", str(folder)), dtype=torch.float32, device=torch.device("cpu")))
    ids_BT = torch.tensor([[5, 6, 7, 8]])
    expected = model(ids_BT).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(ids_BT).logits
    torch.testing.assert_close(
        found.float().detach(), expected.detach(), rtol=0, atol=0.03 * float(expected.detach().abs().max())
    )
    found.float().square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    save_student(model, tiny_tokenizer(), tmp_path / "student")
