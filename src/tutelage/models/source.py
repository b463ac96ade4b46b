"""Where a model comes from: a sample, a folder, a GGUF file or a hub id; and an adapter that belongs on top.

In: the strings of a recipe. Out: a ``ModelSource``; nothing is loaded, no network is used (a sample is fetched once).
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tutelage.errors import ModelError
from tutelage.models.folder import PICKLED, check_weight_files, has_weights, licence_of, read_json_object
from tutelage.models.gguf_file import check_gguf
from tutelage.models.saved_adapter import check_adapter, holds_adapter, recorded_base

SAMPLE_PREFIX = "sample:"
SOURCE_FILE = "source.json"  # beside the weights of a sample or an adapted teacher: display name, licence
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
AdapterWeights = Literal["merge", "ignore"]


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded. ``name`` is for people and carries the quantisation."""

    name: str
    path: str  # a folder, or a hub id
    gguf_file: str | None = None
    revision: str | None = None
    licence: str | None = None
    adapter: str | None = None  # the folder of an adapter that is merged into the weights of `path`
    # What the recipe says about adapters; kept for hub ids, whose files are seen only when something is read.
    adapter_weights: AdapterWeights | None = None
    base: "ModelSource | None" = None
    resize_embeddings: bool = False  # give tokens of its tokenizer embeddings that have none

    @property
    def folder(self) -> Path | None:
        """The folder of a local source; None for a hub id."""
        return Path(self.path) if Path(self.path).is_dir() else None


def resolve_model(
    model: str,
    *,
    base_folder: Path,
    revision: str | None = None,
    adapter_weights: AdapterWeights | None = None,
    base: str | None = None,
) -> ModelSource:
    """Turn a recipe's ``model`` into a source.

    Args:
        model: ``sample:NAME``, a folder, a ``.gguf`` file, or a hub id. Relative paths start at ``base_folder``.
        base_folder: The folder of the recipe.
        revision: A commit, tag or branch of a hub id.
        adapter_weights: Whether an adapter that lies beside the weights is merged into them.
        base: The model that an adapter without weights belongs to; None: the one that the adapter names.

    Raises:
        ModelError: If it names nothing, weights that are not safetensors, or an adapter that nothing is said about.
    """
    below = resolve_model(base, base_folder=base_folder) if base is not None else None
    if model.startswith(SAMPLE_PREFIX):
        return with_adapter(_sample(model), None, adapter_weights, below)
    path = (base_folder / Path(model).expanduser()).resolve()
    if model.endswith(".gguf"):
        return with_adapter(_gguf(model, path), path.parent, adapter_weights, below)
    if model.endswith(PICKLED) or model.endswith(".safetensors"):
        raise ModelError(f"{model} is a weight file, expected the folder that holds config.json and *.safetensors.")
    if path.is_dir():
        return with_adapter(_folder(path, name=path.name), path, adapter_weights, below, base_folder)
    if path.exists() or model.startswith(("/", ".", "~")) or not HUB_ID.fullmatch(model):
        raise ModelError(
            f"No model at {model!r} (looked in {base_folder}). Expected a folder with config.json and *.safetensors, "
            "a .gguf file, sample:NAME, or a hub id like owner/name."
        )
    return ModelSource(model, model, revision=revision, adapter_weights=adapter_weights, base=below)


def with_adapter(
    source: ModelSource,
    folder: Path | None,
    adapter_weights: AdapterWeights | None,
    base: ModelSource | None,
    base_folder: Path = Path(),
) -> ModelSource:
    """Say which adapter belongs on top of a source, as the recipe and the files of ``folder`` say.

    Raises:
        ModelError: If an adapter lies beside weights without a word in the recipe, a base is missing, or the recipe
            speaks of an adapter that is not there.
    """
    if folder is None or not holds_adapter(folder):
        if adapter_weights is not None or base is not None:
            key = "adapter_weights" if adapter_weights is not None else "base"
            raise ModelError(f"`{key}` speaks of an adapter, but {source.name} has none ({source.path}). Remove it.")
        return source
    if source.gguf_file is not None or has_weights(folder):
        if base is not None:
            raise ModelError(f"{folder} holds whole weights, so nothing is its `base`. Remove `base`.")
        if adapter_weights is None:
            raise ModelError(
                f"{folder} holds whole weights and an adapter beside them (adapter_config.json). Say which model is "
                "meant: `adapter_weights: ignore` takes the weights as they are, `adapter_weights: merge` adds the "
                "adapter to them (wrong where it was merged before)."
            )
        if adapter_weights == "ignore":
            return source
        check_adapter(folder)
        return replace(source, adapter=str(folder), name=f"{source.name} with its adapter")
    if adapter_weights is not None:
        raise ModelError(f"{folder} is an adapter without weights of its own. Remove `adapter_weights`; `base` names.")
    check_adapter(folder)
    below = base or _recorded(folder, base_folder)
    if below.adapter is not None or below.base is not None:
        raise ModelError(f"The base of the adapter {folder} is an adapter itself. Merge that one first.")
    return replace(
        below, adapter=str(folder), name=f"{source.name} on {below.name}", licence=source.licence or below.licence
    )


def _recorded(folder: Path, base_folder: Path) -> ModelSource:
    """Resolve the base that an adapter names itself: a path of this machine, or a hub id."""
    named, revision = recorded_base(folder)
    if named is None:
        raise ModelError(
            f"{folder} is an adapter that does not say which model it was trained on. Name that model with `base`, "
            "beside `model`."
        )
    try:
        return resolve_model(named, base_folder=base_folder, revision=revision)
    except ModelError as error:
        raise ModelError(
            f"{folder} is an adapter for {named!r}, which is not to be had here ({error}) Name that model with `base`, "
            "beside `model`."
        ) from error


def _sample(model: str) -> ModelSource:
    from tutelage.models.sample import sample_model  # late: it loads models, which start from sources

    name = model.removeprefix(SAMPLE_PREFIX)
    return _folder(sample_model(name, whole=False), name=name)


def _folder(folder: Path, *, name: str) -> ModelSource:
    """Describe a folder; one of ours says its display name and licence itself."""
    facts = read_json_object(folder / SOURCE_FILE) if (folder / SOURCE_FILE).is_file() else {}
    gguf_files = sorted(file.name for file in folder.glob("*.gguf"))
    if gguf_files and not has_weights(folder):
        return _only_gguf(folder, gguf_files)
    if has_weights(folder) or not holds_adapter(folder):
        check_weight_files(folder)
    return ModelSource(facts.get("name", name), str(folder), licence=facts.get("licence") or licence_of(folder))


def _only_gguf(folder: Path, names: list[str]) -> ModelSource:
    """Describe a folder whose only weights are GGUF files; tokenizer files beside them are welcome."""
    if len(names) > 1:
        raise ModelError(
            f"{folder} holds {len(names)} GGUF files ({', '.join(names[:3])}{', ...' * (len(names) > 3)}). Name one of "
            "them under `model`."
        )
    return _gguf(str(folder / names[0]), folder / names[0])


def _gguf(model: str, path: Path) -> ModelSource:
    if not path.is_file():
        raise ModelError(f"No file at {path}. Expected a .gguf file; check `model: {model}`.")
    check_gguf(path)
    return ModelSource(path.stem, str(path.parent), gguf_file=path.name)
