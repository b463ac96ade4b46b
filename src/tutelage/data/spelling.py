"""How the words of classes must be spelt so that they continue a prompt, proven with a tokenizer.

In: a classification, a tokenizer, a few prompts. Out: the one problem of its verbalisers and the line to paste instead.

Prompt and answer are tokenised apart (``data.rows``). A spelling continues a prompt when that gives the tokens that the
model would read in running text. Byte-level tokenizers need the blank in front of a word (``" negative"``); tokenizers
that put a blank before every text (Llama 2) must not be given a second one, or all classes begin with the same token.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tutelage.data.prompts import Tokenizer, plain_ids
from tutelage.data.task import ClassificationTask
from tutelage.errors import DataError

LEADS = (" ", "")
NUM_PROMPTS = 8  # a template that ends with a column has as many ends as rows; the most frequent finding counts
WORD_ENDS = ":.?!,;)]%"  # behind these, as behind a letter or digit, running text has a blank
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # no blanks
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True)
class SpellingProblem:
    """What is wrong with the verbalisers, and what to write instead; without ``lines`` no spelling is better."""

    found: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.found} Write: {'; '.join(self.lines)}" if self.lines else self.found


def spelling_problem(tokenizer: Tokenizer, task: ClassificationTask, prompts: Sequence[str]) -> SpellingProblem | None:
    """Return what keeps the verbalisers from continuing the prompts, or None.

    Args:
        tokenizer: The one that writes the rows.
        task: Template and verbalisers.
        prompts: Some filled templates; without any, one is made up.
    """
    prompts = [*prompts[:NUM_PROMPTS]] or [_made_up(task)]
    blanks = blank_problem(task)
    found = blanks or Counter(_first_break(tokenizer, task, prompt) for prompt in prompts).most_common(1)[0][0]
    if found is None:
        return None
    better = _best_spelling(tokenizer, task, prompts[0])
    if better is None and blanks:
        better = _respelt(task, natural_leads(prompts[0], "words")[-1])
    return SpellingProblem(found, _lines(task, better) if better else ())


def blank_problem(task: ClassificationTask) -> str | None:
    """Return what the verbalisers' blanks alone show: one behind a word, or in front of some words only."""
    trailing = [(label, words) for label, words in _pairs(task) if words != words.rstrip()]
    if trailing:
        label, words = trailing[0]
        return f"The words of {label!r} end with white space ({words!r}), which is learnt as a part of the answer."
    leads = {label: _lead(words) for label, words in _pairs(task)}
    if len(set(leads.values())) == 1:
        return None
    usual = Counter(leads.values()).most_common(1)[0][0]
    odd, same = (
        next(label for label, lead in leads.items() if (lead == usual) is is_usual) for is_usual in (False, True)
    )
    words = dict(_pairs(task))
    return (
        f"The words of {odd!r} ({words[odd]!r}) and of {same!r} ({words[same]!r}) do not begin with the same white "
        "space, so a model tells them apart by their blanks."
    )


def check_spelling(tokenizer: Tokenizer, task: ClassificationTask, prompts: Sequence[str]) -> None:
    """Refuse verbalisers that do not continue the prompts, where others would.

    Raises:
        DataError: With the line to write instead.
    """
    problem = spelling_problem(tokenizer, task, prompts)
    if problem is not None and problem.lines:
        raise DataError(f"tasks.{task.name}.verbalisers: {problem}")


def _first_break(tokenizer: Tokenizer, task: ClassificationTask, prompt: str) -> str | None:
    """Describe the first class whose words, tokenised apart, are not what running text would hold."""
    for label, words in _pairs(task):
        targets = list(_targets(tokenizer, prompt, words))
        apart = plain_ids(tokenizer, words).tolist()
        if apart in targets:
            continue
        tail = prompt[-20:]
        if not targets:
            return (
                f"The prompt's end {tail!r} is tokenised in another way when {words.strip()!r} ({label!r}) follows, so "
                "a model reads it as it never does in running text."
            )
        return (
            f"The words of {label!r} ({words!r}) do not continue the prompt's end {tail!r}: this tokenizer reads them "
            f"there as {_shown(tokenizer, targets[0])}, but apart as {_shown(tokenizer, apart)}."
        )
    return None


