import pytest
from pydantic import ValidationError
from recipe_texts import FROZEN, OWN_FILE, load, problems

from tutelage.config import Recipe, RecipeError, check_capabilities, make_recipe
from tutelage.errors import CapabilityError, ConfigError


def test_an_unknown_key_is_refused_with_line_and_nearest_match():
    with pytest.raises(RecipeError) as caught:
        load(OWN_FILE + "train: {learning_rat: 1e-4}\n")

    assert str(caught.value) == "recipe.yaml, line 14: train.learning_rat: unknown key; did you mean learning_rate?"
    assert isinstance(caught.value, ConfigError)


def test_an_unknown_key_that_is_near_nothing_lists_the_known_ones():
    assert problems(OWN_FILE, "evaluate.zzz=1")["command line: evaluate.zzz"] == (
        "unknown key; expected one of select_by, token_budget, fidelity_rows, generated_rows, permuted_teacher"
    )


def test_a_duplicate_key_is_refused_with_both_lines():
    assert problems(OWN_FILE + "name: again\n") == {"line 14: name": "duplicate key; first on line 1"}


def test_all_errors_are_listed_at_once_each_with_its_line():
    text = (
        FROZEN.replace("selection: 7", "selection: 42")
        .replace("by: influence", "by: influense")
        .replace("temperature: [1", "temprature: [1")
        .replace("warmup_ratio: 0.1", "warmup_ratio: 2, fused: yes, eval_steps: each, max_steps: 0")
        .replace("S1:", "S/1:")
        .replace("kind: lora", "kind: lorra")
    )
    found = problems(text + "name: twice\n")

    assert found == {
        "line 3: seeds.selection": "42 is also a report seed; a run would be reported on the seed that chose it",
        "line 9: teacher.adapt.adapter.kind": "found 'lorra'; did you mean lora?",
        "line 12: students.S/1": "cannot be a file name; expected 1 to 80 characters out of A-Z a-z 0-9 . _ - , "
        "not dots only, not ending like NAME.tmp.1.2",
        "line 12: students.S/1.shrink.by": "found 'influense'; did you mean influence?",
        "line 28: methods.KD1.grid.temprature": "is not a setting of this method; did you mean temperature?",
        "line 30: train.warmup_ratio": "found 2, expected a number up to 1",
        "line 30: train.fused": "found 'yes', expected true or false",
        "line 30: train.eval_steps": "found 'each', expected 'epoch' or a whole number",
        "line 30: train.max_steps": "found 0, expected a number from 1",
        "line 33: name": "duplicate key; first on line 1",
    }


def test_a_list_of_errors_fits_80_columns():
    with pytest.raises(RecipeError) as caught:
        load(
            OWN_FILE, "a_very_long_key_that_nothing_knows=1", "methods.KD1.signal=topk", "teacher.dtype=half", "train=3"
        )

    lines = str(caught.value).splitlines()
    assert lines[0] == "recipe.yaml has 3 problems:"
    assert max(map(len, lines)) <= 80


