"""GGUF files are read whole or refused as what they are."""

import struct

import pytest
import torch
from tiny_families import tiny_model, tiny_tokenizer
from tiny_gguf import write_gguf

from tutelage.errors import ModelError
from tutelage.models.folder import check_weight_files
from tutelage.models.gguf_file import check_gguf
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.source import resolve_model

CPU = torch.device("cpu")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 98362432\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf")


def load(path):
    return load_model(resolve_model(path.name, base_folder=path.parent), dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_file_gives_the_model_that_was_converted(tmp_path, tied):
    model = load(write_gguf(tmp_path / "a.gguf", tied=tied))
    expected = tiny_model("qwen2", tie_word_embeddings=tied).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert model.config.tie_word_embeddings is tied


@pytest.mark.parametrize(
    ("tensor", "weight"),
    [
        ("blk.2.ffn_up.weight", "model.layers.2.mlp.up_proj.weight"),
        ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
        ("output_norm.weight", "model.norm.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
    ],
)
def test_a_tensor_that_is_missing_is_named_and_never_random(tmp_path, tensor, weight):
    path = write_gguf(tmp_path / "a.gguf", without=[tensor])
    with pytest.raises(ModelError, match=rf"lacks {weight} \(1 such weights\)"):
        load(path)


def test_a_file_that_was_cut_anywhere_is_said_to_be_cut(whole, tmp_path):
    content = whole.read_bytes()
    for length in (5, 20, 100, 3000, len(content) - 20_000, len(content) - 4):
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(ModelError, match=rf"cut short: it ends after {length:,} bytes"):
            resolve_model("cut.gguf", base_folder=tmp_path)


def with_type(content, ggml_type):
    at = content.index(b"blk.2.ffn_up.weight") + len(b"blk.2.ffn_up.weight")
    changed = bytearray(content)
    struct.pack_into("<I", changed, at + 4 + 8 * 2, ggml_type)
    return bytes(changed)


@pytest.mark.parametrize(
    ("ggml_type", "words"),
    [
        (99, "number format 99"),
        (9, "Q8_1, which cannot be widened"),
        (18, r"IQ3_XXS, whose blocks of 256 .* rows of 32"),
    ],
)
def test_a_number_format_that_cannot_be_widened_is_named_with_its_tensor(whole, tmp_path, ggml_type, words):
    (tmp_path / "a.gguf").write_bytes(with_type(whole.read_bytes(), ggml_type))
    with pytest.raises(ModelError, match=rf"holds blk\.2\.ffn_up\.weight .*{words}"):
        resolve_model("a.gguf", base_folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "pointer that Git LFS leaves.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"", "empty"),
        (b"PK\x03\x04zip", "pickled PyTorch"),
        (b"something", "something else"),
    ],
)
def test_a_weight_file_that_is_something_else_is_named_as_what_it_is(tmp_path, content, words):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        check_gguf(tmp_path / "a.gguf")
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=words):
        check_weight_files(tmp_path)


def test_safetensors_that_were_cut_are_said_to_be_cut(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    for length in (30, 1000, len(content) - 1):
        (tmp_path / "model.safetensors").write_bytes(content[:length])
        with pytest.raises(ModelError, match=rf"cut short. It has {length:,} bytes"):
            resolve_model(str(tmp_path), base_folder=tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_other_files_of_a_model_that_are_pointers_are_named_too(tmp_path, name):
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(POINTER)

    def read_all():
        source = resolve_model(str(tmp_path), base_folder=tmp_path)
        return load_tokenizer(source), load_model(source, dtype=torch.float32, device=CPU)

    with pytest.raises(ModelError, match=rf"{name} is the pointer that Git LFS leaves"):
        read_all()


def test_a_folder_of_one_gguf_file_and_tokenizer_files_is_a_model(whole, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "Q8.gguf").write_bytes(whole.read_bytes())
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    source = resolve_model("m", base_folder=tmp_path)
    assert (source.name, source.gguf_file) == ("Q8", "Q8.gguf")
    assert load_model(source, dtype=torch.float32, device=CPU).config.vocab_size == 97
    assert load_tokenizer(source).convert_ids_to_tokens([0, 95]) == ["a", "<end>"], "the file's own"
    (tmp_path / "m" / "Q4.gguf").write_bytes(whole.read_bytes())
    with pytest.raises(ModelError, match=r"2 GGUF files \(Q4.gguf, Q8.gguf\). Name one"):
        resolve_model("m", base_folder=tmp_path)


def test_tokenizer_files_beside_a_gguf_file_count_where_its_own_cannot_be_built(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", merges=["a zz"])
    source = resolve_model("a.gguf", base_folder=tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(source)
    tiny_tokenizer().save_pretrained(path.parent)
    assert load_tokenizer(source).get_vocab() == tiny_tokenizer().get_vocab()
