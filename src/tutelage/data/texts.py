"""What a text task holds: documents, and conversations of which only the assistant's turns are learnt.

In: names from the recipe. Out: ``TextTask``, and ``TextItem``s made of ``Turn``s.
"""

from dataclasses import dataclass

DOCUMENT = "document"  # the role of the one turn that a plain text has
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)  # of a conversation
AUTO, CHAT, PLAIN = "auto", "chat", "plain"  # how conversations are written


@dataclass(frozen=True)
class Turn:
    """One message: who speaks (``DOCUMENT`` or one of ``ROLES``) and what is said.

    ``is_learnt`` is False where the data say that an answer is only read. ``reasoning`` is what was thought before
    an answer, where the data keep it apart.
    """

    role: str
    content: str
    is_learnt: bool = True
    reasoning: str | None = None


@dataclass(frozen=True)
class TextItem:
    """One document or one conversation.

    ``item_key`` is a digest of the content, so exact copies have one key and are kept once. Items that share a
    ``cluster_key`` (the value of the column ``cluster``, else the content) never straddle a split.
    """

    item_key: str
    cluster_key: str
    turns: tuple[Turn, ...]
    tools: str | None = None  # JSON: the functions that the assistant could call

    @property
    def is_document(self) -> bool:
        """Whether this is a plain text, of which every token is learnt."""
        return self.turns[0].role == DOCUMENT

    @property
    def text(self) -> str:
        """The item as a person reads it."""
        if self.is_document:
            return self.turns[0].content
        return "\n".join(f"{turn.role}: {turn.content}" for turn in self.turns)


@dataclass(frozen=True)
class TextTask:
    """Texts and conversations to be continued as they are.

    ``template`` says how conversations are written: ``chat`` by the tokenizer's own template, ``plain`` by ours
    (:func:`tutelage.data.text_rows.plain_turns`), ``auto`` by its own where it has one.
    """

    name: str
    template: str = AUTO
