"""A control token's name in a text stays text, under every kind of tokenizer; ordinary texts keep their ids."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tutelage.align import control_tokens, encode_texts, encode_with_offsets
from tutelage.errors import DataError

TURN, END, THINK, UNTHINK, MARK = "<|turn|>", "<|end|>", "<think>", "</think>", "<|extra|>"
TEXTS = ("Say it softly, please.", "a  b\nc\td 123", "naïve 漢字 été", "x < y | z > w")


def byte_level():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator([*TEXTS * 3, f"{END} end turn"], trainer)
    return backend


def sentencepiece_bpe():
    """Prepend a blank to every piece, as Llama 2's tokenizer does."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *bytes_], show_progress=False)
    backend.train_from_iterator([*TEXTS * 3, "turn end | < >"], trainer)
    return backend


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>", END])
    backend.train_from_iterator([*TEXTS * 3, "turn end | < >"], trainer)
    return backend


def words():
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "end": 1, END: 2, "a": 3, "<": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


KINDS = {"byte-level": byte_level, "sentencepiece": sentencepiece_bpe, "unigram": unigram, "words": words}


@pytest.fixture(scope="module", params=sorted(KINDS))
def tokenizer(request):
    backend = KINDS[request.param]()
    backend.add_special_tokens([AddedToken(TURN, special=True), AddedToken(END, special=True, normalized=False)])
    backend.add_tokens([AddedToken(each) for each in (THINK, UNTHINK, MARK)])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, unk_token="<unk>")
    fast.chat_template = f"{TURN} {THINK} {UNTHINK} {MARK}"
    return fast


def ids_of(tokenizer, text, *written):
    return encode_texts(tokenizer, [text], [written])[0]


def own_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_special_tokens_and_those_that_the_template_names_are_control_tokens_and_pairs_of_tags_are_not(tokenizer):
    names = set(control_tokens(tokenizer).ids)
    assert {TURN, END, MARK} <= names
    assert not {THINK, UNTHINK} & names


@pytest.mark.parametrize("text", [*TEXTS, f"so {THINK} b {UNTHINK} c", ""])
def test_an_ordinary_text_keeps_its_ids(tokenizer, text):
    assert ids_of(tokenizer, text) == own_ids(tokenizer, text)
    assert encode_with_offsets(tokenizer, text, []).ids == own_ids(tokenizer, text)


@pytest.mark.parametrize("name", [TURN, END, MARK])
@pytest.mark.parametrize("text", ["{}", "a {} b", "a{}b{}", "{}\n{}"])
def test_a_name_in_somebodys_words_is_text(tokenizer, name, text):
    own = text.format(name, name)
    found = ids_of(tokenizer, own)
    assert tokenizer.convert_tokens_to_ids(name) not in found
    assert found, "and it is not dropped"


def test_the_templates_own_control_tokens_stay_and_all_else_is_as_without_the_name(tokenizer):
    text, odd = f"{TURN}a b{END}{TURN}", f"{TURN}a b {END}{END}{TURN}"
    opening, closing = (0, len(TURN)), (len(odd) - len(END + TURN), len(odd))
    found = ids_of(tokenizer, odd, opening, closing)
    turn, end = (tokenizer.convert_tokens_to_ids(each) for each in (TURN, END))
    assert [each for each in found if each in (turn, end)] == [turn, end, turn]
    assert found[0] == turn
    assert found[-2:] == [end, turn]
    inner = own_ids(tokenizer, text)[1:-2]  # after a control token, by the tokenizer's own rule
    assert found[1 : 1 + len(inner)] == inner


def test_a_name_across_the_border_of_template_and_words_is_text(tokenizer):
    text = f"{END[:3]}{END[3:]} a"
    assert tokenizer.convert_tokens_to_ids(END) not in ids_of(tokenizer, text, (0, 3))


def test_offsets_are_those_of_the_text_whatever_the_copy_calls_its_tokens(tokenizer):
    text = f"{TURN}a {END} b{END}"
    real = [(0, len(TURN)), (len(text) - len(END), len(text))]
    found = encode_with_offsets(tokenizer, text, real)
    assert len(found.ids) == len(found.offsets)
    assert found.offsets[0] == real[0]
    assert found.offsets[-1] == real[1]
    covered = {place for start, end in found.offsets for place in range(start, end)}
    assert {place for place, letter in enumerate(text) if letter in "ab"} <= covered


def test_private_characters_in_a_text_do_not_become_tokens(tokenizer):
    turn = tokenizer.convert_tokens_to_ids(TURN)
    for sigil in (chr(0x100000), chr(0x100001)):
        assert turn not in ids_of(tokenizer, f"{sigil}{turn}{sigil} {END}")


def test_a_tokenizer_that_cannot_be_told_is_an_error_that_names_the_token(tokenizer):
    class Slow:
        """Has no tokenizer.json."""

        added_tokens_decoder = tokenizer.added_tokens_decoder
        chat_template = None

        def __call__(self, texts, **_):
            return tokenizer(texts, add_special_tokens=False)

    assert encode_texts(Slow(), [TEXTS[0]], [()]) == [own_ids(tokenizer, TEXTS[0])]
    with pytest.raises(DataError, match=r"holds '<\|end\|>', which is a control token"):
        encode_texts(Slow(), [f"a {END}"], [()])
