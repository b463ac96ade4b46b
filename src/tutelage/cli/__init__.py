"""The command line: ``tutelage``."""

from tutelage.cli.start import main

__all__ = ["main"]
