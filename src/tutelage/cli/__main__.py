"""``python -m tutelage.cli``."""

from tutelage.cli.start import main

main()
