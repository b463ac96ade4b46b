"""Questions about countries: exact substrings, several gold answers, the same bytes every time."""

import json
import zipfile

import pytest

from tutelage.errors import IntegrityError
from tutelage.samples.fact_wording import QUESTIONS, SENTENCES, with_article
from tutelage.samples.facts import QUESTIONS_FILE, squad_of, write_questions

ATLAND = {
    "name": "Atland", "capital": "Atville", "population": 1234567, "area": 890.5, "subregion": "Northern Attica",
    "languages": ["fr", "xx", "de"], "currencies": ["ATL"], "borders": ["BET", "XXX", "GAM"], "demonym": "Atlander,At",
    "provinces": ["East", "North (upper)", "West", "South", "South"], "callingCodes": ["99"], "tld": [".at"],
    "translations": {"de": "Atland", "es": "Atlandia"}, "ISO": {"alpha3": "ATL"},
}  # fmt: skip
BETA = {"name": "Beta Islands", "capital": None, "ISO": {"alpha3": "BET"}}
GAMMA = {
    "name": "Gamma, State of", "capital": "G", "population": 1, "area": 1, "subregion": "G", "ISO": {"alpha3": "GAM"}
}  # fmt: skip
COUNTRIES = [BETA, ATLAND, GAMMA]


def wheel(path, countries):
    with zipfile.ZipFile(path, "w") as archive:
        for country in countries:
            archive.writestr(f"countryinfo/data/{country['name']}.json", json.dumps(country))
        archive.writestr("countryinfo/data/deeper/no.json", "{")
        archive.writestr("countryinfo/data/index.js", "no")
    return path


def asked(kind):
    paragraphs = squad_of(COUNTRIES)["data"][0]["paragraphs"]
    return [(p["context"], qa) for p in paragraphs for qa in p["qas"] if qa["id"].endswith(f"-{kind}")]


def test_every_answer_is_an_exact_substring_at_its_place():
    (article,) = squad_of(COUNTRIES)["data"]  # of the others not enough is known, or the name is no plain one
    assert article["title"] == "Atland"
    assert len(article["paragraphs"]) == 4
    for paragraph in article["paragraphs"]:
        assert len(paragraph["qas"]) >= 5
        for qa in paragraph["qas"]:
            assert "Atland" in qa["question"]
            for answer in qa["answers"]:
                start = answer["answer_start"]
                assert paragraph["context"][start : start + len(answer["text"])] == answer["text"]


def test_what_has_several_right_answers_has_them_as_gold():
    golds = {kind: [a["text"] for a in asked(kind)[0][1]["answers"]] for kind in ("languages", "borders", "provinces")}
    assert golds["languages"] == ["French", "German", "French and German"]
    assert golds["borders"] == ["the Beta Islands", "Gamma, State of", "the Beta Islands and Gamma, State of"]
    assert golds["provinces"] == ["East", "West", "South", "East, West and South"]
    assert [a["text"] for a in asked("population")[0][1]["answers"]] == ["1,234,567", "1,234,567 people"]


def test_each_fact_is_said_and_asked_twice_in_other_words():
    for kind in ("capital", "area", "demonym", "spanish_name"):
        (first, one), (second, other) = asked(kind)
        assert one["question"] != other["question"]
        assert one["answers"][0]["text"] == other["answers"][0]["text"]
        assert first != second
    assert asked("german_name") == []  # it is the English one, so it would answer nothing


def test_ids_are_unique_and_the_bytes_are_the_same_every_time(tmp_path):
    files = []
    for name, countries in (("a", COUNTRIES), ("b", COUNTRIES[::-1])):
        (tmp_path / name).mkdir()
        write_questions(wheel(tmp_path / f"{name}.whl", countries), ("countryinfo/data",), tmp_path / name)
        files.append((tmp_path / name / QUESTIONS_FILE).read_bytes())
    assert files[0] == files[1]
    ids = [qa["id"] for article in json.loads(files[0])["data"] for p in article["paragraphs"] for qa in p["qas"]]
    assert len(set(ids)) == len(ids) > 20


def test_a_wheel_without_the_folder_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match=r"no \.json files in countryinfo/facts"):
        write_questions(wheel(tmp_path / "a.whl", COUNTRIES), ("countryinfo/facts",), tmp_path)
    (tmp_path / "b.whl").write_bytes(b"no wheel")
    with pytest.raises(IntegrityError, match="not a readable wheel"):
        write_questions(tmp_path / "b.whl", ("countryinfo/data",), tmp_path)


def test_every_kind_of_fact_has_at_least_two_sentences_and_questions():
    assert set(SENTENCES) == set(QUESTIONS)
    for texts in (*SENTENCES.values(), *QUESTIONS.values()):
        assert len(set(texts)) >= 2
    assert all(text.count("{said}") == 1 for texts in SENTENCES.values() for text in texts)
    assert not any("{said}" in text for texts in QUESTIONS.values() for text in texts)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("France", "France"), ("The Bahamas", "the Bahamas"), ("Netherlands", "the Netherlands"),
     ("Cook Islands", "the Cook Islands"), ("Republic of Macedonia", "the Republic of Macedonia")],
)  # fmt: skip
def test_names_get_their_article(name, shown):
    assert with_article(name) == shown
