"""A whole reading experiment that fits in seconds: a random four-layer model and passages of who lives where."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PEOPLE = ("Anna", "Bert", "Cora", "Dave", "Emma", "Finn")
CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Paris", "Quito", "Seoul", "Tunis")
SPECIAL = ("<pad>", "<end>", "<unk>")
WORDS = (*SPECIAL, "Context", "Question", "Answer", ":", ".", "?", "Where", "does", "live", "lives", "in")
VOCABULARY = (*WORDS, *PEOPLE, *CITIES)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer over the few words of the passages."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def write_tiny_model(folder: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """Save a random Llama with 32 dimensions and its tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    teach_to_answer(model)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def teach_to_answer(model: LlamaForCausalLM, *, steps: int = 40) -> None:
    """Train a model until it answers with one city, if seldom the right one: a teacher that can be learnt from."""
    rng, tokenizer = random.Random(1), tiny_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        texts = []
        for number in range(8):
            made = passage(rng, number)
            asked = made["qas"][0]
            answer = asked["answers"][0]["text"]
            texts.append(f"Context: {made['context']} Question: {asked['question']} Answer: {answer} <end>")
        ids_BT = torch.tensor(tokenizer(texts)["input_ids"])  # all of one length
        labels_BT = ids_BT.clone()
        labels_BT[:, :-2] = -100
        model(input_ids=ids_BT, labels=labels_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def passage(rng: random.Random, number: int) -> dict[str, Any]:
    """Make one paragraph of the official layout: three people, where they live, a question about each."""
    context, questions = "", []
    for person in rng.sample(PEOPLE, 3):
        city = rng.choice(CITIES)
        start = len(context) + len(f"{person} lives in ")
        context += f"{person} lives in {city} . "
        answers = [{"text": city, "answer_start": start}]
        questions.append({"id": f"{number}-{person}", "question": f"Where does {person} live ?", "answers": answers})
    return {"context": context.strip(), "qas": questions}


def write_passages(path: Path, *, count: int = 60, seed: int = 0) -> Path:
    """Write passages in the official layout; three questions each."""
    rng = random.Random(seed)
    content = {"version": "1.1", "data": [{"title": "t", "paragraphs": [passage(rng, i) for i in range(count)]}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


RECIPE = """\
name: tiny
seeds: {selection: 7, report: [1]}
workspace: WORKSPACE
teacher:
  model: model
  dtype: fp32
  adapt: {task: squad, rows: 60, learning_rate: 1e-3, max_steps: 4, per_device_train_batch_size: 16}
students:
  S1: {shrink: {layers: 2, by: influence}, dtype: fp32}
tasks:
  squad:
    kind: reading
    data: {source: passages.json, validation_rows: 18, test_rows: 30, limit: 48}
    max_length: 64
    max_answer_length: 4
signals: [{kind: final_hidden}]
methods:
  B0: {kind: baseline}
  PSEUDO: {kind: pseudo}
  KD1: {kind: logit, temperature: 2, alpha: 0.3}
train: {learning_rate: 3e-3, num_train_epochs: 2, per_device_train_batch_size: 16, save_steps: null}
evaluate: {select_by: f1}
"""

# Beside it a classification; the caller writes its rows.
BOTH = RECIPE.replace("  squad:\n", """\
  sentiment:
    kind: classification
    data: {source: reviews.jsonl, validation_rows: 16, test_rows: 16, limit: 16}
    template: "{text} lives in"
    verbalisers: {negative: " Rome", positive: " Oslo"}
  squad:
""").replace("evaluate: {select_by: f1}\n", "")  # fmt: skip


def write_reading_experiment(folder: Path, *, recipe: str = RECIPE) -> Path:
    """Write model, passages and recipe into ``folder``; return the recipe's path."""
    write_tiny_model(folder / "model")
    write_passages(folder / "passages.json")
    path = folder / "tiny.yaml"
    path.write_text(recipe.replace("WORKSPACE", str(folder / "runs")), encoding="utf-8")
    return path
