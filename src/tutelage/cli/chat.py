"""``tutelage chat``: one or several finished students answer what is typed, side by side.

In: names of runs, lines of standard input. Out: each model's answer to each line.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tutelage.cli.terminal import paragraph, say
from tutelage.errors import TutelageError

PROMPT = "> "
START_OVER = "/new"
WELCOME = "A line is a question; /new starts over; Ctrl-D ends."


def chat_with(workspace: Path, names: Sequence[str], *, teacher: bool, max_new_tokens: int) -> None:
    """Answer every line of standard input with every model.

    Raises:
        DataError: If there is no such run; without a terminal also if a line cannot be asked.
        IntegrityError: If a run is damaged.
    """
    from tutelage.experiment.chat import Talk, open_teacher
    from tutelage.experiment.students import find_student, open_student

    folders = [find_student(workspace, name) for name in names]
    students = [open_student(folder) for folder in folders]
    if teacher:
        students.append(open_teacher(folders[0], students[0]))
    talks = [Talk(student) for student in students]
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        paragraph(f"{', '.join(talk.name for talk in talks)}. {WELCOME}")
    for line in _lines(is_terminal):
        if line.strip() == START_OVER:
            talks = [Talk(student) for student in students]
            continue
        for talk in talks:
            heading = f"{talk.name}: " if len(talks) > 1 else ""
            try:
                paragraph(heading + talk.answer(line, max_new_tokens=max_new_tokens))
            except TutelageError as error:
                if not is_terminal:
                    raise
                say(f"{heading}{error}", to_errors=True)


def _lines(is_terminal: bool) -> Iterator[str]:
    if not is_terminal:
        yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401  # arrow keys and a history

    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            say()
            return
        if line.strip():
            yield line
