"""Parts of a context that is too long: its beginning, the part around an answer, or all of it part by part.

In: a filled template and the tokens that a prompt may have. Out: the same template around a part of the context.

Only the context is ever cut: between words where there is white space near enough, else between characters, as in
Chinese, Japanese, Thai or long code. Texts are measured by tokenising the whole prompt, so that merges over the borders
count.
"""

from tutelage.data.prompts import Tokenizer, is_word_border, plain_ids, shortened, words_of
from tutelage.data.task import Prompt


def window_with(
    tokenizer: Tokenizer, prompt: Prompt, span: tuple[int, int], *, room: int, item_key: str
) -> Prompt | None:
    """Return a window that holds the characters ``span`` of the context; for training rows alone.

    The beginning of the context where that suffices, as at evaluation; else a part with the span in its middle, or
    further back where little follows the span. Such a part never begins with the span: a student would learn to copy
    the beginning of what it reads.

    Args:
        tokenizer: The model's own.
        prompt: The filled template with the whole context.
        span: First character and the first one behind.
        room: Tokens of the prompt at most.
        item_key: Names the row in messages.

    Returns:
        The window; None where the span and words before it do not fit.

    Raises:
        DataError: If template and question leave no room at all.
    """
    head = shortened(tokenizer, prompt, room, item_key)
    first, end = span
    if end <= len(head.context):
        return head
    context = prompt.context
    free = room - len(plain_ids(tokenizer, prompt.with_context(context[first:end])))
    if free < 0:
        return None
    behind = len(plain_ids(tokenizer, words_of(context[end:])))
    before = _chars_before(tokenizer, context[:first], max(free // 2, free - behind))
    while context[first - before : first].strip():
        window = shortened(tokenizer, prompt.with_context(context[first - before :]), room, item_key)
        if first - before + len(window.context) >= end:
            return window
        # tokens at the borders may differ by a few: fewer words before the span
        before = _whole_words(context[:first], before * 3 // 4)
    return None


def sliding_windows(tokenizer: Tokenizer, prompt: Prompt, *, room: int, stride: int, item_key: str) -> list[Prompt]:
    """Return windows that together hold the whole context, each as long as fits.

    A window begins about ``stride`` tokens behind the one before, never so far that words between two are lost.

    Args:
        tokenizer: The model's own.
        prompt: The filled template with the whole context.
        room: Tokens of the prompt at most.
        stride: Tokens of the context between the beginnings of two windows.
        item_key: Names the row in messages.

    Raises:
        DataError: If template and question leave no room at all.

    Source:
        Devlin et al. 2019, arXiv:1810.04805: the ``doc_stride`` of its SQuAD runs.
    """
    context, start, windows = prompt.context, 0, []
    while True:
        window = shortened(tokenizer, prompt.with_context(context[start:]), room, item_key)
        windows.append(window)
        end = start + len(window.context)
        if not context[end:].strip():
            return windows
        step = _chars_in(tokenizer, context[start:end], stride)
        start += step + _blanks(context[start + step :])


def _chars_in(tokenizer: Tokenizer, text: str, num_tokens: int) -> int:
    """Return how many characters of ``text`` about ``num_tokens`` tokens are; whole words where there are several."""
    if len(plain_ids(tokenizer, words_of(text))) <= num_tokens:
        return len(text)
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if len(plain_ids(tokenizer, words_of(text[:middle]))) <= num_tokens else (low, middle)
        )
    words = text[:low].rsplit(None, 1)
    kept = text[:low].rindex(words[1]) if len(words) == 2 else 0
    return kept if kept and is_word_border(kept, low) else max(low, 1)


def _chars_before(tokenizer: Tokenizer, text: str, num_tokens: int) -> int:
    """Return how many characters at the end of ``text`` are at most ``num_tokens`` tokens: whole words if possible."""
    low, high = 0, len(text) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high)
            if len(plain_ids(tokenizer, words_of(text[len(text) - middle :]))) <= num_tokens
            else (low, middle)
        )
    return _whole_words(text, low)


def _whole_words(text: str, num_chars: int) -> int:
    """Return how many of the last ``num_chars`` characters to keep, so that a word begins there if possible."""
    tail = text[len(text) - num_chars :]
    if num_chars == len(text) or text[len(text) - num_chars - 1].isspace():
        return num_chars
    words = tail.split(None, 1)
    kept = len(words[1]) if len(words) == 2 else 0
    return kept if is_word_border(kept, num_chars) else num_chars


def _blanks(text: str) -> int:
    return len(text) - len(text.lstrip())
