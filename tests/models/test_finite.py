import pytest
import torch
from tiny_families import tiny_model, tiny_tokenizer

from tutelage.errors import NumericsError
from tutelage.models.export import save_student
from tutelage.models.finite import require_finite
from tutelage.models.load import load_model
from tutelage.models.source import ModelSource


def poisoned(value, dtype=torch.float32):
    model = tiny_model(tie_word_embeddings=False).to(dtype)
    model.model.embed_tokens.weight.data[96, 3] = value  # a row that no data reads
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("value", "words"), [(torch.nan, "NaN"), (torch.inf, "infinite"), (-torch.inf, "infinite")])
def test_one_bad_number_anywhere_is_named_with_its_weight(value, words, dtype):
    with pytest.raises(NumericsError, match=rf"model\.embed_tokens\.weight of M holds.*{words}.*\(1 of 3,104"):
        require_finite(poisoned(value, dtype), "M")
    require_finite(tiny_model().to(dtype), "M")
    assert NumericsError.exit_code == 6


def test_bad_weights_are_refused_at_load_and_before_they_are_saved(tmp_path):
    poisoned(torch.nan).save_pretrained(tmp_path / "model")
    with pytest.raises(NumericsError, match="model holds NaN"):
        load_model(ModelSource("model", str(tmp_path / "model")), dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(NumericsError, match="the finished model holds NaN"):
        save_student(poisoned(torch.nan), tiny_tokenizer(), tmp_path / "student")
    assert not (tmp_path / "student").exists()
