import json

import pytest

from tutelage.errors import IntegrityError
from tutelage.train.journal import Journal, LineLog


def test_cutting_back_restores_the_bytes_of_that_moment(tmp_path):
    log = LineLog(tmp_path / "log.jsonl")
    log.append({"step": 1, "loss": 0.1})
    position, content = log.position(), log.path.read_bytes()
    log.append({"step": 2})
    log.stream.write(b'{"torn')
    log.cut_back(position)
    assert log.path.read_bytes() == content
    log.append({"step": 2})
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2]


def test_lines_that_were_changed_are_refused(tmp_path):
    log = LineLog(tmp_path / "log.jsonl")
    log.append({"step": 1})
    position = log.position()
    log.path.write_bytes(log.path.read_bytes().replace(b"1", b"7"))
    with pytest.raises(IntegrityError, match=r"log\.jsonl"):
        log.cut_back(position)


def test_lines_that_are_gone_are_refused(tmp_path):
    log = LineLog(tmp_path / "log.jsonl")
    log.append({"step": 1})
    position = log.position()
    log.path.write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"log\.jsonl"):
        log.cut_back(position)


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        LineLog(tmp_path / "log.jsonl").append({"loss": float("nan")})


def test_times_are_kept_out_of_the_content(tmp_path):
    journal = Journal(tmp_path)
    journal.log_step({"step": 1, "loss_nats": 0.5}, ["a", "b"], num_tokens=10, seconds=2.0)
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert set(metrics) == {"step", "loss_nats", "rows"}
    assert json.loads((tmp_path / "timings.jsonl").read_text()) == {
        "step": 1,
        "seconds": 2.0,
        "tokens_per_second": 5.0,
    }
    assert set(journal.positions()["content"]) == {"metrics", "evaluations"}


def test_the_digest_of_rows_depends_on_their_order(tmp_path):
    journal = Journal(tmp_path)
    for keys in (["a", "b"], ["b", "a"], ["a", "b"]):
        journal.log_step({"step": 1}, keys, num_tokens=1, seconds=1.0)
    first, second, third = (json.loads(line)["rows"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first == third != second
