"""``tutelage cache ...`` and ``tutelage preview`` on the tiny experiment, as a user types them."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tiny_experiment import RECIPE, at, run_tiny, write_experiment
from typer.testing import CliRunner, Result

from tutelage.cli.app import app


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of an experiment whose teacher has spoken; tests that change it take a copy."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("taught")
    recipe = write_experiment(folder, recipe=RECIPE.replace("WORKSPACE", "runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_tiny(recipe, until="shrink")
    return recipe


@pytest.fixture
def copied(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(taught.parent, folder)
    monkeypatch.chdir(folder)
    return folder / taught.name


@pytest.fixture
def at_home(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(taught.parent)


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def damage(folder: Path, number: int = 0) -> Path:
    path = sorted(folder.rglob("final_hidden*/*/payload.bin"))[number]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path.parent


def test_the_report_is_the_same_from_the_recipe_and_from_its_folders(at_home: None):
    from_recipe = cli("cache", "report", "tiny.yaml")
    assert from_recipe.exit_code == 0, from_recipe.output
    assert cli("cache", "report", "runs/cache").stdout == from_recipe.stdout
    assert cli("cache", "report", "runs").stdout == from_recipe.stdout
    assert "final_hidden-e32-fp32" in from_recipe.stdout
    assert "covered mass of topk-k8" in from_recipe.stdout
    assert "forecast for 1,000,000,000 tokens" in from_recipe.stdout


def test_the_report_as_json_adds_up(at_home: None):
    content = json.loads(cli("cache", "report", "tiny.yaml", "--tokens", "1e6", "--json").stdout)
    by_kind = {column["kind"]: column for column in content["columns"]}
    assert set(by_kind) == {"final_hidden", "topk", "class_scores"}
    hidden = by_kind["final_hidden"]
    assert hidden["parts"]["values"] == 128
    assert hidden["num_positions"] == 2 * hidden["num_rows"] == 320
    assert hidden["bytes_per_position"] * 320 == pytest.approx(hidden["num_bytes"])
    assert hidden["forecast"]["every_token"] == pytest.approx(1e6 * hidden["bytes_per_position"])
    assert content["forecast_tokens"] == 1e6
    assert all(size > 32 * 30 * 4 for size in content["head_bytes"].values())


def test_the_frontier_is_a_table_a_figure_and_a_sentence(copied: Path):
    result = cli("cache", "report", "tiny.yaml", "--frontier", "--positions", "16", "--max-angle", "0.5")
    assert result.exit_code == 0, result.output
    assert "* final_hidden fp32" in result.stdout
    assert "  topk 8 packed" in result.stdout
    assert "8 signals on 8 rows, 16 positions" in result.stdout  # of 8, 16, 50, 128 only two are below the 30 ids
    assert "Store `{kind: final_hidden, dtype: fp32}`: 128.0 bytes per position" in result.stdout
    folder = copied.parent / "runs" / "tiny" / "frontier"
    stored = json.loads((folder / "frontier.json").read_text())
    assert stored["recommended"] == "final_hidden fp32"
    assert {point["kind"] for point in stored["points"]} == {"final_hidden", "topk", "sampled"}
    assert (folder / "frontier.svg").read_text().lstrip().startswith("<?xml")
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_the_frontier_as_json_holds_nothing_else(copied: Path):
    result = cli("cache", "report", "tiny.yaml", "--frontier", "--positions", "4", "--temperature", "2", "--json")
    content = json.loads(result.stdout)
    assert content["facts"]["temperature"] == 2.0
    assert content["facts"]["positions"] == 4
    assert content["facts"]["student"] == "S1 (2 layers, by influence)"
    dense = content["points"][0]
    assert (dense["signal"], dense["kl_nats"]) == ("final_hidden fp32", pytest.approx(0.0, abs=1e-12))
    assert dense["step"]["degrees"] < 1e-3


def test_the_frontier_reads_no_more_rows_than_it_is_told(copied: Path):
    result = cli("cache", "report", "tiny.yaml", "--frontier", "--rows", "3", "--json")
    facts = json.loads(result.stdout)["facts"]
    assert (facts["rows"], facts["positions"]) == (3, 6)
    assert 3 * 8 < facts["tokens"] < 3 * 20


def test_a_frontier_without_final_hidden_names_the_signal(tmp_path: Path):
    recipe = RECIPE.replace("{kind: final_hidden}, ", "").replace(
        "KD1: {kind: logit,", "KD1: {kind: logit, signal: topk,"
    )
    path = write_experiment(tmp_path, recipe=recipe)
    run_tiny(path, until="teach")
    result = cli("cache", "report", path, "--frontier")
    assert result.exit_code == 1
    assert "compares with `{kind: final_hidden}`. Add it to `signals`" in result.stderr


def test_a_frontier_needs_a_recipe(at_home: None):
    result = cli("cache", "report", "runs/cache", "--frontier")
    assert result.exit_code == 1
    assert "--frontier needs the recipe" in result.stderr


def test_a_row_is_found_by_item_key_number_and_prefix(at_home: None):
    by_number = json.loads(cli("cache", "inspect", "tiny.yaml", "5", "--json").stdout)
    assert by_number["number"] == 5
    assert json.loads(cli("cache", "inspect", "tiny.yaml", by_number["item_key"], "--json").stdout) == by_number
    prefix = by_number["row_key"][:12].upper()
    assert json.loads(cli("cache", "inspect", "tiny.yaml", prefix, "--json").stdout)["row_key"] == by_number["row_key"]
    result = cli("cache", "inspect", "tiny.yaml", "no such row")
    assert result.exit_code == 1
    assert "a number below 160, or at least 4 hex digits" in result.stderr


def test_an_inspected_row_shows_targets_and_the_teachers_entries(at_home: None):
    record = json.loads(cli("cache", "inspect", "tiny.yaml", "0", "--top", "3", "--json").stdout)
    targets = [token["text"] for token in record["tokens"] if token["target"]]
    assert targets in (["negative", "<end>"], ["positive", "<end>"])
    assert record["column"] == "final_hidden-e32-fp32"
    assert [position["next"] for position in record["positions"]] == targets
    for position in record["positions"]:
        assert len(position["entries"]) == 3
        assert sum(entry["prob"] for entry in position["entries"]) + position["rest"] == pytest.approx(1.0, abs=1e-5)
    shown = cli("cache", "inspect", "tiny.yaml", "0").stdout
    assert f"⟦{' '.join(targets)}⟧" in shown
    assert "teacher's most likely" in shown


def test_an_inspected_row_is_coloured_on_a_terminal(at_home: None, monkeypatch: pytest.MonkeyPatch):
    from tutelage.cli import preview
    from tutelage.config import load_recipe

    shown: list[str] = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "write", shown.append)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    preview.show_row(load_recipe(Path("tiny.yaml"), environment={}), "0", top=2, as_json=False)
    assert "\x1b[1;30;43m" in "".join(shown)  # targets: bold black on yellow


def test_verify_of_a_good_cache_exits_0(at_home: None):
    result = cli("cache", "verify", "tiny.yaml")
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(": intact")


def test_verify_lists_what_is_damaged_and_exits_3(copied: Path):
    folder = damage(copied.parent / "runs")
    for source in ("tiny.yaml", "runs/cache"):
        result = cli("cache", "verify", source)
        assert result.exit_code == 3
        assert f"damaged: {folder.relative_to(copied.parent)}" in result.stdout
        assert result.stderr.startswith("error: 1 damaged in ")
    assert json.loads(cli("cache", "verify", "runs", "--json").stdout)["damaged"] == [
        str(folder.relative_to(copied.parent))
    ]


def test_repair_teaches_again_what_was_damaged_and_nothing_else(copied: Path):
    runs = copied.parent / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("payload.bin")}
    stage = (at(runs / "tiny", "teach/sentiment") / "MANIFEST.json").read_text()
    folder = damage(runs)
    result = cli("cache", "verify", "--repair", "tiny.yaml")
    assert result.exit_code == 0, result.output
    assert "repaired" in result.stdout
    assert cli("cache", "verify", "tiny.yaml").exit_code == 0
    after = {path: path.stat().st_mtime_ns for path in runs.rglob("payload.bin")}
    assert [path.parent for path in before if after[path] != before[path]] == [folder]
    again = json.loads((at(runs / "tiny", "teach/sentiment") / "MANIFEST.json").read_text())
    assert again["content_digest"] == json.loads(stage)["content_digest"]  # what was trained on it stays finished


def test_repair_of_a_folder_deletes_what_is_damaged(copied: Path):
    folder = damage(copied.parent / "runs")
    result = cli("cache", "verify", "--repair", "runs/cache")
    assert result.exit_code == 0, result.output
    assert "deleted: " in result.stdout
    assert not folder.exists()
    assert cli("cache", "verify", "runs/cache").exit_code == 0


def test_an_interrupted_repair_is_completed_by_the_next_run(copied: Path, monkeypatch: pytest.MonkeyPatch):
    from tutelage.experiment import repair

    folder = damage(copied.parent / "runs")

    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repair, "run_recipe", stop)
    assert cli("cache", "verify", "--repair", "tiny.yaml").exit_code == 130
    assert not folder.exists()
    assert "was not taught" in cli("cache", "verify", "tiny.yaml").stderr
    run_tiny(copied, until="teach")
    assert cli("cache", "verify", "tiny.yaml").exit_code == 0
    assert folder.exists()


def test_rows_that_are_gone_are_found_and_taught_again(copied: Path):
    """A shard that was deleted leaves no trace in the cache: only the recipe knows of its rows."""
    gone = sorted(copied.parent.rglob("topk*/*/payload.bin"))[0].parent
    shutil.rmtree(gone)
    result = cli("cache", "verify", "tiny.yaml")
    assert result.exit_code == 3
    assert "missing, of task sentiment: " in result.stdout
    assert "`--repair` teaches them again" in result.stderr
    missing = json.loads(cli("cache", "verify", "tiny.yaml", "--json").stdout)["missing"]
    assert list(missing) == ["sentiment"]
    assert cli("cache", "verify", "--repair", "tiny.yaml").exit_code == 0
    assert gone.is_dir()
    assert cli("cache", "verify", "tiny.yaml").exit_code == 0


def test_a_head_that_is_gone_is_found_and_copied_again(copied: Path):
    (head,) = (copied.parent / "runs" / "cache").glob("*/head")
    shutil.rmtree(head)
    result = cli("cache", "verify", "tiny.yaml")
    assert result.exit_code == 3
    assert "is missing or damaged" in result.stdout
    assert cli("cache", "verify", "--repair", "tiny.yaml").exit_code == 0
    assert head.is_dir()


def test_a_cache_that_is_gone_is_no_empty_report(copied: Path):
    shutil.rmtree(copied.parent / "runs" / "cache")
    for arguments in (["report", "tiny.yaml"], ["inspect", "tiny.yaml", "0"], ["report", "tiny.yaml", "--frontier"]):
        result = cli("cache", *arguments)
        assert result.exit_code == 3
        assert "`tutelage cache verify --repair RECIPE`" in result.stderr


def test_an_export_into_a_file_is_refused(copied: Path):
    (copied.parent / "file").write_text("")
    for target in ("file", "file/below"):
        result = cli("cache", "export", "tiny.yaml", "--to", target)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: --to {target} cannot be a folder: ")


def test_export_writes_parquet_once(at_home: None, tmp_path: Path):
    target = tmp_path / "out"
    result = cli("cache", "export", "tiny.yaml", "--to", target)
    assert result.exit_code == 0, result.output
    files = {path.name.split("-")[0]: path for path in target.glob("*.parquet")}
    assert set(files) == {"final_hidden", "topk", "class_scores"}
    table = pq.read_table(files["final_hidden"])
    assert len(table) == 320
    assert {len(values) for values in table["hidden"].to_pylist()} == {32}
    again = cli("cache", "export", "tiny.yaml", "--to", target)
    assert again.exit_code == 1
    assert "exists and was left alone" in again.stderr
    assert cli("cache", "export", "tiny.yaml").exit_code == 2


def test_export_of_a_damaged_cache_exits_3(copied: Path, tmp_path: Path):
    damage(copied.parent / "runs")
    result = cli("cache", "export", "runs/cache", "--to", tmp_path / "out")
    assert result.exit_code == 3
    assert "is damaged" in result.stderr


def test_a_folder_takes_no_overrides_and_a_foreign_folder_is_named(at_home: None, tmp_path: Path):
    assert "takes no PATH=VALUE" in cli("cache", "report", "runs", "name=x").stderr
    (tmp_path / "cache" / "0123456789abcdef" / "topk-k4").mkdir(parents=True)
    for command in (["report"], ["verify"], ["export", "--to", str(tmp_path / "out")]):
        for folder in (tmp_path, tmp_path / "cache"):
            result = cli("cache", command[0], folder, *command[1:])
            assert result.exit_code == 1
            assert "holds no teacher cache" in result.stderr
    missing = cli("cache", "report", "no_such_place")
    assert missing.exit_code == 1
    assert "no_such_place does not exist. Expected a recipe, a workspace" in missing.stderr


@pytest.mark.parametrize("name", ["no such row", "160", "ab", "ffffffff", ""])
def test_an_unknown_row_says_how_rows_are_named(at_home: None, name: str):
    result = cli("cache", "inspect", "tiny.yaml", name)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: No row is called {name!r}. Expected an item key such as ")


@pytest.mark.parametrize("command", ["report", "inspect", "verify", "export"])
def test_every_command_explains_itself(command: str):
    result = cli("cache", command, "--help")
    assert result.exit_code == 0
    assert "..." not in cli("cache", "--help").stdout.replace("[ARGS]...", "")  # no first sentence is cut short
    assert "3 integrity" in cli("cache", "--help").stdout


def test_preview_shows_three_rows_by_seed(at_home: None):
    first, again, other = (
        json.loads(cli("preview", "tiny.yaml", "--json", "--seed", seed).stdout) for seed in (0, 0, 1)
    )
    assert len(first) == 3
    assert first == again != other
    assert all(row["positions"] for row in first)
    assert len(json.loads(cli("preview", "tiny.yaml", "--json", "--rows", 7).stdout)) == 7


def test_preview_prepares_rows_and_says_how_to_ask_the_teacher(tmp_path: Path):
    recipe = write_experiment(tmp_path)
    result = cli("preview", recipe, "--rows", "1")
    assert result.exit_code == 0, result.output
    assert "prepare sentiment" in result.stdout
    assert "⟦" in result.stdout
    assert f"`tutelage run {recipe} --until teach` asks it" in result.stdout


def test_a_recipe_that_was_not_taught_says_what_to_run(tmp_path: Path):
    recipe = write_experiment(tmp_path)
    for arguments in (["report"], ["verify"], ["export", "--to", "x"]):
        result = cli("cache", arguments[0], recipe, *arguments[1:])
        assert result.exit_code == 1
        assert "was not taught" in result.stderr
    assert "are not prepared" in cli("cache", "inspect", recipe, "0").stderr


def test_a_changed_teacher_does_not_show_the_old_one(at_home: None):
    result = cli("cache", "report", "tiny.yaml", "teacher.adapt.max_steps=9")
    assert result.exit_code == 1
    assert "was not taught under the settings of" in result.stderr


@pytest.mark.parametrize(
    ("signal", "entry"),
    [
        ("final_hidden bf16", {"kind": "final_hidden", "dtype": "bf16"}),
        ("topk 64 packed", {"kind": "topk", "k": 64, "temperatures": (2.0,), "dtype": "q8"}),
        ("topk 8 raw", {"kind": "topk", "k": 8, "temperatures": (2.0,), "dtype": "fp16"}),
        ("sampled 25", {"kind": "sampled", "draws": 25, "temperatures": (2.0,)}),
    ],
)
def test_the_recommendation_is_an_entry_that_a_recipe_takes(signal: str, entry: dict, tmp_path: Path):
    from tutelage.config import load_recipe
    from tutelage.evaluate.frontier import Angle, FrontierPoint
    from tutelage.experiment.frontier import recipe_entry

    angle = Angle(0.0, 1.0)
    point = FrontierPoint(signal, entry["kind"], "", 1.0, {}, None, angle, angle)
    recipe = write_experiment(tmp_path)
    override = f"signals=[{{kind: final_hidden}}, {recipe_entry(point, {'temperature': 2.0})}]"
    if entry["kind"] == "final_hidden":
        override = f"signals=[{recipe_entry(point, {'temperature': 2.0})}]"
    loaded = load_recipe(recipe, [override], environment={}).recipe.signals[-1].model_dump()
    assert {name: loaded[name] for name in entry} == entry
