import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("TUTELAGE_", "HF_"))]:
        monkeypatch.delenv(name)
