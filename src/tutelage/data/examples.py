"""Classification items at the text level, before any tokenizer sees them.

In: values read from a source. Out: ``Example``s with keys that stay the same from run to run.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

KEY_BYTES = 16


@runtime_checkable
class Keyed(Protocol):
    """An item of any kind of task that can be cut into splits."""

    @property
    def item_key(self) -> str:
        """Unique within a task, and stable."""
        ...

    @property
    def cluster_key(self) -> str:
        """Shared by items that must not be separated."""
        ...


@dataclass(frozen=True)
class Example:
    """One item: what the template reads, and the right answer.

    ``item_key`` is unique within a task and stable. Examples that share a ``cluster_key`` (equal
    text, but for case and spacing) never straddle a split.
    """

    item_key: str
    cluster_key: str
    fields: dict[str, str]
    gold: int  # index into the task's labels


def normalised_text(text: str) -> str:
    """Return ``text`` in lower case with runs of white space collapsed to one blank."""
    return " ".join(text.lower().split())


def cluster_key(text: str) -> str:
    """Return the digest shared by all texts that differ only in case and spacing."""
    return text_digest(normalised_text(text))


def text_digest(*parts: str) -> str:
    """Hash strings; the border between two parts matters."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        encoded = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def split_order(item_key: str) -> str:
    """Return the seed-independent sort key by which a test set is cut: SHA-256 of the item's key."""
    return hashlib.sha256(item_key.encode()).hexdigest()
