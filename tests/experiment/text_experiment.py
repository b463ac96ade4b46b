"""A whole experiment on conversations that fits in seconds: a random model and chats about who lives where."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PEOPLE = ("Anna", "Bert", "Cora", "Dave", "Emma", "Finn")
CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Paris", "Quito", "Seoul", "Tunis")
ROLES = ("system", "user", "assistant")
VOCABULARY = (
    *("<pad>", "<unk>", "<turn>", "<end>", *ROLES, "Where", "And", "where", "does", "live", "lives", "in", "?", "."),
    *("Be", "short", "User", "Assistant", ":", *PEOPLE, *CITIES),
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<turn>{{ message['role'] }} {{ message['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant {% endif %}"
)
MARKED = (
    "{% for message in messages %}<turn>{{ message['role'] }} {% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }} <end>{% endgeneration %}{% else %}{{ message['content'] }} <end>"
    "{% endif %} {% endfor %}{% if add_generation_prompt %}<turn>assistant {% endif %}"
)


def tiny_tokenizer(template: str | None = TEMPLATE, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer over the few words of the chats, and others."""
    every = [*VOCABULARY, *(word for word in words if word not in VOCABULARY)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(every)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<turn>", "<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    fast.chat_template = template
    return fast


def write_tiny_model(
    folder: Path, *, template: str | None = TEMPLATE, words: Sequence[str] = (), seed: int = 0
) -> Path:
    """Save a random Llama with 32 dimensions and its tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY) + len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=3, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer(template, words).save_pretrained(folder)
    return folder


def chat(rng: random.Random) -> dict[str, Any]:
    """Make one conversation of two questions and their answers."""
    turns: list[dict[str, Any]] = [{"role": "system", "content": "Be short ."}]
    for opening, person in zip(("Where", "And where"), rng.sample(PEOPLE, 2), strict=True):
        turns.append({"role": "user", "content": f"{opening} does {person} live ?"})
        turns.append({"role": "assistant", "content": f"{person} lives in {rng.choice(CITIES)} ."})
    return {"messages": turns}


def write_chats(path: Path, *, count: int = 80, seed: int = 0) -> Path:
    """Write conversations as JSONL."""
    rng = random.Random(seed)
    path.write_text("".join(json.dumps(chat(rng)) + "\n" for _ in range(count)), encoding="utf-8")
    return path


RECIPE = """\
name: tiny
seeds: {selection: 7, report: [1]}
workspace: WORKSPACE
teacher:
  model: model
  dtype: fp32
  adapt: {task: chat, rows: 16, learning_rate: 1e-2, max_steps: 8, per_device_train_batch_size: 8}
students:
  S1: {shrink: {layers: 2, by: influence}, dtype: fp32}
tasks:
  chat:
    kind: text
    data: {source: chats.jsonl, validation_rows: 8, test_rows: 16, limit: 24}
    max_length: 64
signals: [{kind: final_hidden}]
methods:
  B0: {kind: baseline}
  KD1: {kind: logit, temperature: 2, alpha: 0.3}
train: {learning_rate: 3e-3, num_train_epochs: 2, per_device_train_batch_size: 8, save_steps: null}
"""


def write_text_experiment(
    folder: Path, *, recipe: str = RECIPE, template: str | None = TEMPLATE, words: Sequence[str] = ()
) -> Path:
    """Write model, conversations and recipe into ``folder``; return the recipe's path."""
    write_tiny_model(folder / "model", template=template, words=words)
    write_chats(folder / "chats.jsonl")
    path = folder / "tiny.yaml"
    path.write_text(recipe.replace("WORKSPACE", str(folder / "runs")), encoding="utf-8")
    return path
