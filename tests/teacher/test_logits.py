"""Tiles of logits: the exact top-k, sums and products that the columns are measured from."""

import pytest
import torch

from tutelage.teacher import logits as module
from tutelage.teacher.logits import LogitTile, TiledHead, exact_bf16_products
from tutelage.types import OutputHead


def tile_of(logits_nU: torch.Tensor) -> LogitTile:
    return LogitTile(logits_nU.clone(), torch.empty_like(logits_nU))


@pytest.mark.parametrize("num_ids", [1024, 1000, 640])
@pytest.mark.parametrize("k", [1, 2, 4, 16, 600])
def test_the_two_stage_top_k_equals_torch_topk(num_ids: int, k: int) -> None:
    logits_nU = torch.randn(40, num_ids, generator=torch.Generator().manual_seed(k))
    expected = logits_nU.topk(k, dim=1)
    found_nK = tile_of(logits_nU).top(k)
    assert torch.equal(found_nK, expected.indices)
    assert torch.equal(logits_nU.gather(1, found_nK), expected.values)


@pytest.mark.parametrize("k", [1, 3, 4])
def test_with_ties_the_values_equal_those_of_torch_topk_and_no_id_occurs_twice(k: int) -> None:
    # few distinct values: ties inside of blocks, between blocks and at the border of the k kept
    logits_nU = torch.randint(0, 4, (300, 1024), generator=torch.Generator().manual_seed(0)).float()
    logits_nU[:50] = 1.0
    logits_nU[50:60, 100] = 9.0
    found_nK = tile_of(logits_nU).top(k)
    assert torch.equal(logits_nU.gather(1, found_nK), logits_nU.topk(k, dim=1).values)
    assert (found_nK.sort(dim=1).values.diff(dim=1) > 0).all()


def test_a_top_k_of_block_maxima_alone_would_be_wrong() -> None:
    # the defect: one candidate per block
    logits_nU = torch.zeros(1, 1024)
    logits_nU[0, [3, 5, 7, 9]] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert tile_of(logits_nU).top(4).tolist() == [[3, 5, 7, 9]]


def test_sums_and_logprobs_equal_float64_at_every_temperature() -> None:
    logits_nU = torch.randn(9, 640).mul(8)
    tile = tile_of(logits_nU)
    ids_nK = torch.randint(0, 640, (9, 30))
    for temperature in (1.0, 0.5, 2.0, 8.0):
        expected_nU = (logits_nU.double() / temperature).log_softmax(dim=1)
        found_nK = tile.logprobs(ids_nK, temperature).double()
        assert torch.allclose(found_nK, expected_nU.gather(1, ids_nK), rtol=0, atol=3e-5)
        log_z_n = (logits_nU.double().log_softmax(dim=1) / temperature).logsumexp(dim=1)
        assert torch.allclose(tile.log_z(temperature).double(), log_z_n, rtol=0, atol=3e-5)
    assert torch.equal(tile.logits_nU, logits_nU)


@pytest.mark.parametrize("tile_elements", [97, 1000, 2**24])
@pytest.mark.parametrize("kept_bytes", [0, 2**30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tiles_are_the_heads_logits_whatever_its_dtype(
    monkeypatch: pytest.MonkeyPatch, tile_elements: int, kept_bytes: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(module, "TILE_ELEMENTS", tile_elements)
    monkeypatch.setattr(module, "KEPT_HEAD_BYTES", kept_bytes)
    monkeypatch.setattr(module, "VOCAB_BLOCK", 40)
    generator = torch.Generator().manual_seed(0)
    weight_VD, bias_V = torch.randn(97, 16, generator=generator).to(dtype), torch.randn(97).to(dtype)
    hidden_NE = torch.randn(23, 16, generator=generator).mul(4).to(dtype)
    z_NV = (hidden_NE.double() @ weight_VD.double().T + bias_V.double()) * 0.7
    tiled = TiledHead(OutputHead(weight_VD, bias_V, 0.7, 30.0))
    found = torch.cat([tile.logits_nU.clone() for tile in tiled.tiles(hidden_NE)])
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), 30 * torch.tanh(z_NV / 30), rtol=0, atol=1e-4)
    again = torch.cat([tile.logits_nU.clone() for tile in tiled.tiles(hidden_NE)])
    assert torch.equal(found, again)  # memory is used again, its content is not


def test_products_of_bf16_values_lose_nothing_and_the_setting_is_put_back() -> None:
    left, right = torch.randn(64, 512).bfloat16(), torch.randn(512, 300).bfloat16()
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    with exact_bf16_products(left, right):
        found = left.float() @ right.float()
    exact = left.double() @ right.double()
    assert (found.double() - exact).abs().max() < 1e-4  # rounding of float32 sums; bfloat16 output would be 0.2 off
    assert ((left @ right).double() - exact).abs().max() > 1e-2
    assert settings.fp32_precision == before
    with pytest.raises(RuntimeError), exact_bf16_products(left, right):
        raise RuntimeError
    assert settings.fp32_precision == before


def test_float16_and_float32_values_are_not_cut_to_bf16() -> None:
    for dtype in (torch.float16, torch.float32):
        left, right = torch.randn(64, 512).to(dtype), torch.randn(512, 300).to(dtype)
        with exact_bf16_products(left, right):
            found = left.float() @ right.float()
        assert (found.double() - left.double() @ right.double()).abs().max() < 1e-4


def test_no_position_at_all_gives_empty_results() -> None:
    tile = tile_of(torch.empty(0, 128))
    assert tile.probs(2.0).shape == (0, 128)
    assert tile.log_z(4.0).shape == (0,)
    assert tile.logprobs(tile.top(3)).shape == (0, 3)
