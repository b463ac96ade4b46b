from pathlib import Path

import pytest
import torch
from tiny_experiment import write_experiment
from transformers import LlamaForCausalLM

from tutelage.config import load_recipe
from tutelage.errors import NumericsError
from tutelage.experiment.checklist import show_checklist
from tutelage.experiment.identity import Folders
from tutelage.experiment.stage import Context


def test_a_model_whose_logits_overflow_is_a_numeric_failure_and_no_trait_of_the_architecture(tmp_path: Path):
    loaded = load_recipe(write_experiment(tmp_path), environment={})
    context = Context(loaded, Folders(tmp_path / "runs", "tiny"), lambda line: None, "tutelage run")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.inf)

    with pytest.raises(NumericsError, match="own logits are not finite in float32") as refused:
        show_checklist(context, "teacher", model, None)
    assert "architecture" not in str(refused.value)