def test_problems_of_sections_that_do_not_fit_together_come_after_those_of_each():
    assert list(problems(OWN_FILE, "methods.KD1.signal=topk", "train.max_steps=x")) == ["command line: train.max_steps"]


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("train.max_steps=true", "train.max_steps", "found true, expected a whole number"),
        ("train.max_steps=1.5", "train.max_steps", "found 1.5, expected a whole number"),
        ("train.learning_rate='1e-4'", "train.learning_rate", "found '1e-4', expected a number"),
        ("train.learning_rate=.inf", "train.learning_rate", "found inf, expected a finite number"),
        ("train.learning_rate=0", "train.learning_rate", "found 0, expected a number above 0"),
        ("train.adam_beta1=1", "train.adam_beta1", "found 1, expected a number below 1"),
        ("train.eval_steps=null", "train.eval_steps", "found null, expected 'epoch' or a whole number"),
        ("train=5", "train", "found 5, expected a mapping"),
        ("name=12", "name", "found 12, expected text (in quotes)"),
        ("workspace=''", "workspace", "found '', expected text that is not empty"),
        ("students={}", "students", "found an empty mapping, expected at least 1 of them"),
        ("methods=[]", "methods", "found an empty list, expected a mapping"),
        ("seeds.report=[]", "seeds.report", "found an empty list, expected at least 1 of them"),
        ("seeds.report=42", "seeds.report", "found 42, expected a list"),
        ("seeds.report=[1, 1]", "seeds.report", "a seed occurs twice in [1, 1]"),
        ("seeds.report=[1, x]", "seeds.report.1", "found 'x', expected a whole number"),
        ("mode=quick", "mode", "found 'quick'; expected one of fast, full"),
        ("teacher.device=tpu", "teacher.device", "found 'tpu', expected auto, cpu, mps, cuda or cuda:N"),
        ("students.S1.adapter={r: 8}", "students.S1.adapter", "has no kind; expected kind: none, lora"),
        ("students.S1.adapter={kind: lorra}", "students.S1.adapter", "kind 'lorra' is not known; did you mean lora?"),
        (
            "students.S1.adapter={kind: lora, targets: []}",
            "students.S1.adapter.targets",
            "empty; name at least one layer, or write all-linear",
        ),
        ("students.S1.shrink={}", "students.S1.shrink.layers", "missing; expected: How many layers are kept."),
        ("students.S1.shrink.layers={fast: 1}", "students.S1.shrink.layers",
         "found a mapping of 1, expected a whole number; a value per mode has exactly the keys fast and full"),
        ("train={fast: {}}", "train.fast", "unknown key; a value per mode needs both keys: {fast: .., full: ..}"),
        ("bench={runs: 3}", "bench", "this section is not available yet; remove it"),
        ("launch={slurm: 3}", "launch", "this section is not available yet; remove it"),
        ("teacher.served={url: u}", "teacher.served",
         "a served teacher is not available yet; name a hub id, a folder, a .gguf file or a sample"),
        ("teacher.model={served: {url: u}}", "teacher.model",
         "a served teacher is not available yet; name a hub id, a folder, a .gguf file or a sample"),
        (
            "tasks.urgency.kind=summary",
            "tasks.urgency",
            "kind 'summary' is not known; expected one of classification, reading, text",
        ),
        ("tasks.urgency.template=Answer:", "tasks.urgency.template",
         "names the text 0 times; expected {body} or {text} exactly once"),
        ("tasks.urgency.template=a {body", "tasks.urgency.template",
         "not a template (expected '}' before end of string); write {{ or }} for a brace"),
        ("tasks.urgency.template=a {body.__class__}", "tasks.urgency.template",
         "the field 'body.__class__' is not the plain name of a column; expected for example {text}"),
        ("tasks.urgency.verbalisers.high=' low'", "tasks.urgency.verbalisers.high",
         "' low' is also the answer of class 'low'; each class needs its own"),
        ("tasks.urgency.verbalisers.high=' '", "tasks.urgency.verbalisers.high",
         "' ' is blank; write the word that the model is to answer"),
        ("tasks.urgency.data.labels.0=lo", "tasks.urgency.data.labels.0",
         "'lo' is not a class; expected one of low, high"),
        ("tasks.urgency.data.labels.1=low", "tasks.urgency.data.labels",
         "no value stands for high; every class needs one"),
        ("methods.KD1.alpha=1", "methods.KD1.alpha", "found 1, expected a number below 1"),
        ("methods.KD1.kind=logits", "methods.KD1", "kind 'logits' is not known; did you mean logit?"),
        ("methods.KD1={}", "methods.KD1",
         "has no kind; expected kind: baseline, pseudo, logit, feature, relation, sequence, custom"),
        ("methods.KD1.alfa=0.1", "methods.KD1.alfa", "unknown key; did you mean alpha?"),
        ("methods.KD1={signal: final_hidden, losses: [{kind: forward_kl, temprature: 1}]}",
         "methods.KD1.losses.0.temprature", "unknown key; did you mean temperature?"),
        ("students.S1.adapter={kind: lora, dropuot: 0}", "students.S1.adapter.dropuot",
         "unknown key; did you mean dropout?"),
        ("students.S1.shrink.layer=3", "students.S1.shrink.layer", "unknown key; did you mean layers?"),
        ("signals=[{kind: topk, K: 5}]", "signals.0.K", "unknown key; expected one of kind, k, temperatures, dtype"),
        ("signals=[{kind: topk, dtype: q5}]", "signals.0.dtype",
         "q5 is not stored any more; write q8, which is more exact in fewer bytes"),
        ("signals=[{k: 5}]", "signals.0",
         "has no kind; expected kind: final_hidden, topk, sampled, hidden, pooled, sequences"),
        ("students.S1.revision=main", "students.S1.revision",
         "belongs to a `model`, and none is given here; the teacher has its own revision"),
        ("methods.KD1=logit", "methods.KD1", "found 'logit', expected a mapping"),
        ("methods=5", "methods", "found 5, expected a mapping"),
        ("methods.KD1.train={device: cpu}", "methods.KD1.train.device",
         "is one for all methods; set it under the recipe's own `train`"),
        ("methods.KD1={losses: [{kind: forward_kl}]}", "methods.KD1.signal",
         "missing, but forward_kl reads the teacher; name one of `signals`"),
        ("methods.KD1={losses: [{kind: cross_entropy}], signal: final_hidden}", "methods.KD1.signal",
         "'final_hidden' is read by no loss here; remove it or add one of forward_kl, reverse_kl, jsd, skew_kl, "
         "skew_reverse_kl, total_variation"),
        ("methods.KD1={losses: [{kind: cross_entropy}, {kind: cross_entropy}]}", "methods.KD1.losses",
         "a kind occurs twice (cross_entropy, cross_entropy); join its terms into one"),
        ("methods.KD1={losses: [{kind: l2}]}", "methods.KD1.losses.0",
         "kind 'l2' is not known; expected one of cross_entropy, forward_kl, reverse_kl, jsd, skew_kl, "
         "skew_reverse_kl, total_variation; a loss of your own is registered by a file under `plugins`"),
        ("methods.KD1.signal=final_hiden", "methods.KD1.signal",
         "'final_hiden' is not in `signals`; did you mean final_hidden?"),
        ("methods.untouched={kind: baseline}", "methods.untouched",
         "'untouched' is the name of an arm that is made automatically; choose another"),
        ("methods.KD1-permuted={kind: pseudo}", "methods.KD1-permuted",
         "'KD1-permuted' is the name of an arm that is made automatically; choose another"),
        ("students.s1={}", "students.s1",
         "differs from 'S1' only by upper and lower case; some disks cannot tell them apart"),
        ("teacher.adapt={task: urgenzy}", "teacher.adapt.task", "'urgenzy' is not in `tasks`; did you mean urgency?"),
        ("signals=[{kind: final_hidden}, {kind: final_hidden, dtype: fp32}]", "signals.1.kind",
         "'final_hidden' is listed twice; one entry is enough"),
    ],
)  # fmt: skip
def test_one_wrong_setting_gives_one_problem_at_its_path(override: str, path: str, message: str):
    assert problems(OWN_FILE, override) == {f"command line: {path}": message}


