"""Whether generated answers are fit to learn from: figures over a set, and the gate that refuses a bad one.

In: answers per prompt, the chat template's turn markers, perhaps gold answers. Out: ``SequenceQuality``; an error
with the numbers and the remedy.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.cache.sequences import Answer
from tutelage.data.answers import exact_match, f1, named_label
from tutelage.errors import DataError

# Shares that are still accepted; one answer more is refused.
MAX_LEAKED_PERCENT = 1
MAX_TRUNCATED_PERCENT = 10
MAX_EMPTY_PERCENT = 10

# How a next turn begins where no template marks it: at the start of a line, in any case, with a colon.
ASKING_ROLES = ("Human", "User", "Question", "Q", "Instruction")
ANSWERING_ROLES = ("Assistant",)
# The same where no line break stands before them: capitalised, behind the end of a sentence, or glued to a number or to
# a small letter. Of 2,000 published answers 791 run on, nearly all of them so.
SENTENCE_END = r"[.!?\u2026\u3002\uff01\uff1f]"
CLOSERS = "[\"'\u2019\u201d)\\]]*"
GLUED_ROLES = ("Human", "User", "Question", "Instruction", "Assistant")
GLUED_PERSONS = ("Human", "Assistant")  # others are parts of names, as in `SuperUser:`
OPENING_WORDS = 5  # of a template: a model that runs on seldom repeats all of it
HEADINGS = ("### Instruction", "### Input", "### Response", "### Human", "### User", "### Assistant", "### Question")
# Turn openers of common chat templates, for models that learnt another template than their own.
FOREIGN_MARKERS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|user|>", "<|assistant|>", "[INST]")
NUM_SHOWN = 3  # examples in a message
SHOWN_CHARS = 60


@dataclass(frozen=True)
class SequenceQuality:
    """Figures over a set of answers; counts are of answers, shares lie between 0 and 1."""

    num_prompts: int
    num_answers: int
    num_truncated: int  # cut at the token limit
    num_leaked: int  # a next turn begins inside of the answer
    num_empty: int  # no text but white space
    num_repeated_elsewhere: int  # its text is also an answer to another prompt
    num_repeated_samples: int  # its text is that of an earlier sample of the same prompt
    tokens_mean: float  # ids per answer, the end token included
    tokens_p50: float
    tokens_p95: float
    exact_match: float | None = None
    f1: float | None = None
    accuracy: float | None = None
    examples: tuple[str, ...] = ()  # of answers that run on: the place where they do

    def share(self, count: int) -> float:
        """Return a count as a share of the answers; 0 for an empty set."""
        return count / self.num_answers if self.num_answers else 0.0

    @property
    def summary(self) -> str:
        """One line for people."""
        parts = [
            f"{self.num_answers:,} answers",
            f"{self.share(self.num_truncated):.1%} cut",
            f"{self.share(self.num_leaked):.1%} run on",
            f"{self.share(self.num_empty):.1%} empty",
            f"tokens mean {self.tokens_mean:.1f}, p50 {self.tokens_p50:.0f}, p95 {self.tokens_p95:.0f}",
            f"{self.share(self.num_repeated_elsewhere):.1%} equal to another prompt's",
            f"{self.share(self.num_repeated_samples):.1%} repeated samples",
        ]
        scores = {"EM": self.exact_match, "F1": self.f1, "accuracy": self.accuracy}
        return ", ".join(parts + [f"{name} {value:.1%}" for name, value in scores.items() if value is not None])


def measure_quality(
    answers: Sequence[Sequence[Answer]],
    *,
    markers: Sequence[str] = (),
    golds: Sequence[Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
) -> SequenceQuality:
    """Count what makes answers unfit to learn from, and score them where there is gold.

    Args:
        answers: Per prompt its samples.
        markers: How a turn opens in the template that made the prompts, from ``models.chat.turn_markers``; and
            strings that open the next item of a task's own template. Found anywhere; one that begins with a letter
            only at the start of a word.
        golds: Per prompt its gold answers: gives exact match and F1, means over all samples.
        labels: The labels of a classification; with ``golds`` gives the accuracy instead: the label that an answer
            names first is right when it is a gold one.
    """
    flat = [each for samples in answers for each in samples]
    pattern = leak_pattern(markers)
    leaks = [match for match in (pattern.search(each.text) for each in flat) if match is not None]
    lengths = np.array([len(each.ids) for each in flat] or [0])
    return SequenceQuality(
        num_prompts=len(answers),
        num_answers=len(flat),
        num_truncated=sum(each.finish == "length" for each in flat),
        num_leaked=len(leaks),
        num_empty=sum(not each.text.strip() for each in flat),
        num_repeated_elsewhere=_repeated_elsewhere(answers),
        num_repeated_samples=sum(len(samples) - len({each.text for each in samples}) for samples in answers),
        tokens_mean=float(lengths.mean()),
        tokens_p50=float(np.percentile(lengths, 50)),
        tokens_p95=float(np.percentile(lengths, 95)),
        examples=tuple(dict.fromkeys(map(_shown, leaks)))[:NUM_SHOWN],
        **_scores(answers, golds, labels),
    )


def require_quality(quality: SequenceQuality, *, allow_bad: bool = False) -> tuple[str, ...]:
    """Refuse answers that a student must not learn from.

    More than 1 % that run on into a next turn, more than 10 % cut at the token limit, or more than 10 % empty; a
    share of exactly that much passes. A set without answers is refused in any case.

    Args:
        quality: From :func:`measure_quality`.
        allow_bad: Let it pass all the same.

    Returns:
        What is wrong, to be recorded; empty when all is well.

    Raises:
        DataError: With the numbers and the remedy.
    """
    if quality.num_answers == 0:
        raise DataError("The teacher wrote no answers at all: there were no prompts. Check the task's data.")
    problems = quality_problems(quality)
    if problems and not allow_bad:
        raise DataError(
            "The generated sequences are refused: " + "; ".join(problems) + ". What was generated stays in the cache. "
            "To use it as it is, set `allow_bad: true` on the signal `sequences`; that is recorded."
        )
    return problems


def quality_problems(quality: SequenceQuality) -> tuple[str, ...]:
    """Name every share above its limit, with its remedy."""
    limits = (
        (
            quality.num_leaked, MAX_LEAKED_PERCENT, "run on into a next turn",
            f" ({'; '.join(quality.examples)}): add where they do to `stop`, or use the model's chat template",
        ),
        (
            quality.num_truncated, MAX_TRUNCATED_PERCENT, "are cut at the token limit",
            ": raise `max_new_tokens`, ask for shorter answers, or check that the model ends its turns",
        ),
        (
            quality.num_empty, MAX_EMPTY_PERCENT, "are empty",
            ": check the prompt template, and that no string of `stop` begins every answer",
        ),
    )  # fmt: skip
    return tuple(
        f"{count:,} of {quality.num_answers:,} answers ({quality.share(count):.1%}, at most {limit} % is expected) "
        f"{what}{remedy}"
        for count, limit, what, remedy in limits
        if 100 * count > limit * quality.num_answers  # whole numbers: exactly 1 % passes
    )


def leak_pattern(markers: Sequence[str] = ()) -> re.Pattern[str]:
    """Build the expression that finds where a later turn begins.

    A role that asks counts at the start of any line, the first included; a role that answers, or a heading, only
    after a line break, since an answer may begin with its own role's name. Inside of a line a role counts with its
    capital and its colon, behind the end of a sentence or glued to what precedes; so does an instruction that begins
    ``You are a`` behind the end of a sentence, without a blank.
    """
    asking = rf"(?:\A|\n)[ \t]*(?i:{'|'.join(ASKING_ROLES)})[ \t]*:"
    answering = rf"\n[ \t]*(?i:{'|'.join(ANSWERING_ROLES)})[ \t]*:"
    headings = rf"\n[ \t]*(?i:{'|'.join(map(re.escape, HEADINGS))})\b"
    glued = "|".join(GLUED_ROLES)
    inside = (
        rf"{SENTENCE_END}{CLOSERS}[ \t]*(?:{glued}|Q)[ \t]*:",
        rf"[\d%\u00b0]{CLOSERS}(?:{glued})[ \t]*:",
        rf"[a-z]{CLOSERS}(?:{'|'.join(GLUED_PERSONS)})[ \t]*:",
        rf"(?:{SENTENCE_END}|[\d%]){CLOSERS}You are an?\b",
    )
    own = [
        (r"(?<![^\W\d_])" if marker[:1].isalnum() else "") + re.escape(marker)
        for marker in (*markers, *FOREIGN_MARKERS)
        if marker.strip()
    ]
    return re.compile("|".join([*own, asking, answering, headings, *inside]))


def template_openers(template: str) -> tuple[str, ...]:
    """Return how a task's template begins: a model that runs on writes the next item in the same form."""
    words = template.partition("{")[0].strip().partition("\n")[0].split()[:OPENING_WORDS]
    return (" ".join(words),) if words else ()


def _repeated_elsewhere(answers: Sequence[Sequence[Answer]]) -> int:
    prompts_with = Counter(text for samples in answers for text in {each.text.strip() for each in samples})
    return sum(prompts_with[each.text.strip()] > 1 for samples in answers for each in samples)


def _scores(
    answers: Sequence[Sequence[Answer]], golds: Sequence[Sequence[str]] | None, labels: Sequence[str] | None
) -> dict[str, float]:
    if golds is None or not any(answers):
        return {}
    pairs = [(each.text, gold) for samples, gold in zip(answers, golds, strict=True) for each in samples]
    if labels is not None:
        return {"accuracy": float(np.mean([named_label(text, labels) in gold for text, gold in pairs]))}
    return {
        "exact_match": float(np.mean([exact_match(text, gold) for text, gold in pairs])),
        "f1": float(np.mean([f1(text, gold) for text, gold in pairs])),
    }


def _shown(match: re.Match[str]) -> str:
    around = match.string[max(0, match.start() - SHOWN_CHARS // 3) :][:SHOWN_CHARS]
    return repr(around)
