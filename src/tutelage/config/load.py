"""From a recipe file, the environment and the command line to one validated recipe.

In: a path, overrides, variables. Out: ``LoadedRecipe``, or one error with everything that is wrong.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tutelage.config.environment import ENV_FILE, PASSED_ON, environment_overrides, read_env_file
from tutelage.config.losses import KINDS
from tutelage.config.modes import DEFAULT_MODE, mode_of, resolve_modes
from tutelage.config.overrides import COMMAND_LINE, Override, apply_override, parse_override
from tutelage.config.own_losses import unregistered_kept
from tutelage.config.problems import Path as Key
from tutelage.config.problems import Place, Problem, RecipeError
from tutelage.config.schema import Recipe
from tutelage.config.translate import translate
from tutelage.config.yaml_tree import MAX_BYTES, Tree, read_tree
from tutelage.errors import ConfigError
from tutelage.plugins import allow, load_plugin, own_loss_names
from tutelage.store.secrets import TOKEN, secrets_of

HAS_TOKEN = "holds what looks like an access token; put it into the variable HF_TOKEN, never into a recipe"
HALF_CHARACTER = "holds half of a character (a lone surrogate, such as \\ud83d); write the character itself"


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that holds, and how it came about.

    ``raw`` is what was validated: the file's values with overrides put in and modes resolved.
    ``text`` is the file as it stands. Relative paths of data and models start at ``folder``.
    """

    recipe: Recipe
    raw: dict[str, Any]
    path: Path
    overrides_applied: list[dict[str, Any]]
    text: str
    warnings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the recipe's file."""
        return self.path.resolve().parent

    def resolved(self) -> dict[str, Any]:
        """Return every setting with its default, ready for JSON; it loads again as a recipe."""
        return self.recipe.model_dump(mode="json")


