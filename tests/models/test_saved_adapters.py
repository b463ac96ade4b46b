"""Adapters that lie beside weights or alone: an explicit choice, applied once and whole, part of the identity."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import tiny_model, tiny_tokenizer

from tutelage.errors import IntegrityError, ModelError
from tutelage.models import export
from tutelage.models.adapter import attach_lora
from tutelage.models.export import save_student
from tutelage.models.fingerprint import source_fingerprint
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.source import resolve_model

CPU = torch.device("cpu")
IDS_BT = torch.tensor([[5, 6, 7, 8]])


def logits_of(model):
    with torch.no_grad():
        return model.eval()(IDS_BT, use_cache=False).logits


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders: ``full``, ``adapter``, ``both``; and the logits with and without the adapter."""
    root = tmp_path_factory.mktemp("adapters")
    tiny_model().save_pretrained(root / "full")
    tiny_tokenizer().save_pretrained(root / "full")
    wrapped = attach_lora(tiny_model(), r=2)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(root / "adapter")
    shutil.copytree(root / "full", root / "both")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(root / "adapter" / name, root / "both")
    return root, logits_of(tiny_model()), logits_of(wrapped)


def load(root, model, **choice):
    return load_model(resolve_model(model, base_folder=root, **choice), dtype=torch.float32, device=CPU)


def print_of(root, model, **choice):
    return source_fingerprint(resolve_model(model, base_folder=root, **choice), dtype=torch.float32)


def record(folder, **changes):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))


def test_an_adapter_beside_weights_is_never_applied_without_a_word(made):
    root, plain, merged = made
    with pytest.raises(ModelError, match=r"`adapter_weights: ignore`.*`adapter_weights: merge`"):
        resolve_model("both", base_folder=root)
    assert torch.equal(logits_of(load(root, "both", adapter_weights="ignore")), plain)
    torch.testing.assert_close(logits_of(load(root, "both", adapter_weights="merge")), merged)
    assert (plain - merged).abs().max() > 0.1


def test_an_adapter_is_not_applied_either_by_those_who_load_a_folder_as_it_is(made):
    # a source that was not resolved from a recipe, as an adapted teacher's
    root, plain, _ = made
    source = resolve_model("full", base_folder=root)
    beside = type(source)("both", str(root / "both"))
    assert torch.equal(logits_of(load_model(beside, dtype=torch.float32, device=CPU)), plain)


def test_a_choice_without_an_adapter_is_refused(made):
    root, *_ = made
    for choice in ({"adapter_weights": "ignore"}, {"adapter_weights": "merge"}, {"base": "full"}):
        with pytest.raises(ModelError, match=f"`{next(iter(choice))}` speaks of an adapter, but full has none"):
            resolve_model("full", base_folder=root, **choice)


def test_the_fingerprint_sees_the_adapter_its_weights_and_its_settings(made, tmp_path):
    root, *_ = made
    shutil.copytree(root / "both", tmp_path / "both")
    shutil.copytree(root / "adapter", tmp_path / "adapter")
    shutil.copytree(root / "full", tmp_path / "full")
    plain = print_of(root, "full")
    assert print_of(root, "both", adapter_weights="ignore") == plain
    prints = [plain, print_of(tmp_path, "both", adapter_weights="merge")]
    assert print_of(tmp_path, "adapter", base="full") == prints[1], "the same two parts, wherever they lie"
    record(tmp_path / "both", lora_alpha=64)
    prints.append(print_of(tmp_path, "both", adapter_weights="merge"))
    weights = load_file(tmp_path / "both" / "adapter_model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, tmp_path / "both" / "adapter_model.safetensors")
    prints.append(print_of(tmp_path, "both", adapter_weights="merge"))
    assert len(set(prints)) == 4


def test_an_adapter_folder_is_merged_into_its_base_named_by_a_key_or_by_itself(made, tmp_path):
    root, _, merged = made
    torch.testing.assert_close(logits_of(load(root, "adapter", base="full")), merged)
    shutil.copytree(root / "adapter", tmp_path / "adapter")
    record(tmp_path / "adapter", base_model_name_or_path=str(root / "full"))
    source = resolve_model("adapter", base_folder=tmp_path)
    assert source.name == "adapter on full"
    torch.testing.assert_close(logits_of(load_model(source, dtype=torch.float32, device=CPU)), merged)
    assert load_tokenizer(source).get_vocab() == tiny_tokenizer().get_vocab()


def test_an_adapter_without_a_base_names_the_key(made, tmp_path):
    root, *_ = made
    with pytest.raises(ModelError, match=r"does not say which model.*`base`"):
        resolve_model("adapter", base_folder=root)
    shutil.copytree(root / "adapter", tmp_path / "adapter")
    record(tmp_path / "adapter", base_model_name_or_path="/gone/elsewhere")
    with pytest.raises(ModelError, match=r"adapter for '/gone/elsewhere'.*`base`"):
        resolve_model("adapter", base_folder=tmp_path)


@pytest.mark.parametrize("changes", [{"hidden_size": 16}, {"num_hidden_layers": 2}, {"num_hidden_layers": 6}], ids=str)
def test_an_adapter_of_another_model_is_refused_and_never_applied_in_part(made, tmp_path, changes):
    root, *_ = made
    other = tiny_model()
    config = type(other.config)(**{**other.config.to_dict(), **changes, "layer_types": None})
    type(other)(config).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=r"adapter.*`base`"):
        load(tmp_path, str(root / "adapter"), base="other")