def with_grids(b0: str, kd1: str) -> str:
    return OWN_FILE.replace("kind: baseline", f"kind: baseline, grid: {b0}").replace("alpha: 0.3", f"grid: {kd1}")


def test_unequal_numbers_of_trials_are_refused_with_the_counts():
    found = problems(with_grids("{train.learning_rate: [1e-4, 2e-4]}", "{alpha: [0.1, 0.3, 0.5]}"))

    assert found == {
        "line 13: methods.KD1.grid": "3 trials, but B0 has 2; give every method a grid of the same size, or none to any"
    }


def test_a_method_without_a_grid_beside_one_with_a_grid_is_refused():
    found = problems(OWN_FILE.replace("kind: baseline", "kind: baseline, grid: {train.max_steps: [1, 2]}"))

    assert found == {
        "line 13: methods.KD1": "1 trial, but B0 has 2; give every method a grid of the same size, or none to any"
    }


@pytest.mark.parametrize(
    ("grid", "path", "message"),
    [
        ("{train.learning_rat: [1]}", "train.learning_rat",
         "is not a setting of this method; did you mean train.learning_rate?"),
        ("{zzz: [1]}", "zzz",
         "is not a setting of this method; expected one of alpha, beta, divergence, signal, skew, temperature, "),
        ("{alpha: [0.1, 2]}", "alpha.1", "2 does not fit alpha: input should be less than 1"),
        ("{train.max_steps: [1, x]}", "train.max_steps.1",
         "'x' does not fit train.max_steps: input should be a valid integer"),
        ("{alpha: [0.1, 0.1]}", "alpha.1", "0.1 is listed twice; a trial would run twice"),
        ("{alpha: []}", "alpha", "found an empty list, expected at least 1 of them"),
        ("{alpha: 0.1}", "alpha", "found 0.1, expected a list"),
        ("{kind: [logit]}", "kind", "is not a setting of this method; "),
        ("{train.device: [cpu]}", "train.device", "is not a setting of this method; "),
        ("{signal: [topk]}", "signal", "'topk' is not in `signals`; expected one of final_hidden"),
    ],
)  # fmt: skip
def test_a_grid_names_settings_of_its_method_and_values_that_fit(grid: str, path: str, message: str):
    found = problems(with_grids("{train.max_steps: [1]}", grid))

    assert list(found) == [f"line 13: methods.KD1.grid.{path}"]
    assert found[f"line 13: methods.KD1.grid.{path}"].startswith(message)


