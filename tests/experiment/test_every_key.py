"""Every key of a recipe is in the key of what it decides, and a run makes what was planned.

The keys are found by walking the schema, so that one which a later version adds is tried without a word here.
"""

import gc
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from empty_stages import Walk, committed, graph_of, walk
from recipe_variants import RECIPES, Setting, has_one_value, loaded, variants

from tutelage.config import LoadedRecipe
from tutelage.config.reference import fields_by_key, reference_tables
from tutelage.config.translate import members
from tutelage.experiment.differences import READS
from tutelage.experiment.graph import TO_DO
from tutelage.experiment.origin import model_identity

# Keys that are in no stage's key, and why no result depends on them.
IN_NO_KEY = {
    "Train.save_steps": "when something is written, not what is computed",
    "Train.report_to": "where numbers are copied to",
    "TrainChanges.save_steps": "as Train.save_steps",
    "TrainChanges.report_to": "as Train.report_to",
    "Recipe.plugins": "names of files: the digest of each is in the keys of the runs whose method uses its loss",
    "Report.question": "shown by the report alone, whose own record holds it",
    "Report.search": "as Report.question",
}
PLACES = ("Recipe.name", "Recipe.workspace")  # another folder: what lies there counts, and nothing else does


CHANGE_OTHERS = {  # keys that change the meaning of others
    "Recipe.mode": "other defaults",
    "Shrink.by": "rows and precision decide influence alone",
}
# The recipe in which such a key does anything.
ACTS_IN = {
    "Seeds.selection": "searched",
    "Evaluate.generated_rows": "text",
    "Evaluate.permuted_teacher": "methods",
}
SOME = (
    "Evaluate.fidelity_rows", "Train.weight_decay", "Train.save_steps", "TopKSignal.k",
)  # fmt: skip


class Change(NamedTuple):
    """A recipe, and the same with another value of one key."""

    setting: Setting
    before: LoadedRecipe
    after: LoadedRecipe


@pytest.fixture(scope="module", autouse=True)
def objects_that_stay_are_not_searched() -> Iterator[None]:
    """The graph collects garbage after every stage, which takes long beside all that the other tests imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def write_rows(folder: Path) -> Path:
    for name in ("rows.jsonl", "more.jsonl", "rows.jsonlother", "more.jsonlother", "teacherother"):
        (folder / name).write_text(f"{name}\n", encoding="utf-8")
    return folder


def own_facts(recipe: LoadedRecipe) -> Iterator[tuple[str, Any]]:
    """Yield what each stage's key holds of the recipe itself, before anything is made."""
    graph = graph_of(recipe)
    context = graph.context
    yield "adapt", model_identity(context, recipe.recipe.teacher)
    for student in recipe.recipe.students.values():
        yield "train", student.model and model_identity(context, student)
    for node in graph:
        yield node.stage, node.part()
        if node.stage == "prepare":
            yield node.stage, node.reads()


def first_stage_changed(before: LoadedRecipe, after: LoadedRecipe) -> str | None:
    """Return the stage of the first node whose key is another; None where no key is."""
    for old, new in itertools.zip_longest(own_facts(before), own_facts(after), fillvalue=("", None)):
        if old != new:
            return new[0] or old[0]
    return None


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    """Every key of the schema that can be changed, once for each place in a recipe."""
    changes: list[Change] = []
    done: set[str] = set()
    for name, values in RECIPES.items():
        folder = write_rows(tmp_path_factory.mktemp(name))
        before = loaded(values, folder)
        for setting, after in variants(values, folder, done):
            if after is not None and ACTS_IN.get(setting.name, name) == name:
                changes.append(Change(setting, before, after))
        done |= {each.setting.name for each in changes}
    return changes


def test_every_key_of_the_schema_is_changed_by_these_recipes(changed):
    settings = [
        Setting((key,), section, key, field, None)
        for section in dict.fromkeys(table.section for table in reference_tables())
        for key, field in fields_by_key(section).items()
    ]
    names = {each.setting.name for each in changed}
    declared = {each.declared for each in settings if each.name in names}
    missing = [each.name for each in settings if each.declared not in declared and not changes_by_its_parts(each)]
    assert missing == [], "add a section with this key to recipe_variants.RECIPES"


def changes_by_its_parts(setting: Setting) -> bool:
    """Tell whether a key has one value only, such as ``kind``, or is a section whose own keys are changed."""
    return has_one_value(setting) or bool(list(members(setting.field.annotation)))


@pytest.mark.slow
def test_a_key_that_is_in_no_stages_key_is_listed_with_its_reason(changed):
    assert not_entered(changed) == set(IN_NO_KEY)


def test_a_key_that_is_listed_is_in_no_stages_key_and_others_are(changed):
    """A share of the test above that takes seconds: the listed keys, and one of each section."""
    first = {each.setting.section: each for each in reversed(changed) if each.setting.name not in IN_NO_KEY}
    some = [each for each in changed if each.setting.name in IN_NO_KEY] + list(first.values())[::6]
    assert not_entered(some) == set(IN_NO_KEY)


def not_entered(changed: list[Change]) -> set[str]:
    """Return the keys whose change leaves every stage's key as it was."""
    return {
        each.setting.name
        for each in changed
        if each.setting.name not in PLACES and first_stage_changed(each.before, each.after) is None
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_makes_what_was_planned_whatever_key_was_changed(changed):
    for each in changed:
        make_what_was_planned(each)


def test_a_run_makes_what_was_planned_for_some_keys_in_seconds(changed):
    for each in changed:
        if each.setting.name in SOME:
            make_what_was_planned(each)


def make_what_was_planned(change: Change) -> None:
    """Make the recipe as it was and as it is now, and compare what was made with the plan and the folders."""
    workspace = Path(change.before.recipe.workspace)
    if not workspace.exists():
        walk(change.before)
    before = committed(workspace)
    name, path = change.setting.name, change.setting.path
    walked = walk(change.after)
    assert walked.surprises() == [], name
    assert walked.made or name in IN_NO_KEY, name
    after = committed(workspace)
    assert {folder: after[folder] for folder in before if folder in after} == before, f"{name} overwrote a result"
    assert len(after) - len(before) == (len(walked.made) if name != "Recipe.workspace" else 0), name
    others = [reason for reason in reasons(walked) if name not in CHANGE_OTHERS and not explains(reason, path)]
    assert others == [], f"{name} is not the reason that is given"
    for folder in set(after) - set(before):
        shutil.rmtree(folder)


def reasons(walked: Walk) -> list[str]:
    """Return why nodes are to do that have been made with other settings."""
    first = [walked.states[index] for index in walked.made if walked.states[index][0] == TO_DO]
    return [reason for _, reason in first if " -> " in reason or reason.startswith(tuple(READS.values()))]


def explains(reason: str, path: tuple[str | int, ...]) -> bool:
    """Tell whether a reason names the key that was changed, or what is another for it, and nothing besides."""
    words = {word for key in path for word in re.split("[._]", str(key))}
    return all(
        part in READS.values() or part.startswith("another ") or words & set(re.split("[ ._]", part))
        for part in re.split(r", (?=[a-z_.]+ )", reason)
    )
