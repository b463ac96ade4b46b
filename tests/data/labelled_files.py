import json
from pathlib import Path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(count: int, start: int = 0) -> list[dict]:
    return [
        {"text": f"film number {index}", "label": ("negative", "positive")[index % 2]}
        for index in range(start, start + count)
    ]
