"""Writers that a test kills: the store's own, and a naive one as a control. Imports no torch.

Run as ``python writers.py``: for every JSON line ``[kind, folder, version, environment]`` on standard
input it forks a process that writes ``folder/result``, and answers with that process's exit status.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from tutelage.store import crash_point, new_artifact, write_file

FILES = ("a.bin", "b.bin", "c.bin", "d.json", "e.json", "nested/f.bin", "nested/g.bin", "provenance.json")


def content(name: str, version: int) -> bytes:
    """The bytes that a file has in a version; times differ at every writing."""
    if name == "provenance.json":
        return f'{{"finished": {time.time()}}}'.encode()
    return (f"{name} in version {version}\n" * (20 + version)).encode()


def write_in_steps(path: Path, body: bytes, point: str) -> None:
    """Write as any library does: open, some bytes, the other bytes."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        crash_point(f"{point}.opened")
        stream.write(body[: len(body) // 2])
        stream.flush()
        crash_point(f"{point}.mid_write")
        stream.write(body[len(body) // 2 :])
    crash_point(f"{point}.written")


def artifact(path: Path, version: int) -> None:
    with new_artifact(path, kind="test", fields={"version": version}) as folder:
        for name in FILES:
            write_in_steps(folder / name, content(name, version), "body")


def single_file(path: Path, version: int) -> None:
    write_file(path, content("a.bin", version))


def naive_artifact(path: Path, version: int) -> None:
    path.mkdir(exist_ok=True)
    for name in FILES:
        write_in_steps(path / name, content(name, version), "naive")


def naive_fresh_artifact(path: Path, version: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    crash_point("naive.removed")
    naive_artifact(path, version)


WRITERS = {
    "artifact": artifact,
    "single_file": single_file,
    "naive_artifact": naive_artifact,
    "naive_fresh_artifact": naive_fresh_artifact,
}


def write_in_a_fork(kind: str, folder: str, version: int, environment: dict[str, str]) -> int:
    """Return 0, or minus the signal that ended the process, as :mod:`subprocess` does."""
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        status = 1
        try:
            WRITERS[kind](Path(folder) / "result", version)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    assert "torch" not in sys.modules
    for line in sys.stdin:
        print(write_in_a_fork(*json.loads(line)), flush=True)
