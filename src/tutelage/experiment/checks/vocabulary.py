"""Words, tokens and tokenizers fit before the teacher runs.

In: a ``Look``. Out: refusals at verbalisers, methods and models, with the line to write instead.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tutelage.config import Classification, grid_points, signals_read, with_point
from tutelage.experiment.checks.findings import Finding, Note, Refusal, guarded
from tutelage.experiment.checks.look import Look

CLASS_SCORES = "class_scores"


def verbalisers_continue_prompts(look: Look) -> Iterator[Finding]:
    """Check the words of every classification with the tokenizer that writes all rows."""
    from tutelage.build import classification_task

    for name, section in look.recipe.tasks.items():
        if not isinstance(section, Classification):
            continue
        task, prepared = classification_task(name, section), look.prepared(name)
        examples = prepared.splits["train"] if prepared is not None else []
        prompts = [task.prompt(example) for example in examples[:8]]
        writer = look.writer()
        if writer is None:
            return
        for finding in _words_of(look, task, prompts, writer.tokenizer):
            yield replace(finding, message=f"{finding.message} (Found with the tokenizer of {writer.name}.)")


def _words_of(look: Look, task: Any, prompts: list[str], tokenizer: Any) -> Iterator[Finding]:
    from tutelage.data import check_verbalisers
    from tutelage.data.spelling import spelling_problem

    key = ("tasks", task.name, "verbalisers")
    problem = spelling_problem(tokenizer, task, prompts)
    if problem is not None and problem.lines:
        yield Refusal(key, str(problem))
        return
    if problem is not None:
        yield Note(key, f"tasks.{task.name}.verbalisers: {problem} No other spelling avoids it.")
    yield from guarded(key, lambda: check_verbalisers(tokenizer, task))
    readers = list(_readers_of_class_scores(look))
    for label, words in zip(task.labels, task.verbalisers, strict=True):
        tokens = tokenizer.tokenize(words)
        if len(tokens) > 1 and readers:
            yield Refusal(
                (*key, label),
                f"The words {words!r} take {len(tokens)} tokens ({' '.join(map(repr, tokens))}), but "
                f"{CLASS_SCORES}, which methods.{readers[0]} reads, needs one token for each label. Choose a word of "
                "one token, or let the method read another signal.",
            )


def _readers_of_class_scores(look: Look) -> Iterator[str]:
    for name, method in look.recipe.methods.items():
        points = [with_point(method, point) for point in grid_points(method)]
        if any(CLASS_SCORES in signals_read(each).values() for each in points):
            yield name
