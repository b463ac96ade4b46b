"""Prompts for the tiny teacher, a tokenizer of its words, and its answers without the code under test."""

import numpy as np
from tiny_teacher import VOCAB_SIZE
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tutelage.cache.sequences import Answer, SequencesColumn
from tutelage.models.generate import generate_batch
from tutelage.teacher.sequences import decoding_of, row_of_prompt
from tutelage.types import TeacherRow

END = 96
TEMPLATE = (
    "{% for message in messages %}w1 {{ message['content'] }} w96 {% endfor %}"
    "{% if add_generation_prompt %}w2{% endif %}"
)


def word_tokenizer(*, template: str | None = None) -> PreTrainedTokenizerFast:
    """One word per id of the tiny teacher: ``w0`` to ``w96``, the last one ends a text."""
    backend = Tokenizer(WordLevel({f"w{number}": number for number in range(VOCAB_SIZE)}, unk_token="w0"))
    backend.pre_tokenizer = WhitespaceSplit()  # type: ignore[misc]
    backend.decoder = decoders.Fuse()  # type: ignore[misc]
    backend.add_special_tokens(["w96"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w96", unk_token="w0")
    tokenizer.chat_template = template
    return tokenizer


TOKENIZER = word_tokenizer()
GREEDY = SequencesColumn(VOCAB_SIZE, max_new_tokens=6, stop_ids=(END,))
SAMPLED = SequencesColumn(VOCAB_SIZE, 6, num_samples=3, do_sample=True, temperature=1.5, seed=1, stop_ids=(END,))


def prompts(count: int, *, seed: int = 0) -> list[TeacherRow]:
    generator = np.random.default_rng(seed)
    return [row_of_prompt(generator.integers(0, 90, size=int(generator.integers(1, 12)))) for _ in range(count)]


def plain(answers: list[list[Answer]]) -> list[list[tuple]]:
    return [[(each.ids.tolist(), each.text, each.finish) for each in samples] for samples in answers]


def alone(model: LlamaForCausalLM, row: TeacherRow, column: SequencesColumn) -> list[Answer]:
    """Each sample of a prompt in a batch of its own."""
    decoding = decoding_of(column)
    return [
        generate_batch(model, TOKENIZER, [row.ids], decoding=decoding, samples=[sample])[0]
        for sample in range(column.num_samples)
    ]
