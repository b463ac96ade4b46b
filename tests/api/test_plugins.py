"""Losses of a user's own: registered, refused, called, and part of the keys of the runs that use them."""

import shutil

import pytest
import torch
from own_loss_files import OWN_LOSS, PLUGIN, write_small
from typer.testing import CliRunner

import tutelage
from tutelage import plugins
from tutelage.build import loss_terms
from tutelage.cli.app import app
from tutelage.config import RecipeError, load_recipe, make_recipe
from tutelage.errors import CapabilityError, ConfigError, TrainingError
from tutelage.losses import head_losses
from tutelage.plugins import find_own_loss
from tutelage.types import DenseLogits, LossTerm, OutputHead

NAME = "methods.MINE.losses.1"


def hellinger(student_logits, teacher_logits, *, temperature: float, power: float = 2.0):
    q, p = (torch.softmax(logits / temperature, -1) for logits in (student_logits, teacher_logits))
    return tutelage.LossSum(temperature**2 * (q.sqrt() - p.sqrt()).abs().pow(power).sum(), len(q))


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the workspace of what is only planned
    return write_small(tmp_path)


def test_a_plugin_runs_only_where_the_caller_names_it(files):
    with pytest.raises(RecipeError, match=r"line 2: plugins.0: 'my_loss.py' is Python that would run .* `--plugin my"):
        load_recipe(files)
    assert find_own_loss("hellinger") is None
    for named in (PLUGIN, str(files.parent / PLUGIN)):
        loaded = load_recipe(files, plugins=[named])
        (gold, own) = loaded.recipe.methods["MINE"].losses
        assert (gold.kind, own.kind, own.weight, own.temperature, own.power) == (
            "cross_entropy", "hellinger", 0.5, 2, 1.5,
        )  # fmt: skip
    with pytest.raises(ConfigError, match=r"--plugin other.py is not among the `plugins` of the recipe, which lists"):
        load_recipe(files, plugins=["other.py"])


def test_the_command_line_refuses_and_allows_it(files):
    refused = CliRunner().invoke(app, ["plan", str(files)])
    assert refused.exit_code != 0
    assert "--plugin my_loss.py" in refused.output
    allowed = CliRunner().invoke(app, ["plan", str(files), "--plugin", PLUGIN])
    assert allowed.exit_code == 0
    assert "0.5 cross_entropy + 0.5 hellinger T=2" in allowed.output


def test_what_only_lists_a_recipe_does_not_run_its_plugins(files):
    (files.parent / PLUGIN).write_text("raise SystemExit('ran')")
    loaded = load_recipe(files, plugins=None)
    assert loaded.recipe.methods["MINE"].losses[1].kind == "hellinger"
    assert len(tutelage.results(files.parent)) == 0


