"""A process with everything imported that forks one command line after the other: a start of Python each takes seconds.

Run as ``python forked_commands.py``: for every JSON line ``[arguments, folder, environment]`` on standard input a fork
runs ``tutelage ARGUMENTS`` in ``folder``, its output in ``folder/output.txt``; the answer is its exit status.

The parent imports and forks, nothing else: a fork of a process in which torch computed may hang.
"""

import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path

OUTPUT = "output.txt"
# Imported inside of functions, so that importing our own modules does not load them.
LAZY = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.tokenization_utils_tokenizers",
    "torch.optim",
    "torch._dynamo",
    "safetensors.torch",
    "peft",
    "pandas",
    "scipy.stats",
    "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_agg",
)


def import_everything() -> None:
    """Load our own modules and what they load late."""
    import tutelage

    own = [module.name for module in pkgutil.walk_packages(tutelage.__path__, "tutelage.")]
    for name in (*own, *LAZY):
        if not name.endswith("__main__"):
            importlib.import_module(name)


def run_in_a_fork(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Return the exit status, or minus the signal that ended the process, as :mod:`subprocess` does."""
    child = os.fork()
    if child == 0:  # it ends like any Python process: by SystemExit, or with a traceback and 1
        run_here(arguments, Path(folder), environment)
        raise SystemExit
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_here(arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Call the command line's own entry point; what it prints goes into a file."""
    from tutelage.cli import main

    os.chdir(folder)
    os.environ.update(environment)
    with Path(OUTPUT).open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = ["tutelage", *arguments]
    main()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    import_everything()
    for line in sys.stdin:
        print(run_in_a_fork(*json.loads(line)), file=answers, flush=True)
