"""Why a stage is not finished although something of its name is there: which settings and inputs are others.

In: what is to be made, the manifests beside it. Out: one line such as ``learning_rate 0.001 -> 0.002``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.experiment.identity import KEY_DIGITS
from tutelage.experiment.stage import Target
from tutelage.store import Manifest, read_manifest

MAX_SHOWN = 4  # differences in one line
KEY = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}|[0-9a-f]{{64}}")
READS = {  # what a digest stands for, in words
    "prepared": "other rows",
    "teacher": "another teacher",
    "layers": "other layers",
    "files": "other files",
    "student": "another student model",
}


def differences(target: Target) -> str:
    """Say what differs from the nearest finished result of the same name; empty when there is none."""
    others = []
    name = target.folder.name
    key = target.key if name.endswith(target.key) else target.key[:KEY_DIGITS]
    before = name.removesuffix(key)
    for folder in target.folder.parent.glob(f"{before}*"):
        # names may hold dots: S1.5.<key> is no result of S1
        manifest = read_manifest(folder) if KEY.fullmatch(folder.name.removeprefix(before)) else None
        if manifest is not None and folder != target.folder and "made_of" in manifest.fields:
            others.append((changes(manifest.fields["made_of"], target.made_of), folder.name))
    return shown(min(others, key=lambda other: (len(other[0]), other[1]))[0]) if others else ""


def made_of(manifest: Manifest) -> dict[str, Any]:
    """Return the settings and inputs behind an artifact; empty for one of an earlier version."""
    return manifest.fields.get("made_of", {})


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List what differs between two results: settings as ``path old -> new``, then inputs in words."""
    before, after = flat(old.get("settings", {})), flat(new.get("settings", {}))
    found = [f"{path} {_value(before, path)} -> {_value(after, path)}" for path in varied_paths([before, after])]
    read_before, read_after = old.get("reads", {}), new.get("reads", {})
    names = [
        name for name in dict.fromkeys((*read_before, *read_after)) if read_before.get(name) != read_after.get(name)
    ]
    return found + list(dict.fromkeys(READS.get(name, f"another {name}") for name in names))


def varied_paths(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the paths whose values are not equal everywhere; a section of another ``kind`` counts once, by that."""
    paths = list(dict.fromkeys(path for each in settings for path in each))
    varied = [
        path for path in paths if any(each.get(path, _ABSENT) != settings[0].get(path, _ABSENT) for each in settings)
    ]
    kinds = {path.removesuffix("kind") for path in varied if path.endswith(".kind")}
    return [path for path in varied if path.endswith(".kind") or not path.startswith(tuple(kinds))]


def shown(found: list[str]) -> str:
    """Put the first differences on one line."""
    more = f", and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    return ", ".join(found[:MAX_SHOWN]) + more


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Lay nested settings flat: ``{"train": {"max_steps": 3}}`` is ``{"train.max_steps": 3}``."""
    laid: dict[str, Any] = {}
    for name, value in values.items():
        laid |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return laid


_ABSENT = object()


def _value(values: Mapping[str, Any], path: str) -> str:
    if path not in values:
        return "(none)"
    value = values[path]
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
