"""Which files of a folder hold which split, and what its own description says of them.

In: a folder of files, as on a hub or in GLUE. Out: files by split, class names, notes. Nothing outside of it is read.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.data.files import OPENERS
from tutelage.data.lines import bare_ending, bare_stem, numbered_lines
from tutelage.data.parquet_rows import feature_names
from tutelage.errors import DataError

TRAIN = "train"
OFFICIAL_TEST_NAMES = ("validation", "dev", "valid", "val", "test")  # the first one present is the test set
SPLIT_NAMES = (TRAIN, *OFFICIAL_TEST_NAMES)
SPLIT_WORD = re.compile(rf"(?:^|[-._ ])(training|{'|'.join(SPLIT_NAMES)})(?=$|[-._ ]|\d)", re.IGNORECASE)
SHARD = re.compile(r"[-._ ]?\d+([-._]of[-._]\d+)?([-._][0-9a-f]{8,})?$", re.IGNORECASE)
VERSION = re.compile(r"[-._]v?\d+\.\d+")
README = "README.md"
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
MAX_DESCRIPTION_BYTES = 2**20
HUB_BLOBS = "blobs"  # beside `snapshots` in the hub's own cache, whose files are links


@dataclass
class FolderFiles:
    """What a folder holds."""

    splits: dict[str, list[Path]] = field(default_factory=dict)
    class_names: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_files(folder: Path, *, subset: str | None) -> FolderFiles:
    """Find the files of every split: as the folder's README says, else by name.

    ``train-00000-of-00002.parquet``, ``data/train.jsonl.gz``, ``reviews_test.csv`` and ``test/part-1.csv`` name their
    split. Files whose names say nothing are training rows where no other file is.

    Raises:
        DataError: If there is no training file, a split has files of two kinds, or a file lies outside of the folder.
    """
    found = FolderFiles()
    readme = _readme_header(folder, found.notes)
    found.class_names = _described_classes(folder, readme, subset)
    found.splits = _configured(folder, readme, subset) or _by_name(folder, subset, found.notes)
    _leave_unlabelled_test_out(found)
    for split, files in found.splits.items():
        _require_one_kind(folder, split, files)
        for path in files:
            require_inside(folder, path)
    return found


def require_inside(folder: Path, path: Path) -> None:
    """Refuse a path that leads out of the folder, by its name or by a link.

    Raises:
        DataError: In that case. Links into the hub's own cache are followed.
    """
    root, target = folder.resolve(), path.resolve()
    blobs = [each.parent / HUB_BLOBS for each in root.parents if each.name == "snapshots"]
    if not any(target.is_relative_to(each) for each in (root, *blobs)):
        raise DataError(
            f"{folder} names {path}, which leads to {target}, outside of the folder. Only files inside it are read; "
            "copy the file into it."
        )


def _by_name(folder: Path, subset: str | None, notes: list[str]) -> dict[str, list[Path]]:
    named: dict[str, dict[str, list[Path]]] = {}
    unnamed, passed_over = [], []
    candidates = list(_candidates(folder, subset))
    texts_only = not any(bare_ending(path) != ".txt" for path, _ in candidates if _is_data(path))
    for path, split in candidates:
        if not _is_data(path) or (bare_ending(path) == ".txt" and not texts_only):
            passed_over.append(path.relative_to(folder).as_posix())
            continue
        match = SPLIT_WORD.search(bare_stem(path)) if split is None else None
        word = split or (match and match.group(1).lower())
        if word is None:
            unnamed.append(path)
            continue
        rest = bare_stem(path).replace(match.group(0), "", 1) if match else ""
        named.setdefault(TRAIN if word == "training" else word, {}).setdefault(SHARD.sub("", rest), []).append(path)
    splits = {name: files for word, by_rest in named.items() for name, files in _parts_of(folder, word, by_rest)}
    if TRAIN not in splits and unnamed:
        splits[TRAIN] = unnamed
    else:
        passed_over += [path.relative_to(folder).as_posix() for path in unnamed]
    if passed_over:
        notes.append(f"files of other kinds were passed over: {', '.join(sorted(passed_over))}")
    if TRAIN not in splits:
        endings = ", ".join(f"train{ending}" for ending in OPENERS)
        raise DataError(
            f"{folder} holds none of {endings}, no numbered shards of them, and was not saved by `datasets`. Add one, "
            "or name a file."
        )
    return {name: splits[name] for name in sorted(splits, key=_split_order)}


def _candidates(folder: Path, subset: str | None) -> Iterator[tuple[Path, str | None]]:
    """Yield the files of the folder, of ``data`` and of folders named for a split or the subset, with that split."""
    tops = [folder, folder / "data"]
    if subset is not None:
        inner = [each for each in (folder / subset, folder / "data" / subset) if each.is_dir()]
        tops = inner or tops
    for top in tops:
        for path in sorted(top.iterdir()) if top.is_dir() else ():
            if path.is_file() and not path.name.startswith("."):
                yield path, None
            elif path.is_dir() and path.name.lower() in SPLIT_NAMES:
                for each in sorted(path.iterdir()):
                    if each.is_file() and not each.name.startswith("."):
                        yield each, path.name.lower()


def _is_data(path: Path) -> bool:
    return bare_ending(path) in OPENERS and path.name not in DESCRIPTIONS


def _parts_of(folder: Path, word: str, by_rest: dict[str, list[Path]]) -> Iterator[tuple[str, list[Path]]]:
    """Yield the files of a split; official sets with names of their own (``dev_matched``) stay apart."""
    if len(by_rest) > 1 and any(VERSION.search(bare_stem(path)) for files in by_rest.values() for path in files):
        shown = " and ".join(path.name for files in by_rest.values() for path in files)
        raise DataError(f"{folder} holds {shown}. Expected one version per split; remove or move the others.")
    if word == TRAIN or len(by_rest) == 1:
        yield word, [path for files in by_rest.values() for path in files]
        return
    for rest, files in by_rest.items():
        yield (f"{word}{rest}" if rest else word), files


def _split_order(name: str) -> tuple[int, str]:
    return (SPLIT_NAMES.index(name) if name in SPLIT_NAMES else len(SPLIT_NAMES), name)


def _require_one_kind(folder: Path, split: str, files: Sequence[Path]) -> None:
    kinds = {bare_ending(path) for path in files}
    stems = [bare_stem(path) for path in files if path.parent == files[0].parent]
    if len(kinds) > 1 or len(set(stems)) != len(stems):
        order = list(OPENERS)
        shown = " and ".join(path.name for path in sorted(files, key=lambda path: order.index(bare_ending(path))))
        raise DataError(
            f"{folder} holds {shown} for the split {split!r}. Expected files of one kind; remove or rename the others."
        )


def _leave_unlabelled_test_out(found: FolderFiles) -> None:
    """Drop GLUE's ``test.tsv``: it has a column ``index`` and no labels, or only the label -1."""
    for path in found.splits.get("test", []):
        _, line = next(numbered_lines(path), (0, "")) if bare_ending(path) == ".tsv" else (0, "")
        if line.split("\t")[0] == "index" and not {"label", "Quality"} & set(line.split("\t")):
            del found.splits["test"]
            found.notes.insert(0, f"{path.name} was ignored: GLUE's test files have no labels")
            return


