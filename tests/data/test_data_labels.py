import pytest

from tutelage.data.labels import label_reader
from tutelage.errors import DataError

CLASSES = ("negative", "positive")


@pytest.mark.parametrize("raw", ["positive", " positive ", 1, "1", 1.0, " 1"])
def test_a_label_is_a_class_name_or_an_index(raw):
    assert label_reader(CLASSES)(raw) == 1


@pytest.mark.parametrize("raw", ["Positive", "2", 2, "", 0.5, [1], "positive?"])
def test_any_other_label_is_an_error_that_lists_the_classes(raw):
    with pytest.raises(ValueError, match=r"expected 'negative', 'positive', or an index from 0 to 1"):
        label_reader(CLASSES)(raw)


@pytest.mark.parametrize("raw", [-1, "-1", -1.0])
@pytest.mark.parametrize("label_map", [None, {0: "negative", 1: "positive"}])
def test_minus_one_is_explained(raw, label_map):
    with pytest.raises(ValueError, match="GLUE hides"):
        label_reader(CLASSES, label_map=label_map)(raw)


def test_a_map_decides_alone():
    read = label_reader(CLASSES, label_map={"pos": "positive", "1": "negative", 5: "positive", True: "positive"})
    assert [read(raw) for raw in ("pos", 1, "5", True)] == [1, 0, 1, 1]
    with pytest.raises(ValueError, match=r"'positive', expected a key of data.labels \('pos', '1', '5', 'true'\)"):
        read("positive")


@pytest.mark.parametrize(
    ("label_map", "message"),
    [({"a": "good"}, "unknown class 'good'"), ({"a": "positive"}, "never leads to 'negative'")],
)
def test_a_map_must_reach_every_class_and_no_other(label_map, message):
    with pytest.raises(DataError, match=message):
        label_reader(CLASSES, label_map=label_map, task_name="t")


def test_names_of_the_source_decide_what_an_integer_means():
    assert label_reader(CLASSES, class_names=["positive", "negative"])(0) == 1
    with pytest.raises(DataError, match=r"names its classes neg, pos .*`labels: \{0: negative, 1: positive\}`"):
        label_reader(CLASSES, class_names=["neg", "pos"])(0)


def test_numeric_class_names_are_never_indices():
    read = label_reader(("1", "2", "3"))
    assert [read(raw) for raw in (1, "3", 2.0)] == [0, 2, 1]
    with pytest.raises(ValueError, match="the label is 0"):
        read(0)
