"""Render chat templates in a process of its own: a template is somebody's program, and may take all time and memory.

In: requests on standard input. Out: texts on standard output; lines of JSON both. Run as a file, so that it imports
nothing of ours; :mod:`tutelage.models.template` starts it, waits for it and ends it.

The dialect is the one for which chat templates are written: blocks trimmed, ``break`` and ``continue``, ``tojson``,
``raise_exception``, ``strftime_now``, ``{% generation %}``. It has no chance: no ``random``, no ``lipsum``.

Source:
    The dialect: https://huggingface.co/docs/transformers/chat_templating_writing
"""

import contextlib
import datetime
import functools
import json
import resource
import sys
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

MAX_BYTES = 1 << 30  # of address space; a template renders in some 50 MB
MAX_CHARS = 20_000_000  # of one conversation: hundreds of times the longest context of any model
# What a template raises on turns that it was not written for, or that are beyond its own arithmetic.
ERRORS = (jinja2.TemplateError, ArithmeticError, AssertionError, AttributeError, LookupError)
ERRORS += (RuntimeError, SyntaxError, TypeError, ValueError)


class Generation(jinja2.ext.Extension):
    """Put marks around what ``{% generation %}`` encloses."""

    tags = {"generation"}  # noqa: RUF012  # jinja's own protocol

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Turn the block into a call of :meth:`marked`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    def marked(self, caller: Callable[[], str]) -> str:
        """Enclose what the block renders."""
        before, after = self.environment.globals["generation_marks"] or ("", "")
        return f"{before}{caller()}{after}"


class Names(jinja2.utils.Namespace):
    """A namespace without names that begin with an underscore, which lead out of the sandbox."""

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a name."""
        if name.startswith("_"):
            raise jinja2.TemplateError(f"a namespace has no {name!r}")
        super().__setitem__(name, value)


def refuse(message: Any) -> None:
    """Let a template refuse its turns."""
    raise jinja2.TemplateError(str(message))


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
):
    """Write a value as JSON, without the HTML quoting of jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=16)
def compiled(template: str) -> jinja2.Template:
    """Compile a template once."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    del environment.filters["random"], environment.globals["lipsum"]
    environment.globals |= {"raise_exception": refuse, "namespace": Names, "generation_marks": None}
    return environment.from_string(template)


def rendered(request: dict[str, Any]) -> dict[str, Any]:
    """Render one conversation: ``text``, or ``error``, or ``limit`` where the template is beyond all bounds."""
    date = datetime.datetime.fromisoformat(request["date"])
    try:
        template = compiled(request["template"])
        template.environment.globals["generation_marks"] = request["marks"]
        text = template.render(**request["variables"], strftime_now=date.strftime)
    except MemoryError:
        return {"limit": "it takes more than 1 GiB of memory"}
    except ERRORS as error:
        return {"error": f"{type(error).__name__}: {error}" if str(error) else type(error).__name__}
    return {"text": text} if len(text) <= MAX_CHARS else {"limit": f"it writes {len(text):,} characters"}


def main() -> None:
    """Answer requests, a list of them per line, until there are no more."""
    with contextlib.suppress(ValueError, OSError):  # some systems do not bound address space
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    for line in sys.stdin:
        answers = []
        for request in json.loads(line):
            answers.append(rendered(request))
            if "text" not in answers[-1]:
                break  # the rest is not asked for
        sys.stdout.write(json.dumps(answers) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
