"""The page: complete, self-contained, and deaf to what names and texts try to do."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tutelage.report.arms import group_arms
from tutelage.report.collect import Experiment
from tutelage.report.inline_svg import inline_svg
from tutelage.report.item_view import view_items
from tutelage.report.page import GroupParts, clean, minus_sign, render_page, sentence
from tutelage.report.summary import summarise
from tutelage.report.tables import group_tables

SECTIONS = (
    "answer",
    "compared",
    "main",
    "comparisons",
    "figures",
    "trials",
    "items",
    "budget",
    "provenance",
    "commands",
)
ATTACK = '"><script>alert(1)</script><img src=http://evil.test/x onerror=alert(2)>\x1b[2J\u202e'


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "srcset", "data", "action"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


@pytest.fixture(scope="module")
def html(built):
    return built.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_page_has_every_section_once(page):
    assert [page.ids.count(name) for name in SECTIONS] == [1] * len(SECTIONS)


def test_ids_are_unique_and_every_inner_link_leads_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    inner = {address[1:] for address in page.addresses if address.startswith("#")}
    assert inner <= set(page.ids)


def test_page_needs_nothing_from_outside(page, html):
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert set(re.findall(r"https?://[^\"' <]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html


def test_answer_and_numbers_are_on_the_page(html, built):
    group = built.summary["groups"][0]
    words = re.sub(r"<[^>]+>", "", html).replace("\u00a0", " ").replace("&#39;", "'").replace("\u2212", "-")
    assert group["answer"]["headline"] in words
    for arm in group["arms"]:
        assert f"{100 * arm['score']['estimate']:.1f}[{100 * arm['score']['low']:.1f}" in words


def test_page_shows_commands_recipe_commit_and_digests(html, built, experiment):
    assert html.count("tutelage run recipes/reviews.yaml --control") >= 10  # under every table and figure
    assert "0123456789abcdef0123456789abcdef01234567" in html
    assert "sample:smollm2-135m-instruct" in html
    assert all(run.content_digest[:16] in html for run in experiment.runs)


def test_page_tells_no_time_and_no_host(html):
    assert not any(word in html for word in ("somewhere", "2025-11-22T", "301.5"))


def test_figures_are_inline_with_words_for_those_who_do_not_see_them(page, html):
    assert page.tags.count("svg") == 8  # four, for a desk and for a phone
    assert len(re.findall(r'<svg [^>]*role="img"[^>]*aria-label="[^"]{20,}"', html)) == 8


def attacked(experiment: Experiment) -> Experiment:
    """Put the attack wherever a user's or a model's words reach the page."""

    def hostile(run: Any) -> Any:
        record = {**run.record, "command": ATTACK, "settings": {"alpha": ATTACK}}
        record["method"] = "KD" + ATTACK if record["method"] == "KD1" else record["method"]
        items = None
        if run.items is not None:
            items = {**run.items, "text": np.array([ATTACK] * len(run.items["gold"]))}
        provenance = {**run.provenance, "commit": ATTACK, "recipe": {"name": ATTACK}}
        return replace(run, record=record, items=items, provenance=provenance, labels=(ATTACK, "positive"))

    return Experiment(ATTACK, tuple(map(hostile, experiment.runs)), tuple(map(hostile, experiment.trials)))


def test_hostile_names_and_texts_stay_text(experiment):
    bad = attacked(experiment)
    summary = summarise(bad, question=ATTACK, command=ATTACK)
    ((_, arms),) = group_arms(bad.runs).items()
    (group,) = summary["groups"]
    parts = GroupParts("", group, group_tables(group), (), view_items(arms, group["answer"]["method"]))
    text = render_page(summary, [parts], bad.runs)
    page = Page(text)
    assert "<script" not in text
    assert "img" not in page.tags
    assert page.handlers == []
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert text.count("&lt;script&gt;") > 20


def test_svg_parts_get_names_of_their_own():
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://x/y.dtd"><!-- secret -->'
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="10pt" height="5pt" viewBox="0 0 10 5" version="1.1">'
        '<metadata><a/></metadata><defs><style type="text/css">*{stroke:red}</style><path id="a"/></defs>'
        '<use xlink:href="#a"/><g clip-path="url(#b)"/></svg>'
    )
    text = inline_svg(svg, prefix="one", alternative='say "hi" \\1')
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 5" role="img"')
    assert all(part in text for part in ('id="one-a"', 'href="#one-a"', "url(#one-b)"))
    assert not any(part in text for part in ("DOCTYPE", "secret", "metadata", "stroke:red", "width="))
    assert 'aria-label="say &#34;hi&#34; \\1"' in text


def test_intervals_are_set_back_and_everything_else_is_escaped():
    text = sentence("<b> 95.3 % [-0.8, 1.4] <i>")
    assert text == '&lt;b&gt; 95.3\u00a0% <span class="ci">[\u22120.8, 1.4]</span> &lt;i&gt;'


def test_commands_in_sentences_are_code_and_minus_signs_one_kind():
    text = sentence("run `tutelage run R --control` for (-10.0) and [-0.8, -0.1], not KD1-permuted")
    assert text == (
        "run <code>tutelage run R --control</code> for (\u221210.0) and "
        '<span class="ci">[\u22120.8, \u22120.1]</span>, not KD1-permuted'
    )


def test_no_backtick_is_left_on_the_page(html):
    assert "`" not in re.sub(r"<(style|svg|pre).*?</\1>|<[^>]*>", "", html, flags=re.DOTALL)


def test_minus_signs_are_for_numbers_only():
    assert minus_sign("-7.0 [-8.5, 5e-5] KD1-permuted") == "\u22127.0 [\u22128.5, 5e-5] KD1-permuted"


def test_control_characters_are_dropped():
    assert clean("a\x00b\x1b[31m\u202ec\nd") == "ab[31mc\nd"


# --- items


def test_items_show_where_the_arms_part(experiment):
    ((_, arms),) = group_arms(experiment.runs).items()
    view = view_items(arms, "KD1")
    assert view is not None
    assert (view["seed"], view["arms"]) == (42, ["Teacher", "B0", "KD1"])
    shown = [item["item_key"] for part in view["groups"] for item in part["items"]]
    assert len(shown) == len(set(shown))
    for item in view["groups"][0]["items"]:
        right = {answer["arm"]: answer["right"] for answer in item["answers"]}
        assert right["KD1"]
        assert not right["B0"]
        for answer in item["answers"]:
            assert (answer["label"] == item["gold"]) == answer["right"]


def test_items_without_text_show_their_key(experiment):
    def bare(run: Any) -> Any:
        items = None if run.items is None else {k: v for k, v in run.items.items() if k not in ("text", "confidence")}
        return replace(run, items=items)

    runs = tuple(map(bare, experiment.runs))
    ((_, arms),) = group_arms(runs).items()
    view = view_items(arms, "KD1")
    assert view is not None
    item = view["groups"][0]["items"][0]
    assert item["text"] is None
    assert item["item_key"].startswith("movie-reviews/")
    assert item["answers"][0]["confidence"] is None


def test_no_items_are_shown_without_a_method(experiment):
    ((_, arms),) = group_arms(experiment.runs).items()
    assert view_items(arms, None) is None
