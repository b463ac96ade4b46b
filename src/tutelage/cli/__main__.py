"""``python -m tutelage.cli``."""

from tutelage.cli.app import main

main()
