"""A chat template, rendered: bounded in time and memory, on a fixed day, with everybody's words kept words.

In: a tokenizer, messages, perhaps tools and a date. Out: ``WrittenTurns``: the text, where the template itself wrote
control tokens, and what it marked as the assistant's.
"""

import atexit
import contextlib
import datetime
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from transformers import PreTrainedTokenizerBase

from tutelage.align import control_tokens
from tutelage.errors import DataError, ModelError

Message = Mapping[str, Any]  # {"role": .., "content": ..}, perhaps with "reasoning_content"
Span = tuple[int, int]
SECONDS = 10.0  # to render one conversation, which takes a millisecond
PRIVATE = range(0xF0000, 0xFFFFD)  # a plane of Unicode for private use


@dataclass(frozen=True)
class WrittenTurns:
    """What a template makes of messages."""

    text: str
    control: tuple[Span, ...]  # characters of the control tokens that the template itself wrote
    marked: tuple[Span, ...]  # characters that it marks as the assistant's


@dataclass(frozen=True)
class Turns:
    """What is to be rendered: messages; whether the assistant is to go on; whether its own marks are asked for."""

    messages: Sequence[Message]
    asks: bool = False
    marks: bool = False


def render(
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Turns],
    *,
    tools: Sequence[Any] | None = None,
    date: str | None = None,
) -> list[WrittenTurns]:
    """Render conversations with the tokenizer's own template.

    Args:
        tokenizer: One with a chat template.
        asked: What to render.
        tools: JSON schemas of functions that the template shows to the model.
        date: The day, as in 2026-01-31, that a template writes which asks for it; None: today.

    Raises:
        DataError: If the template refuses the messages, or cannot make anything of them.
        ModelError: If it takes too much time or memory, or is not a template at all.
    """
    template = _template_of(tokenizer, with_tools=bool(tools))
    controls = control_tokens(tokenizer)
    every = [*_texts([each.messages for each in asked]), *_texts(tools or ())]
    used = set().union(*every)
    word_mark, *marks = _unused(used, 3)
    requests = [
        {
            "template": template,
            "date": date or datetime.date.today().isoformat(),  # the user's own day
            "marks": marks if turns.marks else None,
            "variables": _special_tokens(tokenizer)
            | {
                "messages": [_protected(_as_message(each), controls, word_mark) for each in turns.messages],
                "tools": _protected(list(tools), controls, word_mark) if tools else None,
                "documents": None,
                "add_generation_prompt": turns.asks,
            },
        }
        for turns in asked
    ]
    answers = _RENDERER.ask(requests, template)
    for turns, answer in zip(asked, answers, strict=False):
        if "error" in answer:
            roles = [message.get("role") for message in turns.messages]
            raise DataError(
                f"The chat template refuses turns of the roles {roles}: {shorten(answer['error'], 200)}. Expected what "
                "this model was trained on, mostly user and assistant in turn."
            )
    return [_unmarked(str(answer["text"]), controls, word_mark, (marks[0], marks[1])) for answer in answers]


def render_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, asks: bool = False) -> str:
    """Render one conversation and return its text; see :func:`render`."""
    return render(tokenizer, [Turns(messages, asks)], date=ANY_DAY)[0].text


ANY_DAY = "2026-01-01"  # where only the form of a template is looked at


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template asks for the date."""
    templates = tokenizer.chat_template
    every = templates.values() if isinstance(templates, dict) else [templates or ""]
    return any("strftime_now" in each for each in every)


def takes_reasoning(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template writes what was thought before an answer: seen by rendering."""
    return _shows(tokenizer, {"role": "assistant", "content": "!", "reasoning_content": PROBE}, tools=None)


