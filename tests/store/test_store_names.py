"""Names and digests of things."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import ConfigError
from tutelage.store import file_sha256, files_digest, safe_name, value_digest


@given(st.text(max_size=90))
def test_an_accepted_name_is_one_plain_component_of_a_path(name):
    try:
        assert safe_name(name) == name
    except ConfigError:
        return
    assert (Path("/folder") / name).parent == Path("/folder")
    assert Path(name).name == name
    assert name.isascii()
    assert name.isprintable()


@pytest.mark.parametrize("name", ["KD1_sst2_S1_T4_a0.5_seed42", "a", "A-b.c_9", "x" * 80, ".hidden", "a..b"])
def test_ordinary_names_pass(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "...",
        "a/b",
        "../a",
        "a b",
        "a\n",
        "a\0",
        "é",
        "x" * 81,
        "~",
        "$HOME",
        "a;b",
        "-\\",
        "x.tmp.12.ab",
    ],
)
def test_other_names_are_refused_and_the_message_says_which_one(name):
    with pytest.raises(ConfigError, match="method name") as caught:
        safe_name(name, what="method name")
    assert repr(name) in str(caught.value)


def test_a_value_digest_depends_on_the_value_and_not_on_the_order_of_keys():
    assert value_digest({"a": 1, "b": [1, {"c": None}]}) == value_digest({"b": [1, {"c": None}], "a": 1})
    assert (
        len({value_digest(value) for value in ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": 1.5}, {"b": 1}, [], {}, None)})
        == 8
    )
    assert len(value_digest(1)) == 16
    assert value_digest(1, length=64).startswith(value_digest(1))
    assert value_digest((1, "é")) == value_digest([1, "é"])
    with pytest.raises(ValueError, match="Out of range"):
        value_digest(float("nan"))


def test_a_value_digest_is_the_same_in_every_process_and_version():
    assert value_digest({"seed": 42, "name": "KD1"}) == "0bbc25d7cf40d037"  # sha256 of '{"name":"KD1","seed":42}'


def test_a_files_digest_ignores_order_and_folder_and_sees_names_content_and_namesakes(tmp_path):
    def write(name: str, text: str) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    one, two = write("z/a", "1"), write("y/b", "2")
    base = files_digest([one, two])
    assert files_digest([two, one]) == base
    assert files_digest([write("other/a", "1"), write("another/b", "2")]) == base
    assert files_digest([write("p/a", "1"), write("q/c", "2")]) != base
    assert files_digest([write("r/a", "1"), write("s/b", "3")]) != base
    # Two files of one name: both count.
    assert files_digest([one, write("t/a", "3")]) != files_digest([one, write("u/a", "4")])
    assert files_digest([one]) != base
    assert file_sha256(one) == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
