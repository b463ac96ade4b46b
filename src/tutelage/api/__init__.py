"""What the public names of ``tutelage`` are made of; see docs/python.md."""
