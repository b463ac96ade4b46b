"""Line logs of a run that a resumed run continues byte for byte.

In: the numbers of steps and evaluations. Out: ``metrics.jsonl``, ``evaluations.jsonl`` (content),
``timings.jsonl`` (times, no content), and their positions for a checkpoint.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import IntegrityError
from tutelage.store import make_folder, write_file

CONTENT_LOGS = ("metrics", "evaluations")
LOGS = (*CONTENT_LOGS, "timings")
EPOCH_DIGITS = 6


class LineLog:
    """A JSON-lines file that can be cut back to a position noted earlier.

    Lines are flushed as they come; :meth:`position` makes them durable, so a checkpoint never
    refers to lines that a crash could take away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        self.stream = path.open("ab")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line; keys keep their order, NaN is refused."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        self.stream.write(line.encode())
        self.stream.flush()

    def position(self) -> dict[str, Any]:
        """Make the file durable and return its length and SHA-256."""
        os.fsync(self.stream.fileno())
        content = self.path.read_bytes()
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def cut_back(self, position: Mapping[str, Any] | None, *, checked: bool = True) -> None:
        """Drop what was written after ``position``; None empties the file.

        Raises:
            IntegrityError: If ``checked`` and what remains is not what was there at that moment.
        """
        num_bytes = 0 if position is None else int(position["bytes"])
        content = self.path.read_bytes()[:num_bytes]
        if checked and position is not None and hashlib.sha256(content).hexdigest() != position["sha256"]:
            raise IntegrityError(
                f"{self.path} is not what its checkpoint saw: its first {num_bytes} bytes were changed or are gone. "
                f"Delete the folder {self.path.parent} and run again."
            )
        self.stream.close()
        write_file(self.path, content, point="train.lines")
        self.stream = self.path.open("ab")


class Journal:
    """The three line logs of a run."""

    def __init__(self, folder: Path) -> None:
        self.logs = {name: LineLog(folder / f"{name}.jsonl") for name in LOGS}

    def close(self) -> None:
        """Close the files."""
        for log in self.logs.values():
            log.stream.close()

    def log_step(self, metrics: Mapping[str, Any], row_keys: Sequence[str], *, num_tokens: int, seconds: float) -> None:
        """Write a step's numbers and a digest of its rows in order; its time goes to a file of its own."""
        rows = hashlib.blake2b("\0".join(row_keys).encode(), digest_size=8).hexdigest()
        self.logs["metrics"].append({**metrics, "rows": rows})
        timing = {"step": metrics["step"], "seconds": seconds, "tokens_per_second": num_tokens / seconds}
        self.logs["timings"].append(timing)

    def log_evaluation(self, metrics: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Write an evaluation's metrics, sorted by name."""
        values = {name: float(value) for name, value in sorted(metrics.items())}
        self.logs["evaluations"].append({"step": step, "epoch": round(epoch, EPOCH_DIGITS), **values})

    def positions(self) -> dict[str, Any]:
        """Make all files durable; return their positions, content and times apart."""
        positions = {name: log.position() for name, log in self.logs.items()}
        return {"content": {name: positions[name] for name in CONTENT_LOGS}, "times": positions["timings"]}

    def cut_back(self, positions: Mapping[str, Any] | None) -> None:
        """Go back to positions noted earlier; None empties all files.

        Raises:
            IntegrityError: If a content log is not what it was at that moment.
        """
        for name in CONTENT_LOGS:
            self.logs[name].cut_back(positions["content"][name] if positions else None)
        self.logs["timings"].cut_back(positions["times"] if positions else None, checked=False)
