"""Real teacher output to measure on: the sample model reading the standard library's own documentation.

In: how many rows. Out: teacher rows of prose, the teacher's hidden states there, a student that is not trained.
"""

import hashlib
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from tutelage.models.head import final_hidden, find_head
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.shrink import choose_layers, drop_layers
from tutelage.models.source import resolve_model
from tutelage.teacher.batches import padded_batch
from tutelage.types import Batch, OutputHead, TeacherRow

MODEL = "sample:smollm2-135m-instruct"
MODULES = """
argparse asyncio base64 bisect calendar cmd codecs collections configparser contextlib copy csv ctypes
dataclasses datetime decimal difflib doctest email enum fnmatch fractions ftplib functools gettext glob gzip
heapq hmac html.parser http.client http.server imaplib inspect io ipaddress itertools json locale logging lzma
mailbox math mimetypes multiprocessing numbers operator optparse os pathlib pdb pickle platform plistlib
poplib pprint profile pstats queue random re sched secrets selectors shelve shlex shutil signal smtplib socket
socketserver sqlite3 ssl statistics string struct subprocess tarfile tempfile textwrap threading timeit
tokenize trace traceback typing unittest urllib.parse urllib.request uuid venv warnings wave weakref
xml.dom.minidom xml.etree.ElementTree zipfile
"""
ROW_TOKENS = 512
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Prose:
    """Rows of prose and what the teacher's body made of them."""

    rows: list[TeacherRow]  # every position but the last of each row is wanted
    batches: list[Batch]  # one per row, padded by nothing
    hidden_NE: torch.Tensor  # bfloat16: the final hidden states at the wanted positions
    head: OutputHead
    text_sha256: str

    @property
    def num_positions(self) -> int:
        """N, over all rows."""
        return self.hidden_NE.shape[0]


def documentation() -> str:
    """Join the docstrings of the listed modules and of their public members, each once."""
    texts: dict[str, None] = {}
    for name in MODULES.split():
        module = importlib.import_module(name)
        members = [member for key, member in sorted(vars(module).items()) if not key.startswith("_")]
        for part in (module, *members):
            inner = (
                [value for key, value in sorted(vars(part).items()) if key[0] != "_"] if inspect.isclass(part) else []
            )
            for each in (part, *inner):
                is_documented = inspect.ismodule(each) or inspect.isclass(each) or inspect.isroutine(each)
                if is_documented and (text := inspect.getdoc(each)):
                    texts[text] = None
    return "\n\n".join(texts)


def prose_rows(num_rows: int, *, skip: int = 0) -> tuple[list[TeacherRow], str]:
    """Cut the documentation into rows of 512 tokens.

    Returns:
        The rows from number ``skip`` on, and the SHA-256 of the whole text, since it depends on the Python version.
    """
    text = documentation()
    tokenizer = load_tokenizer(resolve_model(MODEL, base_folder=Path()))
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    starts = range(skip * ROW_TOKENS, (skip + num_rows) * ROW_TOKENS, ROW_TOKENS)
    if starts[-1] + ROW_TOKENS > len(ids):
        raise SystemExit(f"The documentation has {len(ids):,} tokens; {num_rows} rows after {skip} need more.")
    wanted = np.arange(ROW_TOKENS - 1)
    rows = [TeacherRow(ids[start : start + ROW_TOKENS], wanted) for start in starts]
    return rows, hashlib.sha256(text.encode()).hexdigest()


def load_sample(dtype: torch.dtype) -> PreTrainedModel:
    """Load the sample model on the CPU, in evaluation mode."""
    return load_model(resolve_model(MODEL, base_folder=Path()), dtype=dtype, device=CPU)


def read_prose(model: PreTrainedModel, num_rows: int, *, skip: int = 0) -> Prose:
    """Run the teacher's body over rows of prose; its head is left to the benchmarks."""
    rows, digest = prose_rows(num_rows, skip=skip)
    batches = [padded_batch([row], device=CPU) for row in rows]
    with torch.no_grad():
        hidden_NE = torch.cat([final_hidden(model, batch) for batch in batches])
        head = find_head(model)
    return Prose(rows, batches, hidden_NE, OutputHead(head.weight_VD.detach(), scale=head.scale), digest)


def untrained_student(num_layers: int) -> PreTrainedModel:
    """Keep evenly spaced layers of the sample, float32: close enough to the teacher to have a direction to go."""
    student = load_sample(torch.float32)
    drop_layers(student, choose_layers(len(student.model.layers), num_layers, by="even"))
    return student
