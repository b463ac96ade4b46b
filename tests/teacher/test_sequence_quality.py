"""Bad sets of answers are counted and refused; good ones are not."""

import numpy as np
import pytest

from tutelage.cache.sequences import Answer
from tutelage.errors import DataError
from tutelage.teacher.sequence_quality import leak_pattern, measure_quality, quality_problems, require_quality

CHATML = ("<|im_start|>assistant", "<|im_start|>user")


def answer(text: str, *, finish: str = "stop", length: int = 5) -> Answer:
    return Answer(np.ones(length, dtype=np.int32), text, finish)


GOOD = answer("It is a fine film.")
RUN_ON = answer("It is a fine film.\n\nHuman: And the next one?\n\nAssistant: Also")
CUT = answer("It is a fine film, which", finish="length")
EMPTY = answer("  \n")


def mixed(num_answers: int, **bad: int) -> list[list[Answer]]:
    """A set of one-sample prompts with so many bad answers of each kind."""
    kinds = {"run_on": RUN_ON, "cut": CUT, "empty": EMPTY}
    chosen = [kinds[name] for name, count in bad.items() for _ in range(count)]
    return [[each] for each in (*chosen, *[GOOD] * (num_answers - len(chosen)))]


@pytest.mark.parametrize(
    ("kind", "limit_percent"), [("run_on", 1), ("cut", 10), ("empty", 10)], ids=["leak", "cut", "empty"]
)
@pytest.mark.parametrize("num_answers", [100, 300, 2000])
def test_a_share_of_exactly_the_limit_passes_and_one_answer_more_is_refused(kind, limit_percent, num_answers):
    allowed = num_answers * limit_percent // 100
    require_quality(measure_quality(mixed(num_answers, **{kind: allowed})))
    with pytest.raises(DataError, match=f"{allowed + 1} of {num_answers:,} answers"):
        require_quality(measure_quality(mixed(num_answers, **{kind: allowed + 1})))


@pytest.mark.parametrize("num_answers", [1, 99, 199])
def test_a_limit_between_two_counts_is_kept_too(num_answers):
    allowed = num_answers // 100
    require_quality(measure_quality(mixed(num_answers, run_on=allowed)))
    with pytest.raises(DataError, match="run on"):
        require_quality(measure_quality(mixed(num_answers, run_on=allowed + 1)))


def test_the_published_set_with_730_run_on_answers_of_2000_is_refused():
    quality = measure_quality(mixed(2000, run_on=730))
    assert quality.num_leaked == 730
    with pytest.raises(DataError) as caught:
        require_quality(quality)
    message = str(caught.value)
    assert "730 of 2,000 answers (36.5%, at most 1 % is expected) run on into a next turn" in message
    assert "Human:" in message
    assert "add where they do to `stop`" in message
    assert "allow_bad: true" in message


def test_an_override_lets_a_bad_set_pass_and_says_what_is_wrong():
    quality = measure_quality(mixed(100, run_on=50, cut=20, empty=30))
    problems = require_quality(quality, allow_bad=True)
    assert [problem.split(")")[1].split(":")[0].split("(")[0].strip() for problem in problems] == [
        "run on into a next turn", "are cut at the token limit", "are empty",
    ]  # fmt: skip
    assert require_quality(measure_quality(mixed(100))) == ()


def test_all_problems_are_in_one_message():
    with pytest.raises(DataError, match=r"run on .*cut at the token limit: raise `max_new_tokens`.*are empty: check"):
        require_quality(measure_quality(mixed(100, run_on=50, cut=20, empty=30)))


def test_a_set_without_answers_is_refused_whatever_is_allowed():
    for answers in ([], [[]]):
        with pytest.raises(DataError, match="no answers at all"):
            require_quality(measure_quality(answers), allow_bad=True)


LEAKS = [
    "yes\nHuman: no", "yes\n\nUser: no", "yes\nQuestion: who", "yes\nQ: who", "yes\n  Human : who", "yes\nUSER: who",
    "yes\nAssistant: no", "yes\n### Instruction:\nWrite", "yes\n### Response:", "yes\ninstruction: write",
    "Human: who are you", "\nQuestion: who",
    "yes<|im_end|>\n<|im_start|>user\nwho", "yes<|im_start|>system", "yes [INST] who", "yes<start_of_turn>user\nwho",
    "yes<|start_header_id|>user<|end_header_id|>", "yes<|user|>\nwho",
]  # fmt: skip
CLEAN = [
    "yes", "", "Assistant: yes", "The human: a study", "It asks one question: why?", "A Q: the letter", "Users: three",
    "yes\nHumanity: lost", "yes\nThe user: me", "yes\n### Summary", "yes\nFAQ: all", "the assistant: a man",
]  # fmt: skip


