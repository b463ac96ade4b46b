"""Free-text answers compared with gold: the SQuAD metric, and the label that an answer names.

In: an answer and one or several gold answers. Out: 0 to 1 per answer.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in the metric's definition


def normalise_answer(text: str) -> str:
    """Reduce an answer to what the SQuAD metric compares.

    In this order: lower case; ASCII punctuation deleted, so ``U.S.`` is ``us`` and ``well-known`` one word; the
    words a, an, the deleted; white space of any kind made single blanks and stripped. Accents, typographic quotes
    and digits stay.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1; the evaluation script v1.1.
    """
    bare = text.lower().translate(PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """Return 1 if the answer equals any gold answer after normalisation, else 0; several golds take the best.

    Raises:
        ValueError: If there is no gold answer.
    """
    normal = normalise_answer(answer)
    return max(float(normal == normalise_answer(gold)) for gold in _some(golds))


def f1(answer: str, golds: Sequence[str]) -> float:
    """Return the best harmonic mean of token precision and recall over the gold answers.

    Tokens are the words after normalisation, counted with multiplicity: ``2 * shared / (tokens of the answer +
    tokens of the gold)``. Where no token is shared it is 0, also when neither side has any: the rule of v1.1, under
    which such a pair has an exact match of 1 and an F1 of 0 (v2.0 made that 1).

    Raises:
        ValueError: If there is no gold answer.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1; the evaluation script v1.1.
    """
    words = normalise_answer(answer).split()
    return max(_token_f1(words, normalise_answer(gold).split()) for gold in _some(golds))


def _token_f1(words: list[str], gold: list[str]) -> float:
    shared = sum((Counter(words) & Counter(gold)).values())
    return 2 * shared / (len(words) + len(gold)) if shared else 0.0


def _some(golds: Sequence[str]) -> Sequence[str]:
    if isinstance(golds, str) or not golds:
        raise ValueError(f"Found the gold answers {golds!r}; expected a list of at least one string.")
    return golds


def named_label(answer: str, labels: Sequence[str]) -> str | None:
    """Return the label that an answer names first, as whole words after normalisation; None if it names none.

    Of labels that start at the same word the longest is meant. ``Positive.`` and ``The review is positive, not
    negative`` both name ``positive``; a denial (``not positive``) is not understood.
    """
    words = normalise_answer(answer).split()
    found = []
    for label in labels:
        own = normalise_answer(label).split()
        starts = (at for at in range(len(words) - len(own) + 1) if own and words[at : at + len(own)] == own)
        at = next(starts, None)
        if at is not None:
            found.append((at, -len(own), label))
    return min(found)[2] if found else None
