"""Causal language models: where they come from, how they are loaded, adapted, shrunk and proven.

In: a model's name in a recipe. Out: a plain ``transformers`` model, its tokenizer, its ``OutputHead``.
"""
