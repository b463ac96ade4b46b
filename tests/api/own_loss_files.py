"""A recipe with a loss of the user's own, and the file that registers it."""

from pathlib import Path

from tiny_experiment import RECIPE, write_experiment

PLUGIN = "my_loss.py"
OWN_LOSS = (Path(__file__).parents[2] / "examples" / "own_loss" / PLUGIN).read_text(encoding="utf-8")
SMALL = (
    RECIPE.replace("name: tiny", f"name: tiny\nplugins: [{PLUGIN}]")
    .replace("report: [1, 2]", "report: [1]")
    .replace(
        "  PSEUDO: {kind: pseudo}\n",
        "  MINE:\n    signal: final_hidden\n    losses:\n      - {kind: cross_entropy, weight: 0.5}\n"
        "      - {kind: hellinger, weight: 0.5, temperature: 2, power: 1.5}\n",
    )
)


def write_small(folder):
    """The tiny experiment with three arms, one of a loss of its own."""
    (folder / PLUGIN).write_text(OWN_LOSS, encoding="utf-8")
    return write_experiment(folder, recipe=SMALL)
