"""Several things that are wrong with a task's data, each with the setting to change.

In: keys below a task's section, and messages. Out: one error.
"""

from collections.abc import Sequence

from tutelage.errors import DataError

Problem = tuple[tuple[str, ...], str]  # a path below `data` of the task's section, and what is wrong there


class DataProblemsError(DataError):
    """What is wrong with the data of one task, all at once; ``plan`` shows each at its key."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Join the messages; ``problems`` keeps them apart."""
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{'.'.join(('data', *key))}: {message}" for key, message in problems))
