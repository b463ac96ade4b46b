"""The first lines of every command, before anything heavy is imported.

In: the process's arguments. Out: its exit status; 75 whenever a signal asked it to stop, in its first moments and in
its last ones too.
"""

import sys

from tutelage.errors import PreemptedError
from tutelage.train.signals import catch_stop_signals, ignore_stop_signals


def main() -> None:
    """Run the command line; never returns."""
    stop = catch_stop_signals()
    try:
        from tutelage.cli.app import main as run_command

        run_command()
    finally:
        ignore_stop_signals()
        if stop.requested:  # whatever ended the command, that is why it ended
            end = sys.exception()
            if not (isinstance(end, SystemExit) and end.code == PreemptedError.exit_code):  # else it has been said
                sys.stderr.write(f"stopped: {stop.name} received; run the same command again to go on\n")
            raise SystemExit(PreemptedError.exit_code)