def _targets(tokenizer: Tokenizer, prompt: str, words: str) -> Iterator[list[int]]:
    """Yield the tokens of a class's words behind a prompt, once per blank that running text may have between them."""
    start = plain_ids(tokenizer, prompt).tolist()
    for lead in natural_leads(prompt, words):
        whole = plain_ids(tokenizer, prompt + lead + words.strip()).tolist()
        if whole[: len(start)] == start and len(whole) > len(start):
            yield whole[len(start) :]


def natural_leads(prompt: str, words: str) -> tuple[str, ...]:
    """Return the white space that running text may have between a prompt and words, the most usual first."""
    own, first, last = _lead(words), words.strip()[:1], prompt[-1:]
    chosen = (own,) if "\n" in own or "\t" in own else ()  # nobody writes these by accident
    if not last or last.isspace():
        return (*chosen, "")
    is_spaced = (last.isalnum() or last in WORD_ENDS) and first.isalnum() and not UNSPACED.match(last + first)
    return (*chosen, *((" ",) if is_spaced and not UNSPACED.match(first) else LEADS))


def _best_spelling(tokenizer: Tokenizer, task: ClassificationTask, prompt: str) -> ClassificationTask | None:
    """Return the spelling of all classes that continues the prompt in the fewest tokens; None if there is none.

    A blank at the template's end may have to go, since it belongs to the answer's first token. Where no spelling
    continues the prompt exactly, one that tells classes apart by their first tokens is better than one that does not.
    """
    found = []
    for blanks in (0, len(task.template) - len(task.template.rstrip(" "))):
        shorter = prompt[: len(prompt) - blanks] if prompt.endswith(" " * blanks) else prompt
        for lead in LEADS:
            respelt = _respelt(task, lead)
            if _first_break(tokenizer, respelt, shorter) is None:
                template = task.template[: len(task.template) - blanks]
                length = sum(len(plain_ids(tokenizer, words)) for words in respelt.verbalisers)
                found.append((length, len(found), replace(respelt, template=template)))
        if found:
            break
    if found:
        return min(found)[2]
    apart = [
        each for each in (_respelt(task, lead) for lead in LEADS) if _firsts(tokenizer, each) > _firsts(tokenizer, task)
    ]
    return max(apart, key=lambda each: _firsts(tokenizer, each)) if apart else None


def _firsts(tokenizer: Tokenizer, task: ClassificationTask) -> int:
    """Count how many different tokens the answers begin with."""
    return len({tuple(plain_ids(tokenizer, words)[:1]) for words in task.verbalisers})


def _respelt(task: ClassificationTask, lead: str) -> ClassificationTask:
    return replace(task, verbalisers=tuple(lead + words.strip() for words in task.verbalisers))


def _lines(task: ClassificationTask, better: ClassificationTask) -> tuple[str, ...]:
    spelt = ", ".join(f"{_key(label)}: {_quoted(words)}" for label, words in _pairs(better))
    template = () if better.template == task.template else (f"template: {_quoted(better.template)}",)
    return (*template, f"verbalisers: {{{spelt}}}")


def _key(label: str) -> str:
    return label if PLAIN_KEY.fullmatch(label) and label.lower() not in YAML_WORDS else _quoted(label)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a YAML one


def _pairs(task: ClassificationTask) -> list[tuple[str, str]]:
    return list(zip(task.labels, task.verbalisers, strict=True))


def _lead(words: str) -> str:
    return words[: len(words) - len(words.lstrip())]


def _made_up(task: ClassificationTask) -> str:
    return str(task.filled_with(dict.fromkeys(("text", *task.other_fields), "Words")))


def _shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    return " ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(ids))
