"""Words, tokens and tokenizers fit before the teacher runs.

In: a ``Look``. Out: refusals at verbalisers, methods and models, with the line to write instead.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tutelage.config import Classification, grid_points, signals_read, with_point
from tutelage.experiment.checks.findings import Finding, Note, Refusal, guarded
from tutelage.experiment.checks.look import Look

CLASS_SCORES = "class_scores"


def verbalisers_continue_prompts(look: Look) -> Iterator[Finding]:
    """Check the words of every classification with the tokenizers of teacher and students."""
    from tutelage.build import classification_task

    for name, section in look.recipe.tasks.items():
        if not isinstance(section, Classification):
            continue
        task, prepared = classification_task(name, section), look.prepared(name)
        examples = prepared.splits["train"] if prepared is not None else []
        prompts = [task.prompt(example) for example in examples[:8]]
        first: dict[Finding, str] = {}
        for whose, tokenizer in _tokenizers(look).items():
            for finding in _words_of(look, task, prompts, tokenizer):
                first.setdefault(finding, whose)
        yield from (replace(each, message=f"{each.message} (Found with {whose}.)") for each, whose in first.items())


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


def _tokenizers(look: Look) -> Mapping[str, Any]:
    """Return the tokenizers that can be read, by how a message calls them."""
    named = {"the teacher's tokenizer": look.teacher_tokenizer()}
    for student, section in look.recipe.students.items():
        if section.model is not None:
            named[f"the tokenizer of students.{student}"] = look.student_tokenizer(student)
    return {whose: tokenizer for whose, tokenizer in named.items() if tokenizer is not None}
