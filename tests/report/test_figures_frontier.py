"""The figure of bytes against fidelity."""

import pytest
from matplotlib.axes import Axes

from tutelage.report.figures_frontier import draw_frontier, families


def point(signal: str, num_bytes: float, degrees: float) -> dict:
    kind = signal.split()[0]
    return {"signal": signal, "kind": kind, "bytes_per_position": num_bytes, "step": {"degrees": degrees}}


POINTS = [
    point("final_hidden bf16", 1152, 0.0),
    point("topk 64 raw", 256, 8.0),
    point("topk 8 raw", 32, 20.0),
    point("topk 8 packed", 18, 20.0),
    point("sampled 25", 21, 6.0),
]
FACTS = {"positions": 256, "rows": 128, "temperature": 1.0}


def test_every_signal_and_the_choice_are_in_the_words_of_the_figure():
    drawn = draw_frontier(POINTS, recommended="sampled 25", max_degrees=10.0, facts=FACTS)
    assert set(drawn.formats) == {"svg", "pdf", "png"}
    for each in POINTS:
        assert each["signal"] in drawn.alternative
    assert "10 degrees" in drawn.caption
    assert "the recommended signal, sampled 25" in drawn.caption


def test_the_names_of_points_and_the_limit_are_drawn(monkeypatch: pytest.MonkeyPatch):
    written: list[str] = []
    annotate = Axes.annotate

    def recorded(self: Axes, text: str, *arguments, **options):
        written.append(text)
        return annotate(self, text, *arguments, **options)

    monkeypatch.setattr(Axes, "annotate", recorded)
    draw_frontier(POINTS, recommended="topk 8 packed", max_degrees=10.0, facts=FACTS)
    assert sorted(written) == ["25", "64", "8", "8", "limit 10\N{DEGREE SIGN}"]


def test_without_a_choice_nothing_is_recommended():
    drawn = draw_frontier(POINTS, recommended=None, max_degrees=10.0, facts=FACTS)
    assert "recommended" not in drawn.caption


def test_the_same_points_give_the_same_bytes():
    first, second = (draw_frontier(POINTS, recommended=None, max_degrees=10.0, facts=FACTS) for _ in range(2))
    assert first.formats == second.formats


def test_layouts_are_lines_of_their_own_sorted_by_size():
    grouped = families(POINTS)
    assert list(grouped) == ["final_hidden", "topk raw", "topk packed", "sampled"]
    assert [each["signal"] for each in grouped["topk raw"]] == ["topk 8 raw", "topk 64 raw"]