def test_a_recipe_with_an_own_loss_loads_again_from_what_was_resolved(files):
    loaded = load_recipe(files, plugins=[PLUGIN])
    resolved = loaded.resolved()
    assert resolved["methods"]["MINE"]["losses"][1]["power"] == 1.5
    assert make_recipe(resolved).methods["MINE"] == loaded.recipe.methods["MINE"]
    plugins._LOSSES.clear()  # as in another process, which was not given the plugin
    assert make_recipe(resolved).methods["MINE"].losses[1].model_dump() == resolved["methods"]["MINE"]["losses"][1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"{NAME}.powr=2", "losses.1.powr: unknown key; did you mean power"),
        (f"{NAME}.power=much", "losses.1.power: found 'much', expected a number"),
        (f"{NAME}.temperature=0", "losses.1.temperature: found 0, expected a number above 0"),
        (f"{NAME}.kind=helinger", "kind 'helinger' is not known; did you mean hellinger.; a loss of your own is reg"),
        ("methods.MINE.grid={losses.1.pwr: [1, 2]}", "is not a setting of this method"),
    ],
)
def test_mistakes_in_its_settings_are_said_as_those_of_any_other_loss(files, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(files, [override], plugins=[PLUGIN])


def test_its_settings_can_be_searched(files):
    loaded = load_recipe(files, ["methods.MINE.grid={losses.1.power: [1.0, 3.0]}"] + [
        f"methods.{name}.grid={{train.learning_rate: [1e-3, 2e-3]}}" for name in ("B0", "KD1")
    ], plugins=[PLUGIN])  # fmt: skip
    assert loaded.recipe.methods["MINE"].grid == {"losses.1.power": (1.0, 3.0)}


def test_a_changed_file_makes_other_runs_and_the_old_one_the_old_again(recipe, tmp_path):
    path, *_ = recipe
    path = shutil.copytree(path.parent, tmp_path / "copy") / path.name
    workspace = f"workspace={path.parent / 'runs'}"

    def unfinished():
        stages = tutelage.plan(path, workspace, plugins=[PLUGIN]).stages
        return [stage["subject"] for stage in stages if stage["state"] != "finished"]

    first = tutelage.plan(path, workspace, plugins=[PLUGIN])  # a copy elsewhere: the same bytes, the same key
    assert first.is_finished
    (path.parent / PLUGIN).write_text(OWN_LOSS.replace("temperature**2 * ", "1.0 * "))
    assert unfinished() == ["MINE_sentiment_S1_seed1", "tiny"]  # the run and the report
    (path.parent / PLUGIN).write_text(OWN_LOSS)
    assert unfinished() == []


def test_a_run_trained_with_it(recipe):
    _, _, finished, _ = recipe
    (run,) = [each for each in finished.results if each.record["method"] == "MINE"]
    steps = [line for line in (run.folder / "metrics.jsonl").read_text().splitlines() if "hellinger" in line]
    assert len(steps) == run.record["steps"]
    assert run.record["gold_labels"] > 0


@pytest.mark.parametrize("fused", [True, False])
def test_it_is_summed_and_weighted_with_the_packages_own_losses(fused):
    tutelage.register_loss("hellinger")(hellinger)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 3, generator=draw, requires_grad=True)
    head, teacher = OutputHead(torch.randn(7, 3, generator=draw)), torch.randn(4, 9, generator=draw)
    labels = torch.tensor([0, 1, 2, 3])
    terms = [LossTerm("cross_entropy", 0.3), LossTerm("hellinger", 0.7, 2.0, settings=(("power", 1.5),))]
    losses = head_losses(hidden, head, labels, DenseLogits(teacher), terms=terms, fused=fused)
    own = hellinger(head.logits(hidden), teacher[:, :7], temperature=2.0, power=1.5).total
    gold = torch.nn.functional.cross_entropy(head.logits(hidden), labels, reduction="sum")
    torch.testing.assert_close(losses.objective.total, 0.3 * gold + 0.7 * own)
    torch.testing.assert_close(losses.parts["hellinger"].total, own.detach())
    losses.objective.total.backward()
    assert hidden.grad.abs().sum() > 0


def with_total(loss, total):
    object.__setattr__(loss, "total", total)  # past the test run's own checks of shapes
    return loss


