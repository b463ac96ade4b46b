"""Command lines that are sent signals at chosen moments, each in a fork of a process with everything imported.

Run as ``python stopped_commands.py``: for every JSON line ``[folder, moment, signals]`` on standard input a fork runs
the tiny recipe of ``folder``; the answer is its exit status.

A moment is ``forward:N`` (the N-th call of a model's body), ``swallowed:N`` (the same, and the exception that the
signal raises is lost there), or ``failed:N`` (the same, and another error is raised instead). All signals but the first
are sent one by one on the way out: when the line about the stop is written, and after the command has ended.
"""

import atexit
import io
import json
import os
import signal
import sys
from pathlib import Path

from forked_commands import import_everything, run_here


def send(names: list[str]) -> None:
    if names:
        os.kill(os.getpid(), getattr(signal, names.pop(0)))


def stop_at(moment: str, names: list[str]) -> None:
    from transformers.models.llama.modeling_llama import LlamaModel

    kind, _, number = moment.partition(":")
    forward, calls = LlamaModel.forward, iter(range(1, 10**6))

    def forward_with_signal(self, *args, **options):
        if next(calls) == int(number):
            try:
                send(names)
            except BaseException:
                if kind == "forward":
                    raise
            if kind == "failed":
                raise SystemError("not an error that anything expects")
        return forward(self, *args, **options)

    LlamaModel.forward = forward_with_signal


class SignalsWhenStopIsSaid(io.TextIOWrapper):
    def __init__(self, names: list[str]) -> None:
        super().__init__(os.fdopen(2, "wb", buffering=0, closefd=False), line_buffering=True)
        self.names = names

    def write(self, text: str) -> int:
        if "stopped" in text:
            send(self.names)
        return super().write(text)


def run_in_a_fork(folder: str, moment: str, names: list[str]) -> int:
    child = os.fork()
    if child == 0:
        stop_at(moment, names)
        sys.stderr = SignalsWhenStopIsSaid(names)
        atexit.register(send, names)
        run_here(["run", "tiny.yaml", "seeds.report=[1]"], Path(folder), {})
        raise SystemExit
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    import_everything()
    for line in sys.stdin:
        print(run_in_a_fork(*json.loads(line)), file=answers, flush=True)
