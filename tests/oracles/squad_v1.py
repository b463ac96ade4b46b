"""The SQuAD v1.1 metric one character and one word at a time, sharing no code with the package.

In: an answer and gold answers. Out: floats. Semantics of the official evaluation script v1.1: lower case, then ASCII
punctuation away, then the articles as whole words, then single blanks; the best gold answer counts.
"""

ASCII_PUNCTUATION = [chr(code) for code in range(33, 127) if not chr(code).isalnum()]
ARTICLES = ["a", "an", "the"]


def is_word_character(character: str) -> bool:
    """Say what a regular expression's ``\\w`` holds: letters, digits and the underscore, of any script."""
    return character.isalnum() or character == "_"


def normal(text: str) -> str:
    """Normalise an answer."""
    kept = ""
    for character in text.lower():
        if character not in ASCII_PUNCTUATION:
            kept += character
    spaced, word = "", ""
    for character in kept + " ":
        if is_word_character(character):
            word += character
            continue
        spaced += (" " if word in ARTICLES else word) + character
        word = ""
    return " ".join(spaced.split())


def exact_match_once(answer: str, gold: str) -> float:
    return 1.0 if normal(answer) == normal(gold) else 0.0


def f1_once(answer: str, gold: str) -> float:
    answer_words, left = normal(answer).split(" "), normal(gold).split(" ")
    answer_words, left = [w for w in answer_words if w], [w for w in left if w]
    num_gold, shared = len(left), 0
    for word in answer_words:
        if word in left:
            left.remove(word)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(answer_words), shared / num_gold
    return 2 * precision * recall / (precision + recall)


def exact_match(answer: str, golds: list[str]) -> float:
    """Best exact match over the gold answers."""
    return max(exact_match_once(answer, gold) for gold in golds)


def f1(answer: str, golds: list[str]) -> float:
    """Best F1 over the gold answers."""
    return max(f1_once(answer, gold) for gold in golds)