def test_a_grid_may_name_arguments_of_the_schedule():
    grid = "{train.lr_scheduler_kwargs.min_lr: [0, 1e-6]}"

    assert load(with_grids(grid, grid)).recipe.methods["KD1"].grid


TOPK = "signals=[{kind: topk, k: 16, temperatures: [2]}]"


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["methods.KD1.signal=topk", "methods.KD1.temperature=4"], "temperature"),
        (["methods.KD1={signal: topk, losses: [{kind: forward_kl, temperature: 4}]}"], "losses"),
    ],
)
def test_a_temperature_without_log_z_is_refused(overrides: list[str], path: str):
    assert problems(OWN_FILE, TOPK, *overrides) == {
        f"command line: methods.KD1.{path}": "temperature 4 has no log_z in the topk signal, which keeps it for 2; "
        "add it to the signal's temperatures, or read final_hidden"
    }


def test_a_temperature_of_a_grid_without_log_z_is_refused():
    text = with_grids("{train.max_steps: [1, 2, 3]}", "{signal: [topk], temperature: [1, 2, 4]}")

    assert list(problems(text, TOPK)) == ["line 13: methods.KD1.grid.temperature"]


@pytest.mark.parametrize("temperature", [1, 2])
def test_a_temperature_that_topk_keeps_is_accepted(temperature: int):
    recipe = load(OWN_FILE, TOPK, "methods.KD1.signal=topk", f"methods.KD1.temperature={temperature}").recipe

    check_capabilities(recipe)


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("signals=[{kind: topk}, {kind: topk, k: 8}]", "signals.1.kind",
         "'topk' is listed twice; one entry with the larger k serves both"),
        ("signals=[{kind: final_hidden}, {kind: hidden}]", "signals.1", "expected either `layers` or `stride`"),
        ("signals=[{kind: final_hidden}, {kind: pooled, layers: [1], stride: 4}]", "signals.1",
         "expected either `layers` or `stride`"),
        ("signals=[{kind: final_hidden}, {kind: hidden, layers: [1, 2, 1]}]", "signals.1.layers",
         "a layer occurs twice in [1, 2, 1]"),
        ("signals=[{kind: final_hidden}, {kind: hidden, layers: []}]", "signals.1.layers",
         "found an empty list, expected at least 1 of them"),
        ("signals=[{kind: final_hidden}, {kind: hidden, layers: [-1]}]", "signals.1.layers.0",
         "found -1, expected a number from 0"),
        ("signals=[{kind: final_hidden}, {kind: hidden, stride: 4, token_subset_ratio: 0}]",
         "signals.1.token_subset_ratio", "found 0, expected a number above 0"),
        ("signals=[{kind: final_hidden}, {kind: hidden, stride: 4, dtype: int4}]", "signals.1.dtype",
         "found 'int4'; did you mean int8?"),
        ("signals=[{kind: final_hidden}, {kind: sampled, draws: 0}]", "signals.1.draws",
         "found 0, expected a number from 1"),
        ("signals=[{kind: final_hidden}, {kind: sampled}, {kind: sampled}]", "signals.2.kind",
         "'sampled' is listed twice; one entry takes several temperatures"),
    ],
)  # fmt: skip
def test_a_signal_that_cannot_be_is_refused(override: str, path: str, message: str):
    found = problems(OWN_FILE, "methods.KD1.signal=topk" if "topk" in override else "seeds.selection=7", override)
    assert {where: text for where, text in found.items() if "signals" in where} == {f"command line: {path}": message}