def _readme_header(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Return the YAML at the head of a README, as a hub writes it."""
    path = folder / README
    if not path.is_file() or path.stat().st_size > MAX_DESCRIPTION_BYTES:
        return {}
    require_inside(folder, path)
    _, mark, rest = path.read_text(encoding="utf-8", errors="replace").partition("---\n")
    text, end, _ = rest.partition("\n---")
    if not mark or not end:
        return {}
    from ruamel.yaml import YAML, YAMLError

    try:
        header = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError):
        notes.append(f"the head of {README} is no YAML and was not read")
        return {}
    return header if isinstance(header, dict) else {}


def _configured(folder: Path, readme: dict[str, Any], subset: str | None) -> dict[str, list[Path]]:
    """Return the files that the README's ``configs`` name for the subset."""
    configs = [each for each in readme.get("configs") or () if isinstance(each, dict) and each.get("data_files")]
    if not configs:
        return {}
    names = [str(each.get("config_name", "default")) for each in configs]
    wanted = subset or ("default" if "default" in names or len(names) > 1 else names[0])
    marked = [name for name, each in zip(names, configs, strict=True) if each.get("default")]
    wanted = marked[0] if marked and subset is None else wanted
    if wanted not in names:
        raise DataError(f"{folder / README} describes the subsets {', '.join(names)}. Name one of them with `subset`.")
    splits: dict[str, list[Path]] = {}
    for split, pattern in _patterns(configs[names.index(wanted)]["data_files"]):
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise DataError(f"{folder / README} names {pattern}, outside of the folder. Only files inside it are read.")
        files = [path for path in sorted(folder.glob(pattern)) if path.is_file() and _is_data(path)]
        if not files:
            raise DataError(f"{folder / README} names {pattern} for the split {split!r}, and no such file is there.")
        splits.setdefault(split, []).extend(files)
    return splits


def _patterns(data_files: Any) -> Iterator[tuple[str, str]]:
    """Yield (split, pattern) from any of the forms that a README may use."""
    if isinstance(data_files, dict):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    for each in data_files if isinstance(data_files, list) else [data_files]:
        entry = each if isinstance(each, dict) else {"split": TRAIN, "path": each}
        paths = entry.get("path")
        for path in paths if isinstance(paths, list) else [paths]:
            yield str(entry.get("split", TRAIN)), str(path)


def _described_classes(folder: Path, readme: dict[str, Any], subset: str | None) -> dict[str, list[str]]:
    """Return the class names that a README or a ``dataset_info(s).json`` declares."""
    described = readme.get("dataset_info") or []
    entries = described if isinstance(described, list) else [described]
    for name in ("dataset_info.json", "dataset_infos.json"):
        path = folder / name
        if path.is_file() and path.stat().st_size <= MAX_DESCRIPTION_BYTES:
            require_inside(folder, path)
            try:
                content = json.loads(path.read_bytes())
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path} is not valid JSON ({error}). Correct or remove it.") from error
            each = content if isinstance(content, dict) else {}
            entries += (
                [each]
                if "features" in each
                else [{**value, "config_name": key} for key, value in each.items() if isinstance(value, dict)]
            )
    for entry in entries:
        fits = isinstance(entry, dict) and (subset is None or entry.get("config_name", subset) == subset)
        names = feature_names(entry.get("features")) if fits else {}
        if names:
            return names
    return {}
