"""The page of benchmarks says what the committed records say."""

from benchmarks.results_page import PAGE, TITLES, page_text, read_records


def test_the_page_is_made_from_the_records():
    assert PAGE.read_text(encoding="utf-8") == page_text(read_records()), "run `python -m benchmarks page`"


def test_every_benchmark_has_a_record():
    records = read_records()
    assert [name for name in (*TITLES, "B1-gpu") if not records[name]] == []
