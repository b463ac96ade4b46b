"""Text is tokenised as text: a control token's name inside of it never becomes the control token.

In: a tokenizer, texts, and which parts of each the template wrote. Out: token ids, and the characters of each token.

A text without such names, which is nearly every one, is tokenised as the tokenizer does it by itself. For the others a
second copy of the tokenizer knows its control tokens by names that stand in no text, and the template's own ones are
written by these names: every rule about blanks and neighbours stays the tokenizer's own.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from tutelage.errors import DataError

Span = tuple[int, int]
TAG = re.compile(r"<(/?)(\w+)>")
PRIVATE = range(0x100000, 0x10FFFD)  # the last plane of Unicode, for private use


@dataclass(frozen=True)
class Encoded:
    """Token ids, and of each token the characters ``[start, end)`` that it stands for."""

    ids: list[int]
    offsets: list[Span]


class ControlTokens:
    """The control tokens of one tokenizer.

    They are its special tokens, and added tokens that its chat template names. A pair of tags such as ``<think>`` and
    ``</think>`` is part of what is said, unless the tokenizer declares it special.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        added = {int(number): token for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
        names = {token.content: number for number, token in added.items()}
        self.ids = {
            name: number
            for name, number in names.items()
            if name.strip() and (added[number].special or (name in template and not _is_paired_tag(name, names)))
        }
        # plain letters may be unknown
        self._known_ids = set(self.ids.values()) - {getattr(tokenizer, "unk_token_id", None)}
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._copies: dict[str, Any] = {}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Any name, the longest first; matches nothing where there is none."""
        longest_first = sorted(self.ids, key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def spans_in(self, text: str, parts: Iterable[Span]) -> list[Span]:
        """Return where names stand inside of these parts of a text."""
        return [match.span() for start, end in parts for match in self.pattern.finditer(text, start, end)]

    def is_spelt_beside(self, text: str, real: Sequence[Span]) -> bool:
        """Return whether a name stands in a text anywhere but at these places."""
        return self.pattern.search("\0".join(_outside(text, real))) is not None

    def encode(self, text: str, real: Sequence[Span]) -> Encoded:
        """Tokenise a text in which only the names at ``real`` are control tokens.

        Raises:
            DataError: If this tokenizer cannot tell them apart; names the token.
        """
        if self._backend is None:
            raise self._refusal(text, real, "only a tokenizer with a tokenizer.json can be told so")
        sigil = next(chr(code) for code in PRIVATE if chr(code) not in text)
        spelt: list[str] = []
        origin: list[int] = []
        place = 0
        for start, end in real:
            alias = _alias(sigil, self.ids[text[start:end]])
            spelt += [text[place:start], alias]
            origin += [*range(place, start), *[start] * len(alias)]
            place = end
        origin += [*range(place, len(text) + 1)]
        found = self._copy(sigil).encode("".join([*spelt, text[place:]]), add_special_tokens=False)
        wanted = [self.ids[text[start:end]] for start, end in real]
        if [token for token in found.ids if token in self._known_ids] != [t for t in wanted if t in self._known_ids]:
            raise self._refusal(text, real, "it makes that token of plain letters")
        ends = dict(real)

        def span_of(a: int, b: int) -> Span:
            start = origin[a]
            return start, ends.get(start, origin[b]) if a < b else start

        return Encoded(list(found.ids), [span_of(a, b) for a, b in found.offsets])

    def _refusal(self, text: str, real: Sequence[Span], why: str) -> DataError:
        found = self.pattern.search("\0".join(_outside(text, real)))
        name = found.group() if found else "a control token"
        return DataError(
            f"The text holds {name!r}, which is a control token of this tokenizer, and cannot be tokenised as text: "
            f"{why}. Remove or rewrite it in the data."
        )

    def _copy(self, sigil: str) -> Any:
        if sigil not in self._copies:
            self._copies[sigil] = _renamed(self._backend, {name: _alias(sigil, id_) for name, id_ in self.ids.items()})
        return self._copies[sigil]


_KNOWN: WeakKeyDictionary[Any, tuple[str, ControlTokens]] = WeakKeyDictionary()


def control_tokens(tokenizer: Any) -> ControlTokens:
    """Return a tokenizer's control tokens; looked up once per tokenizer and chat template."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != template:
        known = _KNOWN[tokenizer] = (template, ControlTokens(tokenizer, template))
    return known[1]


def encode_texts(tokenizer: Any, texts: Sequence[str], written: Sequence[Sequence[Span]]) -> list[list[int]]:
    """Tokenise texts without special tokens around them; only names that the template wrote are control tokens.

    Args:
        tokenizer: The model's own.
        texts: What to tokenise.
        written: Of each text the parts that a template wrote; all else is somebody's words.

    Raises:
        DataError: If this tokenizer cannot tokenise a control token's name as text.
    """
    controls = control_tokens(tokenizer)
    real = [controls.spans_in(text, parts) for text, parts in zip(texts, written, strict=True)]
    odd = {at for at, text in enumerate(texts) if controls.is_spelt_beside(text, real[at])}
    plain = [text for at, text in enumerate(texts) if at not in odd]
    found = iter(tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"] if plain else [])
    return [controls.encode(text, real[at]).ids if at in odd else next(found) for at, text in enumerate(texts)]


def encode_with_offsets(tokenizer: Any, text: str, real: Sequence[Span]) -> Encoded:
    """Tokenise one text with the characters of its tokens; only the names at ``real`` are control tokens."""
    controls = control_tokens(tokenizer)
    if controls.is_spelt_beside(text, real):
        return controls.encode(text, real)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return Encoded(list(found["input_ids"]), [tuple(each) for each in found["offset_mapping"]])


def _is_paired_tag(name: str, names: Iterable[str]) -> bool:
    tag = TAG.fullmatch(name)
    return tag is not None and f"<{'' if tag[1] else '/'}{tag[2]}>" in names


def _outside(text: str, spans: Sequence[Span]) -> list[str]:
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    return [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _alias(sigil: str, number: int) -> str:
    return f"{sigil}{number}{sigil}"


def _renamed(backend: Any, names: dict[str, str]) -> Any:
    """Copy a tokenizer with other names for some of its tokens, under the same ids."""
    from tokenizers import Tokenizer

    made = json.loads(backend.to_str())
    for token in made["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "normalized": False}
    model = made["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(name, name): number for name, number in vocabulary.items()}
    elif vocabulary is not None:
        model["vocab"] = [[names.get(name, name), *rest] for name, *rest in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        model["merges"] = [pair for pair in model["merges"] if not names.keys() & _of_merge(pair)]
    made |= {"truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(made))


def _of_merge(pair: Any) -> set[str]:
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return {left, right, left + right}
