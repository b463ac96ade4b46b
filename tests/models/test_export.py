import pytest
import torch
from safetensors import SafetensorError
from tiny_families import tiny_model, tiny_tokenizer

from tutelage.errors import DiskError, ModelError
from tutelage.models.adapter import attach_lora
from tutelage.models.export import count_parameters, save_student
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.source import ModelSource


def test_a_saved_student_loads_again_without_a_trace_of_its_origin(tmp_path, capfd):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.config.name_or_path = "/home/someone/secret"
    model.config._model_name_or_path = "/home/someone/secret"
    tokenizer.name_or_path = "/home/someone/secret"
    tokenizer.init_kwargs["name_or_path"] = "/home/someone/secret"
    folder = save_student(model, tokenizer, tmp_path / "student")
    assert capfd.readouterr() == ("", "")
    written = sorted(path.name for path in folder.iterdir())
    assert "model.safetensors" in written
    assert not any(name.endswith((".bin", ".pt")) for name in written)
    assert not any(b"secret" in path.read_bytes() for path in folder.iterdir())
    assert model.config.name_or_path == "/home/someone/secret"  # the model itself is not changed
    source = ModelSource("student", str(folder))
    again = load_model(source, dtype=torch.float32, device=torch.device("cpu"))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    assert load_tokenizer(source).get_vocab() == tokenizer.get_vocab()


def test_a_wrapped_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="Merge the adapter"):
        save_student(attach_lora(tiny_model()), tiny_tokenizer(), tmp_path / "student")  # type: ignore[arg-type]
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("message", "kind"), [("I/O error: No space left on device (os error 28)", DiskError), ("bad header", ModelError)]
)
def test_a_full_disk_is_told_from_other_faults(tmp_path, monkeypatch, message, kind):
    def failing(*args, **kwargs):
        raise SafetensorError(message)

    model = tiny_model()
    monkeypatch.setattr(type(model), "save_pretrained", failing)
    with pytest.raises(kind):
        save_student(model, tiny_tokenizer(), tmp_path / "student")


def test_tied_weights_count_once():
    tied, untied = (
        count_parameters(tiny_model("llama")),
        count_parameters(tiny_model("llama_untied", attention_bias=False)),
    )
    assert untied - tied == 97 * 32


def test_trainable_parameters_can_be_counted_alone():
    wrapped = attach_lora(tiny_model(), r=2, targets=["q_proj"])
    assert count_parameters(wrapped, trainable_only=True) == 4 * 2 * (32 + 32)
