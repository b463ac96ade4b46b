"""Other students, signals and verbalisers through the whole pipeline."""

import json

import pytest
from tiny_experiment import RECIPE, run_tiny, write_experiment

from tutelage.errors import CapabilityError
from tutelage.experiment import list_runs
from tutelage.store import read_manifest


def metrics_of(done, prefix: str) -> dict:
    return next(run.record["metrics"] for run in list_runs(done.root.parent) if run.run_id.startswith(prefix))


def test_a_lora_student_trains_and_is_exported_merged(tmp_path):
    lora = "{shrink: {layers: 2, by: even}, dtype: fp32, adapter: {kind: lora, r: 4, targets: all-linear}}"
    recipe = write_experiment(
        tmp_path, recipe=RECIPE.replace("{shrink: {layers: 2, by: influence}, dtype: fp32}", lora)
    )
    done = run_tiny(recipe, "seeds.report=[1]", until="train")
    files = {path.name for path in (done.at("B0_sentiment_S1_seed1") / "checkpoint").iterdir()}
    assert "model.safetensors" in files
    assert "adapter_config.json" not in files
    assert metrics_of(done, "KD1")["test"]["n"] == 32


def test_verbalisers_of_several_tokens_are_scored_as_sequences(tmp_path):
    words = '{negative: " bad negative", positive: " fine positive"}'
    recipe = write_experiment(tmp_path, recipe=RECIPE.replace('{negative: " negative", positive: " positive"}', words))
    done = run_tiny(recipe, "seeds.report=[1]", until="train")
    assert metrics_of(done, "teacher")["test"]["n"] == 32
    facts = json.loads((done.at("teach/sentiment") / "teach.json").read_text())
    assert "class_scores" not in {column["kind"] for column in facts["columns"]}
    assert metrics_of(done, "PSEUDO")["test"]["n"] == 32


def test_a_method_may_read_the_top_k_signal(tmp_path):
    changed = RECIPE.replace("k: 8", "k: 24").replace("{kind: logit, ", "{kind: logit, signal: topk, ")
    done = run_tiny(write_experiment(tmp_path, recipe=changed), "seeds.report=[1]", until="train")
    assert metrics_of(done, "KD1")["test"]["n"] == 32


def test_a_method_may_read_draws_and_hidden_states_are_kept_beside_them(tmp_path):
    signals = (
        "signals: [{kind: final_hidden}, {kind: sampled, draws: 12, exact: 2, temperatures: [1, 2]}, "
        "{kind: hidden, stride: 2, token_subset_ratio: 0.5, dtype: int8}, {kind: pooled, layers: [0, 3]}]"
    )
    changed = RECIPE.replace("signals: [{kind: final_hidden}, {kind: topk, k: 8, temperatures: [1, 2]}]", signals)
    changed = changed.replace("{kind: logit, ", "{kind: logit, signal: sampled, ")
    done = run_tiny(write_experiment(tmp_path, recipe=changed), "seeds.report=[1]", until="train")
    assert metrics_of(done, "KD1")["test"]["n"] == 32
    facts = json.loads((done.at("teach/sentiment") / "teach.json").read_text())
    assert [column["temperature"] for column in facts["columns"] if column["kind"] == "sampled"] == [1.0, 2.0]
    assert [column["layer"] for column in facts["columns"] if column["kind"] == "hidden"] == [2, 4]
    assert [column["layer"] for column in facts["columns"] if column["kind"] == "pooled"] == [0, 3]
    assert set(facts["stored_positions"]) == set(facts["bytes_per_position"])


def test_an_experiment_reads_its_own_draws_and_not_those_of_another_in_the_same_workspace(tmp_path):
    def learn(folder, seed):
        signals = f"signals: [{{kind: sampled, draws: 6, temperatures: [2], seed: {seed}}}]"
        changed = RECIPE.replace("signals: [{kind: final_hidden}, {kind: topk, k: 8, temperatures: [1, 2]}]", signals)
        changed = changed.replace("{kind: logit, ", "{kind: logit, signal: sampled, ")
        recipe = write_experiment(folder, recipe=changed)
        run_tiny(recipe, f"name=seed{seed}", "seeds.report=[1]", until="train")
        (run,) = (recipe.parent / "runs" / f"seed{seed}").glob("KD1_*_seed1.*")
        return read_manifest(run).files["items.parquet"]["sha256"]

    found = []
    for order in ((0, 1), (1, 0)):
        folder = tmp_path / f"first{order[0]}"
        folder.mkdir()
        found.append({seed: learn(folder, seed) for seed in order})
    assert found[0] == found[1]
    assert found[0][0] != found[0][1], "draws that teach the same would prove nothing"


def test_a_layer_that_the_teacher_lacks_is_an_error_of_the_recipe(tmp_path):
    recipe = write_experiment(
        tmp_path, recipe=RECIPE.replace("{kind: final_hidden},", "{kind: final_hidden}, {kind: pooled, layers: [99]},")
    )
    with pytest.raises(CapabilityError, match="layer 99"):
        run_tiny(recipe, "seeds.report=[1]", until="teach")


def test_packed_rows_give_the_scores_of_padded_ones(tmp_path):
    recipe = write_experiment(tmp_path)
    padded = metrics_of(run_tiny(recipe, "seeds.report=[1]", until="train"), "KD1")
    packed = metrics_of(run_tiny(recipe, "seeds.report=[1]", "train.packed=true", until="train"), "KD1")
    # one epoch in float32: the two ways differ by rounding only
    assert packed["test"]["kl_to_teacher"] == pytest.approx(padded["test"]["kl_to_teacher"], abs=1e-4)


def test_an_interrupted_run_whose_settings_changed_starts_anew(tmp_path):
    recipe = write_experiment(tmp_path)
    done = run_tiny(recipe, "seeds.report=[1]", until="shrink")
    stale = done.root / "work" / "B0_sentiment_S1_seed1-0000" / "checkpoints"
    stale.mkdir(parents=True)
    run_tiny(recipe, "seeds.report=[1]", until="train")
    assert not (done.root / "work").exists()
