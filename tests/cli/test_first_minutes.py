"""From a file of one's own to answers: new, plan, run, predict, chat; in a folder whose name holds a token."""

import csv
import json
import random
from pathlib import Path

import pytest
import torch
from text_experiment import write_chats
from text_experiment import write_tiny_model as write_chat_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from tutelage.cli.app import app

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
TOPICS = {"billing": "invoice", "refund": "money", "delivery": "parcel", "other": "hello"}
QUICK = [
    "teacher.model=model",
    "teacher.dtype=fp32",
    "students.S1.dtype=fp32",
    "students.S1.shrink.layers=2",
    "seeds.report=[1]",
    "teacher.adapt.max_steps=2",
    "train.max_steps=4",
]


def cli(*arguments: object, input: str | None = None) -> Result:
    torch.set_num_threads(1)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own = tmp_path / f"work_{TOKEN}"
    own.mkdir()
    monkeypatch.chdir(own)
    return own


def write_ticket_model(path: Path) -> None:
    words = [
        "<pad>", "<end>", "<unk>", "Text", "Answer", ":", ".", ",", "please", "the", "my", *TOPICS, *TOPICS.values(),
    ]  # fmt: skip
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)


def write_tickets(path: Path, count: int = 300) -> None:
    rng = random.Random(0)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["ticket", "topic"])
        for number in range(count):
            topic = list(TOPICS)[number % 4]
            words = [TOPICS[topic], *rng.choices(["please", "the", "my", ",", "."], k=rng.randint(3, 12))]
            rng.shuffle(words)
            writer.writerow([" ".join(words), topic])


def no_token_in(folder: Path, *results: Result) -> None:
    for result in results:
        assert TOKEN not in result.output
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert TOKEN.encode() not in path.read_bytes(), path


def test_a_csv_of_four_classes_becomes_a_student_that_predicts(folder: Path):
    write_ticket_model(Path("model"))
    write_tickets(Path("tickets.csv"))
    made = cli("new", "tickets", "--data", "tickets.csv")
    assert "topic" in made.stdout
    recipe = (folder / "tickets.yaml").resolve()
    planned = cli("plan", recipe, *QUICK)
    ran = cli("run", recipe, *QUICK)
    (command,) = [line for line in ran.stdout.splitlines() if line.startswith("  tutelage predict ")]
    Path("new.csv").write_text("ticket\nmy invoice please\nthe parcel\n")
    answers = [json.loads(line) for line in cli(*command.split()[1:-1], "new.csv").stdout.splitlines()]
    assert [answer["row"] for answer in answers] == [1, 2]
    assert {answer["label"] for answer in answers} <= set(TOPICS)
    assert all(sum(answer["scores"].values()) == pytest.approx(1) for answer in answers)
    no_token_in(folder / "runs", made, planned, ran)


def test_a_file_of_conversations_becomes_a_student_that_chats(folder: Path):
    write_chat_model(Path("model"))
    write_chats(Path("chats.jsonl"), count=80)
    made = cli("new", "talks", "--data", "chats.jsonl")
    cli("plan", "talks.yaml", *QUICK)
    ran = cli("run", "talks.yaml", *QUICK, "evaluate.generated_rows=2", "--until", "train")
    (command,) = [line for line in ran.stdout.splitlines() if line.startswith("  tutelage chat ")]
    said = cli(*command.split()[1:], "--max-new-tokens", 4, input="Where does Anna live ?\n")
    assert len(said.stdout.splitlines()) == 1
    no_token_in(folder / "runs", made, ran, said)