def test_an_adapter_of_the_first_layers_is_merged_where_it_says_so(made, tmp_path):
    root, *_ = made
    other = tiny_model()
    config = type(other.config)(**{**other.config.to_dict(), "num_hidden_layers": 6, "layer_types": None})
    type(other)(config).save_pretrained(tmp_path / "other")
    shutil.copytree(root / "adapter", tmp_path / "adapter")
    record(tmp_path / "adapter", layers_to_transform=[0, 1, 2, 3])
    merged = dict(load(tmp_path, "adapter", base="other").named_parameters())
    base = dict(load(tmp_path, "other").named_parameters())
    changed = {name.split(".")[2] for name, weight in merged.items() if not torch.equal(weight, base[name])}
    assert changed == {"0", "1", "2", "3"}


def test_embeddings_that_were_saved_with_an_adapter_come_along(made, tmp_path):
    root, *_ = made
    shutil.copytree(root / "adapter", tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    more = torch.randn(101, 32)
    weights["base_model.model.model.embed_tokens.weight"] = more
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    model = load(tmp_path, "adapter", base=str(root / "full"))
    assert torch.equal(model.get_input_embeddings().weight, more)
    assert model.config.vocab_size == 101


def test_what_peft_cannot_merge_or_what_is_pickled_is_named(made, tmp_path):
    root, *_ = made
    shutil.copytree(root / "adapter", tmp_path / "adapter")
    for changes, words in (({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"), ({"task_type": "SEQ_CLS"}, "SEQ_CLS")):
        record(tmp_path / "adapter", peft_type="LORA", task_type="CAUSAL_LM", **{})
        record(tmp_path / "adapter", **changes)
        with pytest.raises(ModelError, match=words):
            resolve_model("adapter", base_folder=tmp_path, base=str(root / "full"))
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled adapter"):
        resolve_model("adapter", base_folder=tmp_path, base=str(root / "full"))


def test_a_repository_of_the_hub_is_looked_into_for_an_adapter(made, tmp_path, monkeypatch):
    root, _, merged = made
    for name, folder in (("adapter", "adapter"), ("both", "both")):
        snapshot = tmp_path / f"models--us--{name}" / "snapshots" / "c0ffee"
        shutil.copytree(root / folder, snapshot)
        (tmp_path / f"models--us--{name}" / "refs").mkdir()
        (tmp_path / f"models--us--{name}" / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.testing.assert_close(logits_of(load(root, "us/adapter", base="full")), merged)
    with pytest.raises(ModelError, match="`adapter_weights: ignore`"):
        load(root, "us/both")


# What is saved.


def test_a_model_that_an_adapter_sits_in_is_not_saved_as_one(made, tmp_path):
    from transformers import AutoModelForCausalLM

    root, *_ = made
    model = AutoModelForCausalLM.from_pretrained(root / "both")  # as others load it: the adapter is on
    with pytest.raises(ModelError, match="Merge the adapter"):
        save_student(model, tiny_tokenizer(), tmp_path / "student")


def test_a_saved_model_that_comes_back_as_another_one_is_not_committed(tmp_path, monkeypatch):
    model = tiny_model()
    save = type(model).save_pretrained

    def losing(self, folder, **options):
        save(self, folder, **options)
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] + 1e-3
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(type(model), "save_pretrained", losing)
    with pytest.raises(IntegrityError, match=r"model\.norm\.weight has other values"):
        save_student(model, tiny_tokenizer(), tmp_path / "student")


def test_a_saved_model_that_computes_otherwise_is_not_committed(tmp_path):
    model = tiny_model()
    model.model.layers[2].self_attn.scaling = 0.9  # in no file and no config
    with pytest.raises(IntegrityError, match="its logits differ"):
        save_student(model, tiny_tokenizer(), tmp_path / "student")


def test_a_config_says_tied_only_where_head_and_embeddings_are_one(tmp_path):
    model = tiny_model("llama")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)  # untied, under a tied flag
    save_student(model, tiny_tokenizer(), tmp_path / "student")
    assert json.loads((tmp_path / "student" / "config.json").read_text())["tie_word_embeddings"] is False
    assert json.loads(
        (save_student(tiny_model("llama"), tiny_tokenizer(), tmp_path / "tied") / "config.json").read_text()
    )["tie_word_embeddings"]


def test_a_saved_model_is_compared_where_it_lies(tmp_path):
    save_student(tiny_model(), tiny_tokenizer(), tmp_path / "student")
    with pytest.raises(IntegrityError, match="has other values"):
        export.require_same(tiny_model(seed=1), tmp_path / "student")
