"""Small tokenizers of the kinds that differ in what they make of a blank in front of a word."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "Review: a fine film\nSentiment: negative",
    "Review: a dull film\nSentiment: positive",
    "Request: a refund",
) * 30
LABELS = ("negative", "positive", "billing", "refund")
CORPUS = [*TEXTS, *(f"Answer: {label}" for label in LABELS * 40)]
SPECIAL = ["<pad>", "<end>", "<unk>"]


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2: the blank is a part of the word's first token."""
    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = [*CORPUS, *(f"x{label}" for label in LABELS * 40)]  # the bare words get tokens too
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return wrapped(tokenizer)


def metaspace(prepend_scheme: str = "always", *, kind: str = "unigram") -> PreTrainedTokenizerFast:
    """Like T5 or Gemma: a mark for every blank; ``always`` and ``first`` put one before a text, ``never`` does not."""
    model: Any = models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>")
    tokenizer: Any = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    if kind == "unigram":
        trainer: Any = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>")
    else:
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrapped(tokenizer)


def llama2() -> PreTrainedTokenizerFast:
    """Like Llama 2: the mark is put before every text by the normalizer, and nothing splits words."""
    words = ["\u2581", *(f"\u2581{word}" for word in ("negative", "positive", "Review", "Sentiment", "a", "film"))]
    letters = sorted({letter for text in CORPUS for letter in text.replace(" ", "\u2581")} - {"\u2581"})
    pieces: list[str] = [*SPECIAL, "<0x0A>", "\u2581", *letters]
    merges = []
    for word in words[1:]:  # the merges that build each word from the left
        for cut in range(2, len(word) + 1):
            if word[:cut] not in pieces:
                pieces.append(word[:cut])
                merges.append((word[: cut - 1], word[cut - 1]))
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer: Any = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return wrapped(tokenizer)


def word_level() -> PreTrainedTokenizerFast:
    """A token per word; blanks are not kept."""
    words = [*SPECIAL, ":", "Review", "Sentiment", "a", "film", "fine", *LABELS]
    tokenizer: Any = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrapped(tokenizer)
