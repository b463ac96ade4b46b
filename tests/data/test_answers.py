"""The SQuAD metric by its definition, worked out by hand."""

import pytest

from tutelage.data.answers import exact_match, f1, named_label, normalise_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower", "eiffel tower"),
        ("an apple, a day", "apple day"),
        ("THE THE the", ""),
        ("theatre and another", "theatre and another"),  # articles as whole words only
        ("a-b", "ab"),  # punctuation goes before articles: no word "a" is left
        ("U.S.", "us"),
        ("well-known", "wellknown"),
        ("$1,000.50", "100050"),
        ("  two \t words\n here ", "two words here"),
        ("non\u00a0breaking", "non breaking"),
        ("Beyoncé’s café", "beyoncé’s café"),  # accents and typographic quotes stay
        ("ÉCOLE", "école"),
        ("«Straße»", "«straße»"),
        ("東京", "東京"),
        ("", ""),
        ("!?.", ""),
    ],
)
def test_an_answer_is_lowered_stripped_of_punctuation_articles_and_blanks(text, normal):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("answer", "golds", "em", "score"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1.0, 1.0),
        ("the Denver Broncos!", ["Denver Broncos"], 1.0, 1.0),
        ("Broncos", ["Denver Broncos"], 0.0, 2 / 3),  # precision 1, recall 1/2
        ("Denver Broncos of Colorado", ["Denver Broncos"], 0.0, 2 / 3),  # precision 1/2, recall 1
        ("Carolina Panthers", ["Denver Broncos"], 0.0, 0.0),
        ("Broncos", ["Denver Broncos", "The Broncos"], 1.0, 1.0),  # the best gold counts
        ("Denver", ["Denver Broncos", "Carolina Panthers"], 0.0, 2 / 3),
        ("red red", ["red red blue"], 0.0, 4 / 5),  # shared words count as often as both have them
        ("red red", ["red blue"], 0.0, 1 / 2),
        ("", [""], 1.0, 0.0),  # v1.1: no token is shared
        ("the", ["An"], 1.0, 0.0),  # nothing but an article is no token
        ("", ["Denver"], 0.0, 0.0),
        ("Denver", [""], 0.0, 0.0),
        ("", ["Denver", ""], 1.0, 0.0),
        ("café", ["cafe"], 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_are_those_of_the_definition(answer, golds, em, score):
    assert exact_match(answer, golds) == em
    assert f1(answer, golds) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("score", [exact_match, f1])
@pytest.mark.parametrize("golds", [[], "Denver"])
def test_gold_answers_are_a_list_that_is_not_empty(score, golds):
    with pytest.raises(ValueError, match="expected a list of at least one string"):
        score("Denver", golds)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Positive.", "positive"),
        (" negative", "negative"),
        ("The review is positive, not negative", "positive"),
        ("very  NEGATIVE\nindeed", "very negative"),  # the longer one of two that start at the same word
        ("positively charming", None),
        ("", None),
    ],
)
def test_the_label_that_an_answer_names_first_is_found(answer, label):
    assert named_label(answer, ["negative", "positive", "very negative", "very"]) == label
    assert named_label(answer, []) is None