@pytest.mark.parametrize("text", LEAKS)
def test_a_later_turn_inside_of_an_answer_is_found(text):
    assert leak_pattern().search(text)


@pytest.mark.parametrize("text", CLEAN)
def test_words_that_only_look_like_a_turn_are_left_alone(text):
    assert not leak_pattern().search(text)


def test_the_markers_of_the_template_in_use_are_found_anywhere():
    for markers, text in (
        (("<turn>user",), "yes <turn>user who"),
        (("USER:", "ASSISTANT:"), "yes USER: who"),
        (("Review:",), "positive\nReview: a bad film"),
        (CHATML, "yes<|im_end|><|im_start|>user"),
    ):
        assert measure_quality([[answer(text)]], markers=markers).num_leaked == 1, text
    assert measure_quality([[answer("a Preview: nice")]], markers=("Review:",)).num_leaked == 0
    assert measure_quality([[answer("yes <turn>user who")]]).num_leaked == 0
    assert measure_quality([[answer("yes")]], markers=("", " ")).num_leaked == 0


def test_lengths_and_shares_are_over_all_answers():
    answers = [[answer("a", length=length), answer("b", length=length)] for length in range(1, 101)]
    quality = measure_quality(answers)
    assert (quality.num_prompts, quality.num_answers) == (100, 200)
    assert quality.tokens_mean == 50.5
    assert quality.tokens_p50 == 50.5
    assert quality.tokens_p95 == pytest.approx(np.percentile(np.repeat(np.arange(1, 101), 2), 95))
    assert quality.share(50) == 0.25


def test_repeats_across_prompts_and_among_samples_are_counted_apart():
    def texts(*rows: str):
        return [[answer(text) for text in row.split("|")] for row in rows]

    quality = measure_quality(texts("a|a|a|b", "c|d|e|f"))
    assert (quality.num_repeated_samples, quality.num_repeated_elsewhere) == (2, 0)
    quality = measure_quality(texts("a|b", "a |c", "d|e"))
    assert (quality.num_repeated_samples, quality.num_repeated_elsewhere) == (0, 2)
    quality = measure_quality(texts("a|a", "a|a"))
    assert (quality.num_repeated_samples, quality.num_repeated_elsewhere) == (2, 4)


def test_gold_answers_give_exact_match_and_f1_over_all_samples():
    answers = [[answer("The Broncos."), answer("Denver")], [answer("no idea"), answer("Panthers")]]
    quality = measure_quality(answers, golds=[["Broncos", "Denver Broncos"], ["Carolina Panthers"]])
    assert quality.exact_match == 0.25
    assert quality.f1 == pytest.approx((1 + 2 / 3 + 0 + 2 / 3) / 4)
    assert quality.accuracy is None
    assert measure_quality(answers).f1 is None


def test_gold_labels_give_the_accuracy_of_the_first_label_named():
    answers = [[answer("Positive.")], [answer("It is negative, not positive")], [answer("who knows")]]
    quality = measure_quality(
        answers, golds=[["positive"], ["positive"], ["negative"]], labels=["negative", "positive"]
    )
    assert quality.accuracy == pytest.approx(1 / 3)
    assert quality.exact_match is None


def test_gold_of_another_number_of_prompts_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        measure_quality([[GOOD]], golds=[["a"], ["b"]])


def test_the_summary_shows_every_figure():
    quality = measure_quality(mixed(200, run_on=1, cut=10), golds=[["fine film"]] * 200)
    assert quality.summary == (
        "200 answers, 5.0% cut, 0.5% run on, 0.0% empty, tokens mean 5.0, p50 5, p95 5, 99.5% equal to another "
        "prompt's, 0.0% repeated samples, EM 0.0%, F1 " + f"{quality.f1:.1%}"
    )
    assert quality_problems(quality) == ()
