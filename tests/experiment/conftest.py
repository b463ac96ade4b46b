import pytest
import torch
from tiny_experiment import Finished, recipe_with, run_tiny, write_experiment


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tiny experiment, run once with its control; tests only read it."""
    torch.set_num_threads(1)
    return run_tiny(write_experiment(tmp_path_factory.mktemp("tiny")), report=True, control=True)


STATE_SIGNALS = (
    "signals: [{kind: final_hidden}, {kind: hidden, layers: [1, 2, 4], token_subset_ratio: 0.5}, "
    "{kind: pooled, layers: [1, 4]}]"
)
STATE_METHODS = """\
  KD3: {kind: feature, lambda: 0.5}
  KD3logit: {kind: feature, lambda: 2, loss: mse, layer_map: shrink, logit: {temperature: 2, alpha: 0.25}}
  REL: {kind: relation, lambda_dist: 2, lambda_angle: 0.25, group_rows: 4, pairs_per_sample: 2}
"""


@pytest.fixture(scope="session")
def state_methods(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Methods that compare hidden states, from one cache, each once and once permuted; tests only read it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("states")
    recipe = write_experiment(folder, recipe=recipe_with(STATE_METHODS, STATE_SIGNALS))
    return run_tiny(recipe, "seeds.report=[1]", until="train", control=True)
