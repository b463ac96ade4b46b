"""Access tokens: recognised by their shape or by the environment, and never written down.

In: any text. Out: the same text with a note in place of every token.
"""

import os
import re
from collections.abc import Mapping, Sequence

# User tokens of the hub start with hf_. A name may hold one too (runs_hf_...), so "_" may stand before it.
TOKEN = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{8,}")
TOKEN_VARIABLE = "HF_TOKEN"
HIDDEN = "(token not shown)"
MIN_SECRET_LENGTH = 8  # a shorter value cannot be told from a word


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Replace access tokens, known or by their shape, with a note."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return TOKEN.sub(HIDDEN, text)


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the token that the environment holds, if it is long enough to be told from a word."""
    token = environment.get(TOKEN_VARIABLE, "")
    return (token,) if len(token) >= MIN_SECRET_LENGTH else ()


def without_tokens(text: str) -> str:
    """Replace what looks like a token, and the token of this process's environment."""
    return redact(text, secrets_of(os.environ))
