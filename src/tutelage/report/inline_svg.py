"""Make a figure's SVG fit to stand inside a page.

In: an SVG file's text, as matplotlib writes it. Out: one ``<svg>`` element whose ids are its own.
"""

import re

from markupsafe import Markup, escape

from tutelage.report.figure_style import COLOUR_NAMES

# Prolog, comments (they repeat the labels), metadata, and a style rule that would reach the whole page.
DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
ROOT = re.compile(r"<svg\b[^>]*?(viewBox=\"[^\"]*\")[^>]*>", re.DOTALL)
ID = re.compile(r'\bid="([^"]+)"')
REFERENCE = re.compile(r'(xlink:href|href)="#([^"]+)"|url\(#([^)]+)\)')
# The white behind a figure and its axes; white letters and markers are in groups and uses.
BACKGROUND = re.compile(r'(<path d="[^"]*")\s+style="fill: #ffffff"')
HOLLOW = re.compile(r"fill: #ffffff(?=; stroke)")
COLOUR = re.compile(r"(fill|stroke): (#[0-9a-f]{6})")


def inline_svg(svg: str, *, prefix: str, alternative: str) -> Markup:
    """Return the element alone, sized by its container, with ids that start with ``prefix``.

    Colours of the house become the page's own, which has them for light and dark; the background is left out.
    Two figures share ids for the same letters; a browser would draw one figure's letters from the other.
    """
    body = DROPPED.sub("", svg).strip()
    body = ID.sub(rf'id="{prefix}-\1"', body)
    body = REFERENCE.sub(
        lambda found: f'href="#{prefix}-{found[2]}"' if found[2] else f"url(#{prefix}-{found[3]})",
        body,
    )
    body = HOLLOW.sub("fill: var(--card)", BACKGROUND.sub(r'\1 style="fill: none"', body))
    body = COLOUR.sub(_page_colour, body)
    attributes = 'role="img" stroke-linejoin="round" stroke-linecap="butt"'
    label = escape(alternative)
    body = ROOT.sub(
        lambda found: f'<svg xmlns="http://www.w3.org/2000/svg" {found[1]} {attributes} aria-label="{label}">',
        body,
        count=1,
    )
    return Markup(body)  # our own drawing: labels are outlines, not text


def _page_colour(found: re.Match[str]) -> str:
    name = COLOUR_NAMES.get(found[2])
    return f"{found[1]}: var(--f-{name})" if name else found[0]
