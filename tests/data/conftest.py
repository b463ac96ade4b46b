import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tutelage.data import ClassificationTask


def build_tokenizer(*, opening: bool = False, closing: bool = False) -> PreTrainedTokenizerFast:
    """Build byte-level BPE over single bytes and a few whole words, small and without surprises."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "<end>", *sorted(alphabet)])}
    merges = []
    for word in ["Ġgood", "Ġbad", "Ġvery", "film"]:
        merged = word[0]
        for letter in word[1:]:
            merges.append((merged, letter))
            merged += letter
            vocabulary.setdefault(merged, len(vocabulary))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if opening or closing:
        single = ("<s> " if opening else "") + "$A" + (" <end>" if closing else "")
        special = [("<s>", vocabulary["<s>"]), ("<end>", vocabulary["<end>"])]
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="<end>", pad_token="<end>"
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def framing_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(opening=True, closing=True)


def sentiment(**changes) -> ClassificationTask:
    values = {
        "name": "sentiment",
        "template": "Review: {text}\nSentiment:",
        "labels": ("negative", "positive"),
        "verbalisers": (" bad", " good"),
    }
    return ClassificationTask(**(values | changes))


@pytest.fixture
def task() -> ClassificationTask:
    return sentiment()


@pytest.fixture
def make_task():
    return sentiment