WRONG = {
    "a mean": (lambda s, t: tutelage.LossSum((s - t).abs().mean(), 1), "counts 1 positions of 4"),
    "a tensor": (lambda s, t: (s - t).abs().sum(), "returned a Tensor; expected tutelage.LossSum"),
    "one per position": (lambda s, t: with_total(tutelage.LossSum(s.sum(), 4), s.sum(1)), r"total of shape \[4\]"),
    "no gradient": (lambda s, t: tutelage.LossSum((s.detach() - t).abs().sum(), 4), "carries no gradient"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_what_comes_back_is_checked(mistake):
    compute, message = WRONG[mistake]

    @tutelage.register_loss("wrong")
    def wrong(student_logits, teacher_logits, *, temperature: float):
        return compute(student_logits, teacher_logits)

    logits = torch.randn(4, 7, requires_grad=True)
    with pytest.raises(TrainingError, match=message):
        head_losses(
            logits, OutputHead(torch.eye(7)), torch.zeros(4).long(), DenseLogits(torch.randn(4, 7)),
            terms=[LossTerm("wrong", 1.0)], fused=True,
        )  # fmt: skip


def test_a_signal_that_it_cannot_read_is_refused_before_anything_runs(files):
    loaded = load_recipe(files, ["methods.MINE.signal=topk"], plugins=[PLUGIN])
    with pytest.raises(
        CapabilityError, match="hellinger cannot read signal topk from source cached; name final_hidden"
    ):
        tutelage.plan(files, "methods.MINE.signal=topk", plugins=[PLUGIN])
    assert loss_terms(loaded.recipe.methods["MINE"])[1].settings == (("power", 1.5),)


FILES = {
    "a syntax error": ("x = (", r"my_loss.py, line 1: SyntaxError"),
    "an import that fails": ("import torch\nimport nothing_of_the_kind\n", "line 2: ModuleNotFoundError: No module"),
    "an exception": ("\n\n1 / 0\n", "my_loss.py, line 3: ZeroDivisionError"),
    "nothing": ("x = 1\n", "registers nothing; expected a function with @tutelage.register_loss"),
    "a name of the package": (OWN_LOSS.replace('"hellinger"', '"jsd"'), "registers 'jsd', which is a loss of the pack"),
    "a bad name": (OWN_LOSS.replace('"hellinger"', '"my loss"'), "'my loss' has no valid name"),
    "no temperature": (OWN_LOSS.replace("temperature: float, ", ""), "needs a keyword-only `temperature`"),
    "no type": (OWN_LOSS.replace("power: float", "power"), "the setting 'power' of the loss 'hellinger' has no type"),
    "a setting that all have": (OWN_LOSS.replace("power", "weight"), "cannot have a setting 'weight'"),
    "one argument": (OWN_LOSS.replace("student_logits, teacher_logits, *", "student_logits, *"), "takes 1 positional"),
}


@pytest.mark.parametrize("mistake", FILES)
def test_a_file_that_cannot_be_used_says_where_and_why(files, mistake):
    text, message = FILES[mistake]
    (files.parent / PLUGIN).write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(files, plugins=[PLUGIN])


def test_a_file_that_is_not_there_is_named(files):
    (files.parent / PLUGIN).unlink()
    with pytest.raises(RecipeError, match=r"plugins.0: 'my_loss.py' is no Python file"):
        load_recipe(files, plugins=[PLUGIN])


def test_a_name_that_two_files_register_is_refused(files):
    load_recipe(files, plugins=[PLUGIN])
    with pytest.raises(ConfigError, match=r"'hellinger' is registered by .*my_loss.py and by .*test_plugins.py"):
        tutelage.register_loss("hellinger")(hellinger)


def test_what_runs_is_what_was_hashed_though_bytecode_of_the_same_second_lies_beside_it(files):
    load_recipe(files, plugins=[PLUGIN])
    first = find_own_loss("hellinger").source.digest
    path = files.parent / PLUGIN
    path.write_text(OWN_LOSS.replace("power: float = 2.0", "power: float = 3.0"))  # as many bytes
    load_recipe(files, plugins=[PLUGIN])
    changed = find_own_loss("hellinger")
    assert changed.source.digest != first
    assert changed.settings["power"].default == 3.0
    assert not (path.parent / "__pycache__").exists()


def test_an_installed_package_offers_a_loss_that_is_imported_when_a_recipe_names_it(files, tmp_path, monkeypatch):
    package = tmp_path / "site"
    (package / "tutelage_hellinger-1.0.dist-info").mkdir(parents=True)
    (package / "tutelage_hellinger.py").write_text(OWN_LOSS)
    facts = package / "tutelage_hellinger-1.0.dist-info"
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tutelage-hellinger\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[tutelage.losses]\nhellinger = tutelage_hellinger:hellinger\n")
    monkeypatch.syspath_prepend(package)
    plugins._entry_points.cache_clear()
    text = files.read_text().replace(f"plugins: [{PLUGIN}]\n", "")
    files.write_text(text)
    try:
        own = load_recipe(files).recipe.methods["MINE"].losses[1]
        assert own.power == 1.5
        assert find_own_loss("hellinger").source.name == str(package / "tutelage_hellinger.py")
    finally:
        plugins._entry_points.cache_clear()
