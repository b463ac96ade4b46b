"""Figures: the same bytes for the same numbers, and nothing that dates them."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from tutelage.report.figure_style import render, spread
from tutelage.report.figures import group_figures
from tutelage.report.figures_scores import method_comparison, quality_vs_size
from tutelage.report.figures_training import training_curves, trial_grids

MAGIC = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}


@pytest.fixture(scope="module")
def figures(group):
    return {figure.name: figure for figure in group_figures(group)}


def test_all_figures_come_in_all_formats(figures):
    assert list(figures) == ["quality_vs_size", "method_comparison", "training_curves", "trials"]
    for figure in figures.values():
        assert {suffix: figure.formats[suffix][: len(magic)] for suffix, magic in MAGIC.items()} == MAGIC


def test_png_has_300_dots_per_inch(figures):
    content = figures["trials"].formats["png"]
    start = content.index(b"pHYs") + 4
    dots_per_metre = int.from_bytes(content[start : start + 4], "big")
    assert dots_per_metre * 0.0254 == pytest.approx(300, abs=0.5)


def test_drawing_again_gives_the_same_bytes_whatever_the_user_set(figures, group):
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "savefig.dpi": 40, "text.parse_math": True}):
        again = training_curves(group)
    assert again is not None
    assert again.formats == figures["training_curves"].formats


def test_no_figure_tells_a_date_or_a_program(figures):
    for figure in figures.values():
        for content in figure.formats.values():
            assert not any(word in content for word in (b"CreationDate", b"<dc:date", b"Matplotlib v", b"Software"))


def test_drawing_leaves_the_users_settings_alone(group):
    before = dict(matplotlib.rcParams)
    trial_grids(group)
    assert dict(matplotlib.rcParams) == before


def test_a_dollar_in_a_name_is_not_mathematics():
    def draw(figure: Figure) -> None:
        figure.subplots().set_title("$\\frac{1}$ KD$1")

    assert render(draw, height_inches=1)["svg"].startswith(b"<?xml")


def test_other_numbers_give_another_figure(figures, group):
    arms = [{**arm, "score": {"estimate": 0.5, "low": 0.4, "high": 0.6}} for arm in group["arms"]]
    changed = quality_vs_size({**group, "arms": arms})
    assert changed is not None
    assert changed.formats["svg"] != figures["quality_vs_size"].formats["svg"]


def test_what_has_nothing_to_show_is_left_out(group):
    assert trial_grids({**group, "heat_maps": []}) is None
    assert training_curves({**group, "curves": {}}) is None
    assert quality_vs_size({**group, "arms": [{**arm, "parameters": None} for arm in group["arms"]]}) is None
    assert method_comparison({**group, "arms": group["arms"][:1]}) is None


def test_equal_scores_and_holes_are_drawable(group):
    grid = {**group["heat_maps"][0], "cells": [[0.8, None], [0.8, 0.8], [0.8, 0.8]]}
    assert trial_grids({**group, "heat_maps": [grid]}) is not None


def test_words_of_a_figure_carry_its_numbers(figures):
    assert "KD1 minus B0 +" in figures["method_comparison"].alternative
    assert "Teacher" in figures["quality_vs_size"].alternative


@pytest.mark.parametrize("positions", [[1.0, 1.0, 1.0], [0.0, 0.1, 5.0], [3.0, 2.0, 2.9, 2.95], [1.0]])
def test_labels_are_spread_without_changing_their_order(positions):
    moved = spread(positions, gap=0.5)
    gaps = np.diff(np.sort(moved))
    assert (gaps >= 0.5 - 1e-6).all()
    assert sum(moved) == pytest.approx(sum(positions))
    order = np.argsort(positions, kind="stable")
    assert (np.diff(np.asarray(moved)[order]) > 0).all()
