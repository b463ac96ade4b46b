"""The command line: ``tutelage``."""

from tutelage.cli.app import main

__all__ = ["main"]
