"""The cost of comparing what a stage reads with its manifest: ``python -m benchmarks.verification RUNS``.

In: a finished workspace, such as that of ``tutelage demo``. Out: per stage, the seconds that its inputs take to be
compared (read anew, the disk's cache warm) beside the seconds that the stage took, as its provenance recorded them.
"""

import json
import sys
import time
from pathlib import Path

from tutelage.store import read_manifest
from tutelage.store.manifest import compare_file

AIM = 0.03


def main() -> None:
    """Print one line per finished stage that reads another one, and the share of the whole."""
    workspace = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    compared = stages = 0.0
    seen: set[Path] = set()
    for path in sorted(workspace.rglob("provenance.json"), key=lambda path: path.stat().st_mtime):
        manifest = read_manifest(path.parent)
        if manifest is None or not manifest.fields.get("inputs"):
            continue
        inputs = [workspace / name for name in manifest.fields["inputs"].values()]
        fresh = [folder for folder in inputs if folder not in seen]  # a process compares each folder once
        seen.update(fresh)
        seconds, num_bytes = cost_of(fresh)
        stage_seconds = max(json.loads(path.read_text(encoding="utf-8"))["seconds"].values())
        compared, stages = compared + seconds, stages + stage_seconds
        print(f"{path.parent.name:44} {num_bytes / 2**20:8.1f} MiB {seconds:7.3f} s of {stage_seconds:8.1f} s")
    share = compared / stages if stages else 0.0
    print(f"all: {compared:.2f} s of {stages:.1f} s, {100 * share:.2f} % (aim {100 * AIM:.0f} %)")


def cost_of(folders: list[Path]) -> tuple[float, int]:
    """Return the seconds that a comparison of all files takes, and the bytes that it reads."""
    began, num_bytes = time.perf_counter(), 0
    for folder in folders:
        manifest = read_manifest(folder)
        assert manifest is not None, f"{folder} is finished"
        for name, entry in manifest.files.items():
            compare_file(folder, name, manifest, quick=True)
            num_bytes += entry["bytes"]
    return time.perf_counter() - began, num_bytes


if __name__ == "__main__":
    main()
