"""Make a figure's SVG fit to stand inside a page.

In: an SVG file's text, as matplotlib writes it. Out: one ``<svg>`` element whose ids are its own.
"""

import re

from markupsafe import Markup, escape

# Prolog, comments (they repeat the labels), metadata, and a style rule that would reach the whole page.
DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
ROOT = re.compile(r"<svg\b[^>]*?(viewBox=\"[^\"]*\")[^>]*>", re.DOTALL)
ID = re.compile(r'\bid="([^"]+)"')
REFERENCE = re.compile(r'(xlink:href|href)="#([^"]+)"|url\(#([^)]+)\)')


def inline_svg(svg: str, *, prefix: str, alternative: str) -> Markup:
    """Return the element alone, sized by its container, with ids that start with ``prefix``.

    Two figures share ids for the same letters; a browser would draw one figure's letters from the other.
    """
    body = DROPPED.sub("", svg).strip()
    body = ID.sub(rf'id="{prefix}-\1"', body)
    body = REFERENCE.sub(
        lambda found: f'href="#{prefix}-{found[2]}"' if found[2] else f"url(#{prefix}-{found[3]})",
        body,
    )
    attributes = 'role="img" stroke-linejoin="round" stroke-linecap="butt"'
    label = escape(alternative)
    body = ROOT.sub(
        lambda found: f'<svg xmlns="http://www.w3.org/2000/svg" {found[1]} {attributes} aria-label="{label}">',
        body,
        count=1,
    )
    return Markup(body)  # our own drawing: labels are outlines, not text
