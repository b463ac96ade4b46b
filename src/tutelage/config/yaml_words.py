"""The YAML parser's errors in words that help: what stands where, and what to write instead.

In: an error of ruamel.yaml and the text. Out: a sentence, and the line that it is about.
"""

import re

from ruamel.yaml.error import MarkedYAMLError

KEY = re.compile(r"(- +)?(\"[^\"]*\"|'[^']*'|[^\s#\"'\[\]{},][^#]*?):( |$)")
WITHOUT_BLANK = re.compile(r"\s*(- +)?[\w.]+:[^\s/:]")
OPENED = {"flow sequence": ("[", "]"), "flow mapping": ("{", "}")}


def explain(error: MarkedYAMLError, text: str) -> tuple[str, int | None]:
    """Say what is wrong and where, in the user's words; the parser's own where nothing better is known."""
    problem = " ".join(str(error.problem or error.context or "not valid YAML").split())
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return problem, None
    lines = [*text.splitlines(), ""]  # a text that ends too early has its mark behind the last line
    number = min(mark.line, len(lines) - 1)
    start = error.context_mark.line if error.context_mark else number
    line = lines[number]
    context = str(error.context or "")
    if "\t" in problem or "\\t" in problem:
        return "a tab stands here, and YAML knows blanks only; replace it by blanks", number + 1
    if "cannot start any token" in problem:
        return f"a value cannot begin with {line[mark.column : mark.column + 1]}; put it in quotes", number + 1
    for kind, (opens, closes) in OPENED.items():
        if kind in context:
            return f"{opens} on line {start + 1} is not closed: {closes} or a comma is missing before here", number + 1
    if "quoted scalar" in context:
        return f"the quote that is opened on line {start + 1} is not closed", start + 1
    if "mapping values" in problem:
        return _colon(lines, number, mark.column)
    if "could not find expected ':'" in problem or "simple key" in context:
        return f"line {start + 1} has no colon after its key; write `key: value`", start + 1
    if "block" in context or "<block" in problem:
        return _block(lines, number, start)
    return problem, number + 1


def _colon(lines: list[str], number: int, column: int) -> tuple[str, int]:
    line = lines[number]
    before = _above(lines, number)
    if KEY.match(line[:column].lstrip()):
        return "a second colon stands on this line; put the value in quotes", number + 1
    if before is not None and WITHOUT_BLANK.match(lines[before]) and not KEY.match(lines[before].lstrip()):
        return f"a blank is missing after the colon: {lines[before].strip()!r}", before + 1
    return (
        f"indented by {_indent(line)} blanks, but the line above it has a value already and cannot hold more; keys of "
        "one section begin in the same column"
    ), number + 1


def _block(lines: list[str], number: int, start: int) -> tuple[str, int]:
    line = lines[number]
    odd = next((n for n in range(start, number) if lines[n].count('"') % 2), None)
    if odd is not None:
        return f"the quote on line {odd + 1} is not closed there", odd + 1
    if KEY.match(line.lstrip()) or line.lstrip().startswith("- "):
        return (
            f"indented by {_indent(line)} blanks, but the section that it would belong to begins on line {start + 1} "
            f"with {_indent(lines[start])}; keys of one section begin in the same column"
        ), number + 1
    return "text stands where a key was expected; a colon may be missing", number + 1


def _above(lines: list[str], number: int) -> int | None:
    """Return the nearest line above that is neither empty nor a comment."""
    return next(
        (n for n in range(number - 1, -1, -1) if lines[n].strip() and not lines[n].lstrip().startswith("#")), None
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