def takes_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template shows tools to the model: seen by rendering."""
    function = {"name": PROBE, "description": PROBE, "parameters": {"type": "object", "properties": {}}}
    return _shows(tokenizer, {"role": "assistant", "content": "!"}, tools=[{"type": "function", "function": function}])


PROBE = "tutelage-probe"


def _template_of(tokenizer: PreTrainedTokenizerBase, *, with_tools: bool) -> str:
    """Return the template, of several the one for tools or the default one."""
    templates: Any = tokenizer.chat_template
    if isinstance(templates, dict):
        templates = templates.get("tool_use" if with_tools else "default") or templates.get("default")
    if not templates:
        raise ModelError("The tokenizer has no chat template. Set the task's `template: plain`, or `auto`.")
    return str(templates)


def _shows(tokenizer: PreTrainedTokenizerBase, answer: Message, *, tools: Sequence[Any] | None) -> bool:
    try:
        made = render(tokenizer, [Turns([{"role": "user", "content": "?"}, answer])], tools=tools, date=ANY_DAY)
    except DataError:
        return False
    return PROBE in made[0].text


def _as_message(message: Message) -> dict[str, Any]:
    """Leave out what is None, and give what was thought under both names that templates read."""
    made = {name: value for name, value in message.items() if value is not None}
    if made.get("reasoning_content"):
        made = {"thinking": made["reasoning_content"], **made}
    return made


def _special_tokens(tokenizer: Any) -> dict[str, Any]:
    found = tokenizer.special_tokens_map
    return {
        name: [str(each) for each in value] if isinstance(value, list | tuple) else str(value)
        for name, value in found.items()
    }


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for each in pair for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list | tuple) else []


def _unused(used: set[str], number: int) -> list[str]:
    free = (chr(code) for code in PRIVATE if chr(code) not in used)
    return [next(free) for _ in range(number)]


def _protected(value: Any, controls: Any, mark: str) -> Any:
    """Put a mark before every letter of a control token's name, so that it stays somebody's words."""
    if isinstance(value, str):
        return controls.pattern.sub(lambda match: "".join(mark + letter for letter in match.group()), value)
    if isinstance(value, Mapping):
        return {str(name): _protected(each, controls, mark) for name, each in value.items()}
    return [_protected(each, controls, mark) for each in value] if isinstance(value, list | tuple) else value


def _unmarked(text: str, controls: Any, word_mark: str, marks: tuple[str, str]) -> WrittenTurns:
    """Take the marks out again, and keep the places that they told."""
    found = [span for span in controls.spans_in(text, [(0, len(text))]) if text[span[0] - 1 : span[0]] != word_mark]
    places = [match.start() for match in re.finditer("|".join((word_mark, *marks)), text)]

    def bare(place: int) -> int:
        return place - bisect_left(places, place)

    starts, marked = [], []
    for place in places:
        if text[place] == marks[0]:
            starts.append(bare(place))
        elif text[place] == marks[1] and starts:
            marked.append((starts.pop(), bare(place)))
    pieces = [text[a:b] for a, b in zip([0, *(place + 1 for place in places)], [*places, len(text)], strict=True)]
    control = tuple((bare(start), bare(end)) for start, end in found)
    return WrittenTurns("".join(pieces), control, tuple(sorted(marked)))


class _Renderer:
    """The process that renders; started when it is first needed, and anew after one that had to be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._hopeless: dict[str, str] = {}  # templates that went beyond all bounds: asked once

    def ask(self, requests: list[dict[str, Any]], template: str) -> list[dict[str, Any]]:
        """Render, or raise what the template is guilty of."""
        with self._lock:
            if template not in self._hopeless:
                answers = self._answers(requests)
                failed = [answer["limit"] for answer in answers if "limit" in answer]
                if not failed:
                    return answers
                self._hopeless[template] = failed[0]
        raise ModelError(
            f"The chat template cannot be used: {self._hopeless[template]}. Expected a template that writes a "
            "conversation; correct `chat_template` in the model's folder, or take `template: plain`."
        )

    def _answers(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        process, self._process = self._running(), None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(requests).encode() + b"\n")
            process.stdin.flush()
            line, self._process = self._line(process, time.monotonic() + SECONDS), process
        except (BrokenPipeError, EOFError):
            return [{"limit": "the process that renders it broke down, which deep recursion can do"}]
        except TimeoutError:
            return [{"limit": f"one conversation is not rendered after {SECONDS:g} s"}]
        finally:
            if self._process is None:  # also on the way out: its answer would be taken for the next one's
                _end(process)
        return json.loads(line)

    @staticmethod
    def _line(process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        pipe, parts = process.stdout.fileno(), []
        while not parts or not parts[-1].endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            parts.append(os.read(pipe, 1 << 20))
            if not parts[-1]:
                raise EOFError
        return b"".join(parts)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._owner = os.getpid()
            return subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("template_worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ
                | {"TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # a Ctrl-C is the command's own affair
            )
        return self._process

    def stop(self) -> None:
        """End the process, if it is ours."""
        if self._process is not None and self._owner == os.getpid():
            _end(self._process)
        self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(OSError, ValueError):
        process.communicate()


_RENDERER = _Renderer()
atexit.register(_RENDERER.stop)
