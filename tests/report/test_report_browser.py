"""The page in a real browser, at desk and phone width, light and dark, without a network."""

from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
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
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Debian's chromium at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        instance = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield instance
        instance.close()


@pytest.fixture(params=[(1200, "light"), (1200, "dark"), (420, "light"), (420, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def opened(request, browser, built):
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda each: requests.append(each.url))
    page.goto(built.page.as_uri())
    yield page, width, scheme, complaints, requests
    context.close()


def test_page_opens_without_complaints_or_requests(opened, built):
    _, _, _, complaints, requests = opened
    assert complaints == []
    assert requests == [built.page.as_uri()]


def test_every_section_and_figure_is_visible(opened):
    page, width, _, _, _ = opened
    for name in SECTIONS:
        box = page.locator(f"#{name}").bounding_box()
        assert box is not None, name
        assert box["height"] > 40, name
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= width + 0.5, name
    figures = page.locator(".card svg:visible")  # one form for the desk, one for the phone
    assert figures.count() == 4
    assert all(figures.nth(i).bounding_box()["height"] > 100 for i in range(4))


def test_nothing_overflows_sideways(opened):
    page, width, _, _, _ = opened
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_and_text_have_contrast_in_light_and_dark(opened):
    page, _, scheme, _, _ = opened
    card = page.locator(".card:visible").first
    paper = card.evaluate("e => getComputedStyle(e).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 29, 37)"}[scheme]
    letters = card.locator("svg g[id*=text] g").first.evaluate("e => getComputedStyle(e).fill")
    assert letters == {"light": "rgb(31, 35, 40)", "dark": "rgb(232, 237, 242)"}[scheme]
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}").strip("rgb()").split(", ")
        for name in ("color", "backgroundColor")
    )
    difference = sum(map(int, ink)) - sum(map(int, paper))
    assert difference > 500 if scheme == "dark" else difference < -500


def test_headline_is_two_lines_at_a_desk(opened):
    page, width, *_ = opened
    headline = page.locator(".headline").first
    line = headline.evaluate("e => parseFloat(getComputedStyle(e).lineHeight)")
    assert headline.bounding_box()["height"] < (2.1 if width > 1000 else 6.1) * line


def test_a_phone_sees_the_whole_of_every_figure(opened):
    page, width, *_ = opened
    if width > 1000:
        return
    cards = page.locator(".card:visible")
    assert all(cards.nth(i).evaluate("e => e.scrollWidth <= e.clientWidth + 1") for i in range(cards.count()))


def test_command_opens_without_a_script(opened):
    page = opened[0]
    details = page.locator("#main details.command")
    details.locator("summary").click()
    assert details.locator("pre").is_visible()
    assert "tutelage run" in details.locator("pre").inner_text()
