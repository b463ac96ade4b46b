"""Distil a large language model into a small one, and prove that it worked."""

__version__ = "0.1.0"
