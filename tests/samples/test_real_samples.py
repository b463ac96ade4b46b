"""The embedded samples themselves: fetched once into the user's own cache folder."""

import hashlib
import json

import pytest

from tutelage.data import ClassificationTask, ReadingTask, load_records, prepare_task
from tutelage.models.sample import sample_model
from tutelage.samples import SAMPLES, sample_data
from tutelage.store import read_manifest

# Another wording needs another `format_version` of the sample, and then another hash here.
QUESTIONS_SHA256 = "7f6e654ae9290928a3beb4a0f7bf8303586d1d6a4ae04a259942ee696b15dcad"

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(1200)]  # the first run downloads and converts


def test_the_reviews_are_those_that_were_published():
    lines = sample_data("movie-reviews").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 10_605
    records = load_records("sample:movie-reviews").splits["train"]
    assert len(records) == 10_072
    positive = sum(record.values["label"] == "positive" for record in records)
    assert round(100 * positive / len(records), 1) == 49.6
    assert len({record.values["id"] for record in records}) == len(records)


def test_the_reviews_become_a_task():
    task = ClassificationTask("s", "Review: {text}\nSentiment:", ("negative", "positive"), (" negative", " positive"))
    prepared = prepare_task(
        task, source="sample:movie-reviews", test_rows=2000, validation_rows=600, adapt_rows=2000, seed=7
    )
    assert prepared.info["rows"] == {"train": 5472, "adapt": 2000, "validation": 600, "test": 2000}
    assert prepared.info["dropped"] == {"weak_rating": 533}


def test_the_questions_about_countries_are_those_that_were_pinned():
    assert hashlib.sha256(sample_data("country-facts").read_bytes()).hexdigest() == QUESTIONS_SHA256


def test_the_questions_become_a_task_split_by_country():
    template = "Context: {context}\nQuestion: {question}\nAnswer:"
    prepared = prepare_task(
        ReadingTask("facts", template), source="sample:country-facts", test_rows=1000, validation_rows=400, seed=7
    )
    assert sum(prepared.info["clusters"].values()) == 226
    assert prepared.info["rows_read"] == {"sample:country-facts:train": 5794}
    assert prepared.info["dropped"] == {}


def test_the_model_is_a_plain_folder_of_safetensors(capfd):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = sample_model()
    assert capfd.readouterr().err == ""
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.gguf"))
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & set(config)
    assert json.loads((folder / "source.json").read_text())["name"] == "SmolLM2-135M-Instruct (Q4_1)"
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.fields["licence"] == "Apache-2.0"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.dtype == torch.bfloat16  # a model with a quantization_config would have refused the cast


def test_samples_that_are_there_need_no_pip(monkeypatch):
    sample_model()
    sample_data()

    def run(*arguments, **options):
        raise AssertionError("pip was called")

    monkeypatch.setattr("tutelage.samples.fetch.subprocess.run", run)
    for spec in SAMPLES.values():
        (sample_model if spec.kind == "model" else sample_data)(spec.name)
