"""A whole experiment that fits in a second: a random four-layer model and reviews made of a few words."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tutelage.config import load_recipe
from tutelage.experiment import Outcome, run_recipe

GOOD = ("fine", "lovely", "great", "warm", "clever")
BAD = ("dull", "awful", "cold", "weak", "empty")
NEUTRAL = ("the", "film", "plot", "is", "and", "a", "story", "with", "acting", "of")
SPECIAL = ("<pad>", "<end>", "<unk>")
WORDS = (*SPECIAL, "Review", ":", "Sentiment", "negative", "positive", "not", "bad", *GOOD, *BAD, *NEUTRAL)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer over the few words of the reviews."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def write_tiny_model(folder: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """Save a random Llama with 32 dimensions and its tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def review(rng: random.Random) -> tuple[str, str]:
    """Make one review; its label is that of the words it holds more of."""
    label = rng.choice(("negative", "positive"))
    own, other = (GOOD, BAD) if label == "positive" else (BAD, GOOD)
    words = [*rng.choices(own, k=3), *rng.choices(other, k=1), *rng.choices(NEUTRAL, k=rng.randint(2, 8))]
    rng.shuffle(words)
    return " ".join(words), label


def write_reviews(path: Path, *, count: int = 160, seed: int = 0) -> Path:
    """Write labelled reviews as JSONL or GLUE TSV, by the file's suffix."""
    rng = random.Random(seed)
    rows = [review(rng) for _ in range(count)]
    if path.suffix == ".tsv":
        lines = ["sentence\tlabel", *(f"{text}\t{int(label == 'positive')}" for text, label in rows)]
    else:
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


RECIPE = """\
name: tiny
seeds: {selection: 7, report: [1, 2]}
workspace: WORKSPACE
teacher:
  model: model
  dtype: fp32
  adapt: {task: sentiment, rows: 32, learning_rate: 1e-2, max_steps: 8, per_device_train_batch_size: 16}
students:
  S1: {shrink: {layers: 2, by: influence}, dtype: fp32}
tasks:
  sentiment:
    kind: classification
    data: {source: reviews.jsonl, validation_rows: 16, test_rows: 32}
    template: "Review: {text}\\nSentiment:"
    verbalisers: {negative: " negative", positive: " positive"}
signals: [{kind: final_hidden}, {kind: topk, k: 8, temperatures: [1, 2]}]
methods:
  B0: {kind: baseline}
  PSEUDO: {kind: pseudo}
  KD1: {kind: logit, temperature: 2, alpha: 0.3}
train: {learning_rate: 3e-3, num_train_epochs: 1, per_device_train_batch_size: 16, save_steps: null}
"""


def recipe_with(methods: str, signals: str) -> str:
    """Return the tiny recipe with other methods, one a line, and other signals."""
    head, rest = RECIPE.split("signals:")
    return head + signals + "\nmethods:\n" + methods + "train:" + rest.split("train:")[1]


def write_experiment(folder: Path, *, recipe: str = RECIPE) -> Path:
    """Write model, rows and recipe into ``folder``; return the recipe's path."""
    write_tiny_model(folder / "model")
    write_reviews(folder / "reviews.jsonl")
    path = folder / "tiny.yaml"
    path.write_text(recipe.replace("WORKSPACE", str(folder / "runs")), encoding="utf-8")
    return path


def at(root: Path, name: str) -> Path:
    """Return what was made under a name such as ``teach/sentiment`` or a run id, the newest where there are several."""
    found = sorted(
        (root / name).parent.glob(f"{(root / name).name}.????????"), key=lambda path: path.stat().st_mtime_ns
    )
    assert found, f"nothing is called {name} in {root}"
    return found[-1]


@dataclass(frozen=True)
class Finished:
    recipe: Path
    outcome: Outcome
    lines: list[str]

    @property
    def root(self) -> Path:
        return self.recipe.parent / "runs" / "tiny"

    def at(self, name: str) -> Path:
        return at(self.root, name)

    def record(self, run_id: str) -> dict[str, Any]:
        return json.loads((self.at(run_id) / "run.json").read_text(encoding="utf-8"))


def run_tiny(recipe: Path, *overrides: str, report: bool = False, **options) -> Finished:
    """Run a recipe, without its report unless asked: its figures take as long as all the rest."""
    lines: list[str] = []
    if not report and not options.keys() & {"only", "until"}:
        options["until"] = "train"
    outcome = run_recipe(load_recipe(recipe, overrides, environment={}), show=lines.append, **options)
    return Finished(recipe, outcome, lines)