def load_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    mode: str | None = None,
    plugins: Sequence[str] | None = (),
) -> LoadedRecipe:
    """Read and validate a recipe; later sources win: file, ``.env``, environment, command line.

    ``.env`` is looked for beside the recipe, then in the current folder. Without ``environment``,
    the process's own is read, and ``HF_TOKEN``, ``HF_HOME`` and ``TUTELAGE_CACHE`` of ``.env``
    are passed on to it where it lacks them.

    Args:
        path: The YAML file, at most 1 MiB.
        overrides: ``dotted.path=value`` texts, in order.
        environment: Variables to read instead of the process's.
        mode: ``fast`` or ``full``; wins over everything else.
        plugins: Which of the recipe's ``plugins`` may run here. None: none is run, and losses that they would register
            are kept as they are written, for what only lists or looks a recipe up.

    Raises:
        RecipeError: Everything that is wrong, each with path, line and nearest match.
        ConfigError: If there is no readable file.
    """
    text = _read_text(path)
    variables = os.environ if environment is None else environment
    file_variables, warnings = read_env_file((path.resolve().parent, Path.cwd()))
    secrets = (*secrets_of(variables), *secrets_of(file_variables))

    tree, problems = read_tree(text)
    problems += _tokens_in(text, secrets)
    if tree.values is None and not problems:
        problems.append(Problem((), "is empty; `tutelage new NAME` writes one to start from"))
    elif not isinstance(tree.values, dict) and not problems:
        problems.append(Problem((), "is not a mapping; expected name: .., teacher: .. and so on", tree.place(())))
    if not isinstance(tree.values, dict):
        raise RecipeError(str(path), problems, secrets=secrets)

    sources = ((ENV_FILE, file_variables), ("environment", variables))
    applied: list[Override] = []
    for override in _overrides(tree, sources, overrides, mode):
        if isinstance(override, str):
            warnings.append(override)
        elif isinstance(override, Problem):
            problems.append(override)
        elif problem := _checked(tree, override, secrets):
            problems.append(problem)
        else:
            applied.append(override)

    tree = resolve_modes(tree, mode_of(tree.values))
    unloaded = [] if plugins is None else _load_plugins(tree, plugins, path.resolve().parent)
    with unregistered_kept() if unloaded or plugins is None else nullcontext():
        recipe, schema_problems = _validate(tree)
    problems += [*unloaded, *schema_problems]
    if recipe is None or problems:
        raise RecipeError(str(path), problems, secrets=secrets)
    if environment is None:
        _pass_on(file_variables)
    return LoadedRecipe(recipe, tree.values, path, [override.record() for override in applied], text, tuple(warnings))


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Validate plain values, such as those that ``LoadedRecipe.resolved`` returns.

    Raises:
        RecipeError: Everything that is wrong with them.
    """
    tree = resolve_modes(Tree(dict(values)), mode_of(values))
    with unregistered_kept():
        recipe, problems = _validate(tree)
    if recipe is None:
        raise RecipeError("The recipe", problems)
    return recipe


def _load_plugins(tree: Tree, allowed: Sequence[str], folder: Path) -> list[Problem]:
    """Run the plugins that the caller named; return why others, or these, cannot be used."""
    written = tree.values.get("plugins") or ()
    if isinstance(written, str) or not all(isinstance(entry, str) for entry in written):
        return []  # the schema says so
    found = list(allow(written, allowed, folder=folder))
    paths = {path for _, path, _ in found}
    for each in allowed:
        if not paths & {Path(each).resolve(), (folder / each).resolve()}:
            listed = f"lists {', '.join(written)}" if written else f"has none; add `plugins: [{each}]` to it"
            raise ConfigError(f"--plugin {each} is not among the `plugins` of the recipe, which {listed}")
    problems = [(number, reason) for number, _, reason in found if reason is not None]
    for number, path, _ in found if not problems else ():
        try:
            load_plugin(path)
        except ConfigError as error:
            problems.append((number, str(error)))
    clash = [name for name in own_loss_names() if name in KINDS]
    if clash:
        problems.append((0, f"registers {clash[0]!r}, which is a loss of the package; give it another name"))
    return [Problem(("plugins", number), reason, tree.place(("plugins", number))) for number, reason in problems]


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path} is not a file. Expected a recipe; `tutelage new NAME` writes one to start from.")
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES // 2**20} MiB. Expected a recipe of about 60 lines.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: is not UTF-8 text. Save it as UTF-8.") from None


def _tokens_in(text: str, secrets: Sequence[str]) -> list[Problem]:
    return [
        Problem((), HAS_TOKEN, Place("recipe", number))
        for number, line in enumerate(text.splitlines(), start=1)
        if TOKEN.search(line) or any(secret in line for secret in secrets)
    ]


def _overrides(
    tree: Tree, sources: Sequence[tuple[str, Mapping[str, str]]], texts: Sequence[str], mode: str | None
) -> list[Override | Problem | str]:
    found: list[Override | Problem | str] = []
    for source, variables in sources:
        found += environment_overrides(variables, tree.values, source=source)
    found += [parse_override(text) for text in texts]
    if mode is not None:
        found.append(Override(COMMAND_LINE, "mode", mode))
    return found


def _checked(tree: Tree, override: Override, secrets: Sequence[str]) -> Problem | None:
    written = str(override.value)
    if TOKEN.search(written) or any(secret in written for secret in secrets):
        return Problem(tuple(override.path.split(".")), HAS_TOKEN, Place(override.source))
    return apply_override(tree, override)


def _half_characters(values: Any, path: Key = ()) -> Iterator[Key]:
    """Yield the paths of texts that no encoding can write: they hold half of a surrogate pair."""
    if isinstance(values, str):
        if any("\ud800" <= character <= "\udfff" for character in values):
            yield path
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _half_characters(key, path)
            yield from _half_characters(value, (*path, key))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _half_characters(value, (*path, index))


def _validate(tree: Tree) -> tuple[Recipe | None, list[Problem]]:
    if halves := list(dict.fromkeys(_half_characters(tree.values))):
        return None, [Problem(path, HALF_CHARACTER, tree.place(path)) for path in halves]
    mode = tree.values.get("mode", DEFAULT_MODE)
    try:
        return Recipe.model_validate(tree.values, context={"mode": mode}), []
    except ValidationError as error:
        found = translate(error, Recipe, tree.values)
        return None, [Problem(path, message, tree.place(path)) for path, message in found]


def _pass_on(variables: Mapping[str, str]) -> None:
    for name in PASSED_ON:
        if name in variables:
            os.environ.setdefault(name, variables[name])
