import pytest

from tiny_tokenizers import byte_level, llama2, metaspace, word_level
from tutelage.data import ClassificationTask
from tutelage.data.spelling import check_spelling, spelling_problem
from tutelage.errors import DataError

TEMPLATE = "Review: {text}\nSentiment:"
SPACED = 'verbalisers: {neg: " negative", pos: " positive"}'
BARE = 'verbalisers: {neg: "negative", pos: "positive"}'


def problem_of(tokenizer, words, *, template=TEMPLATE, prompts=()):
    task = ClassificationTask("t", template, ("neg", "pos"), words)
    return spelling_problem(tokenizer, task, prompts)


@pytest.fixture(scope="module")
def tokenizers():
    made = {"byte_level": byte_level(), "llama2": llama2(), "word_level": word_level()}
    for scheme in ("always", "first", "never"):
        for kind in ("unigram", "bpe"):
            made[f"{kind} {scheme}"] = metaspace(scheme, kind=kind)
    return made


KINDS = ["byte_level", "llama2", "word_level"] + [
    f"{kind} {s}" for kind in ("unigram", "bpe") for s in ("always", "first", "never")
]
NEEDS_BLANK = {"byte_level", "unigram never", "bpe never"}
NEEDS_NONE = {"llama2"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_in_front_is_asked_for_just_where_the_tokenizer_does_not_put_it(tokenizers, kind):
    spaced = problem_of(tokenizers[kind], (" negative", " positive"))
    bare = problem_of(tokenizers[kind], ("negative", "positive"))
    assert (spaced.lines if spaced else None) == ((BARE,) if kind in NEEDS_NONE else None)
    assert (bare.lines if bare else None) == ((SPACED,) if kind in NEEDS_BLANK else None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [("negative", " positive"), (" negative ", " positive"), ("negative", "positive\n")])
def test_mixed_and_trailing_blanks_are_refused_with_a_line_that_passes(tokenizers, kind, words):
    problem = problem_of(tokenizers[kind], words)
    assert problem is not None
    assert problem.lines == ((BARE,) if kind in NEEDS_NONE else (SPACED,))


def test_llama2_words_behind_a_second_blank_share_their_first_token(tokenizers):
    assert [tokenizers["llama2"].tokenize(words)[0] for words in (" negative", " positive")] == ["▁", "▁"]
    with pytest.raises(
        DataError, match=r"tasks\.t\.verbalisers: .*'▁negative', but apart as '▁' '▁negative'.*"
    ) as found:
        check_spelling(
            tokenizers["llama2"], ClassificationTask("t", TEMPLATE, ("a", "b"), (" negative", " positive")), []
        )
    assert str(found.value).endswith('Write: verbalisers: {a: "negative", b: "positive"}')


def test_a_blank_at_the_templates_end_moves_to_the_answer(tokenizers):
    problem = problem_of(tokenizers["byte_level"], ("negative", "positive"), template="{text}\nSentiment: ")
    assert problem is not None
    assert problem.lines == ('template: "{text}\\nSentiment:"', SPACED)


def test_behind_a_line_end_or_an_opening_quote_words_need_no_blank(tokenizers):
    for template in ("{text}\nSentiment:\n", '{text}\nSentiment: "', "{text}\n感情："):
        assert problem_of(tokenizers["byte_level"], ("negative", "positive"), template=template) is None
    assert problem_of(tokenizers["byte_level"], (" 好", " 坏"), template="{text}\n感情：") is None


def test_where_no_spelling_continues_the_prompt_the_one_with_distinct_first_tokens_is_proposed(tokenizers):
    ends_a_line = "{text}\nSentiment:\n"  # behind it Llama 2 would read "negative" without any blank, apart it cannot
    shared = problem_of(tokenizers["llama2"], (" negative", " positive"), template=ends_a_line)
    assert shared is not None
    assert shared.lines == (BARE,)
    best = problem_of(tokenizers["llama2"], ("negative", "positive"), template=ends_a_line)
    assert best is not None
    assert best.lines == ()


def test_labels_that_yaml_reads_otherwise_are_quoted_in_the_line(tokenizers):
    task = ClassificationTask("t", TEMPLATE, ("yes", "0"), ("negative", "positive"))
    problem = spelling_problem(tokenizers["byte_level"], task, [])
    assert problem is not None
    assert problem.lines == ('verbalisers: {"yes": " negative", "0": " positive"}',)


def test_a_template_that_ends_with_the_text_is_judged_by_what_most_texts_end_with(tokenizers):
    prompts = ["A fine film", "A dull film.", "A film\n"]
    assert problem_of(tokenizers["byte_level"], (" negative", " positive"), template="{text}", prompts=prompts) is None