SAMPLED = "signals=[{kind: sampled, temperatures: [2, 4]}]"


def test_a_method_reads_draws_at_their_own_temperatures_only():
    for temperature in (2, 4):
        check_capabilities(
            load(OWN_FILE, SAMPLED, "methods.KD1.signal=sampled", f"methods.KD1.temperature={temperature}").recipe
        )
    assert problems(OWN_FILE, SAMPLED, "methods.KD1.signal=sampled", "methods.KD1.temperature=1") == {
        "command line: methods.KD1.temperature": "temperature 1 has no draws in the sampled signal, which has them for "
        "2, 4; add it to the signal's temperatures, or read final_hidden"
    }


@pytest.mark.parametrize("kind", ["hidden", "pooled"])
def test_a_token_loss_on_hidden_states_is_refused(kind: str):
    signals = f"signals=[{{kind: final_hidden}}, {{kind: {kind}, stride: 2}}]"
    assert problems(OWN_FILE, signals, f"methods.KD1.signal={kind}") == {
        "command line: methods.KD1.signal": f"{kind!r} holds hidden states, which forward_kl does not read; name "
        "final_hidden, topk or sampled"
    }


def test_what_the_losses_do_not_define_is_refused_with_the_method(monkeypatch: pytest.MonkeyPatch):
    from tutelage.losses import capabilities

    def refuse(**asked: object) -> None:
        raise CapabilityError(f"{asked['divergence']} is not defined")

    monkeypatch.setattr(capabilities, "check_capability", refuse)
    with pytest.raises(CapabilityError, match=r"methods\.B0: cross_entropy is not defined"):
        check_capabilities(load().recipe)


def test_plain_values_without_a_file_are_refused_too():
    with pytest.raises(RecipeError, match="teacher: missing; expected: The model that is distilled"):
        make_recipe({name: value for name, value in load().raw.items() if name != "teacher"})


@pytest.mark.parametrize("values", [None, [], "text", 5])
def test_something_that_is_no_mapping_is_refused(values: object):
    with pytest.raises(ValidationError):
        Recipe.model_validate(values)


def test_a_long_value_is_shown_shortened():
    message = problems(OWN_FILE, f"train.max_steps={'x' * 500}")["command line: train.max_steps"]

    assert len(message) < 100
