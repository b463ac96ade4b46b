"""Where a model comes from: a sample, a folder, a GGUF file or a hub id.

In: the string of a recipe. Out: a ``ModelSource``; nothing is loaded and no network is used (a sample is fetched once).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import ModelError

SAMPLE_PREFIX = "sample:"
SOURCE_FILE = "source.json"  # beside the weights of a sample or an adapted teacher: display name, licence
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
LICENCE_LINE = re.compile(r"^license:\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded. ``name`` is for people and carries the quantisation."""

    name: str
    path: str  # a folder, or a hub id
    gguf_file: str | None = None
    revision: str | None = None
    licence: str | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of a local source; None for a hub id."""
        return Path(self.path) if Path(self.path).is_dir() else None


def resolve_model(model: str, *, base_folder: Path, revision: str | None = None) -> ModelSource:
    """Turn a recipe's ``model`` into a source.

    Args:
        model: ``sample:NAME``, a folder, a ``.gguf`` file, or a hub id. Relative paths start at ``base_folder``.
        base_folder: The folder of the recipe.
        revision: A commit, tag or branch of a hub id.

    Raises:
        ModelError: If it names nothing, or weights that are not safetensors.
    """
    if model.startswith(SAMPLE_PREFIX):
        return _sample(model)
    path = (base_folder / Path(model).expanduser()).resolve()
    if model.endswith(".gguf"):
        return _gguf(model, path)
    if model.endswith(PICKLED) or model.endswith(".safetensors"):
        raise ModelError(f"{model} is a weight file, expected the folder that holds config.json and *.safetensors.")
    if path.is_dir():
        return _folder(path, name=path.name)
    if path.exists() or model.startswith(("/", ".", "~")) or not HUB_ID.fullmatch(model):
        raise ModelError(
            f"No model at {model!r} (looked in {base_folder}). Expected a folder with config.json and *.safetensors, "
            "a .gguf file, sample:NAME, or a hub id like owner/name."
        )
    return ModelSource(model, model, revision=revision)


def check_weight_files(folder: Path) -> list[Path]:
    """Return a folder's safetensors files; the index may name only files of the folder, no link may lead out.

    Raises:
        ModelError: If config.json or the weights are missing, pickled, or point elsewhere.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json. Expected a model saved by `save_pretrained`.")
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json_object(index).get("weight_map")
        named = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
        bad = sorted(name for name in named if Path(name).name != name or not (folder / name).is_file())
        if bad:
            raise ModelError(f"{index} names {bad[0]!r}, which is not a file of this folder. Download the model again.")
        files = sorted(folder / name for name in named)
        if not files:
            raise ModelError(f"{index} names no weight file in `weight_map`. Download the model again.")
    if not files:
        raise ModelError(_no_safetensors(folder))
    for file in files:
        if not _stays_inside(file, folder):
            raise ModelError(f"{file} is a link out of its folder. Copy the weights into the folder.")
    return files


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        ModelError: If the file is missing, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read {path}: {one_line(error)}. Expected JSON; download the model again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, expected an object. Download the model again.")
    return content


def one_line(error: BaseException, *, limit: int = 200) -> str:
    """Shorten a foreign error to its kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    text = " ".join(lines[0].split()).rstrip(" .:") if lines else ""
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__


def _sample(model: str) -> ModelSource:
    from tutelage.models.sample import sample_model  # late: it loads models, which start from sources

    name = model.removeprefix(SAMPLE_PREFIX)
    return _folder(sample_model(name), name=name)


def _folder(folder: Path, *, name: str) -> ModelSource:
    """Describe a folder; one of ours says its display name and licence itself."""
    facts = read_json_object(folder / SOURCE_FILE) if (folder / SOURCE_FILE).is_file() else {}
    check_weight_files(folder)
    return ModelSource(facts.get("name", name), str(folder), licence=facts.get("licence") or _licence_of(folder))


def _gguf(model: str, path: Path) -> ModelSource:
    if not path.is_file():
        raise ModelError(f"No file at {path}. Expected a .gguf file; check `model: {model}`.")
    return ModelSource(path.stem, str(path.parent), gguf_file=path.name)


def _no_safetensors(folder: Path) -> str:
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        return (
            f"{folder} holds only pickled weights ({pickled[0]}), which can run code when they are read. Expected "
            "*.safetensors: convert it once where you trust it, with `save_pretrained` of transformers."
        )
    return f"{folder} has no *.safetensors file. Expected a model saved by `save_pretrained`."


def _stays_inside(file: Path, folder: Path) -> bool:
    target, root = file.resolve(), folder.resolve()
    # The hub's own cache keeps NAME/snapshots/COMMIT/file as a link to NAME/blobs/HASH.
    hub_blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    return target.is_relative_to(root) or target.is_relative_to(hub_blobs)


def _licence_of(folder: Path) -> str | None:
    """Read ``license:`` from a model card; None when the folder has no card."""
    card = folder / "README.md"
    found = LICENCE_LINE.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    return found.group(1).strip("'\"") if found else None
