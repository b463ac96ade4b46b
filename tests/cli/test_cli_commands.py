import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

import tutelage
from tutelage.cli import app as commands
from tutelage.cli.app import app
from tutelage.cli.scaffold import DEMO
from tutelage.cli.terminal import printable, table
from tutelage.config import load_recipe
from tutelage.store import new_artifact, write_json

HEAVY = ("torch", "transformers", "datasets", "peft", "matplotlib", "scipy", "pyarrow")


def tutelage_cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def write_run(workspace: Path, experiment: str, run_id: str, accuracy: float) -> None:
    record = {
        "run_id": run_id, "role": "method", "primary_metric": "accuracy", "settings": {"temperature": 2},
        "metrics": {"test": {"accuracy": accuracy}}, "command": "tutelage run r.yaml",
    }  # fmt: skip
    with new_artifact(workspace / experiment / run_id, kind="run") as folder:
        write_json(folder / "run.json", record)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["runs", "--help"],
        ["cache", "report", "--help"],
        ["preview", "--help"],
        ["version"],
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]):
    code = f"""
import sys
sys.argv = ["tutelage", *{arguments!r}]
from tutelage.cli import main
try:
    main()
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert done.stderr.strip().endswith("[]")


def test_help_takes_under_half_a_second():
    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tutelage.cli", "--help"], capture_output=True, check=True)
        return time.perf_counter() - began

    def bare_seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], capture_output=True, check=True)
        return time.perf_counter() - began

    # The best of several: other processes may hold the machine. A busy one starts Python itself slowly.
    assert min(seconds() for _ in range(5)) < 0.5 + max(0.0, min(bare_seconds() for _ in range(3)) - 0.05) * 8


def test_the_version_is_that_of_the_package():
    assert tutelage_cli("version").stdout == f"{tutelage.__version__}\n"


def test_exit_codes_are_in_the_help():
    shown = " ".join(tutelage_cli("--help").stdout.split())

    for code in ("0 ok", "1 user error", "2 usage", "3 integrity", "4 disk", "5 memory", "6 non-finite", "75 saved"):
        assert code in shown


@pytest.mark.parametrize("arguments", [["nope"], ["plan"], ["plan", "a.yaml", "--nope"], ["runs", "nope"]])
def test_wrong_usage_exits_2(arguments: list[str]):
    assert tutelage_cli(*arguments).exit_code == 2


def test_a_new_recipe_is_valid():
    assert tutelage_cli("new", "mine").exit_code == 0
    recipe = load_recipe(Path("mine.yaml"), environment={}).recipe

    assert recipe.name == "mine"
    assert list(recipe.methods) == ["B0", "PSEUDO", "KD1"]


@pytest.mark.parametrize("name", ["1e3", "true", "null", "1.5"])
def test_a_new_recipe_of_any_name_is_valid(name: str):
    assert tutelage_cli("new", name).exit_code == 0
    assert load_recipe(Path(f"{name}.yaml"), environment={}).recipe.name == name


def test_new_never_replaces_a_file():
    Path("mine.yaml").write_text("precious", encoding="utf-8")
    result = tutelage_cli("new", "mine")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: mine.yaml exists")
    assert Path("mine.yaml").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("name", ["../out", "a/b", "..", "x" * 81])
def test_new_refuses_names_that_lead_elsewhere(name: str, tmp_path: Path):
    assert tutelage_cli("new", name).exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_the_demo_recipe_is_valid():
    assert load_recipe(DEMO, environment={}).recipe.name == "demo"


def test_plan_shows_methods_stages_and_overrides():
    tutelage_cli("new", "mine")
    result = tutelage_cli("plan", "mine.yaml", "train.learning_rate=2e-5", "--mode", "full")

    assert result.exit_code == 0, result.output
    assert "mine (full): mine.yaml is valid" in result.stdout
    assert "train.learning_rate = 2e-05  (command line)" in result.stdout
    assert "0.3 cross_entropy + 0.7 forward_kl T=1" in result.stdout
    assert "prepare" in result.stdout
    assert not Path("runs").exists()


def test_plan_counts_trials():
    text = DEMO.read_text(encoding="utf-8").replace("kind: baseline", "kind: baseline, grid: {train.max_steps: [1, 2]}")
    text = text.replace("kind: pseudo", "kind: pseudo, grid: {train.max_steps: [1, 2]}").replace(
        "alpha: 0.3", "grid: {alpha: [0, 0.5]}"
    )
    Path("r.yaml").write_text(text, encoding="utf-8")
    result = tutelage_cli("plan", "r.yaml", "--json")

    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["trials"] == {"B0": 2, "PSEUDO": 2, "KD1": 2}
    assert content["recipe"]["name"] == "demo"
    assert {stage["stage"] for stage in content["stages"]} >= {"prepare", "teach", "train"}


def test_plan_groups_the_stages_of_a_large_experiment():
    tutelage_cli("new", "mine")
    result = tutelage_cli("plan", "mine.yaml", f"seeds.report={list(range(100, 130))}")

    assert "of 9" in result.stdout
    assert len(result.stdout.splitlines()) < 40


def test_a_recipe_that_is_not_valid_exits_1_with_all_problems():
    Path("r.yaml").write_text("name: a/b\ntrian: {}\n", encoding="utf-8")
    result = tutelage_cli("plan", "r.yaml")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: r.yaml has 6 problems:\n  line 1: ")
    assert "did you mean train?" in result.stderr


def test_a_missing_recipe_exits_1_with_one_line():
    result = tutelage_cli("run", "nothing.yaml")

    assert result.exit_code == 1
    assert result.stderr == (
        "error: nothing.yaml is not a file. Expected a recipe; `tutelage new NAME` writes one to start from.\n"
    )


def test_a_variable_that_names_nothing_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUTELAGE_TECHER", "x")
    tutelage_cli("new", "mine")
    result = tutelage_cli("plan", "mine.yaml")

    assert result.exit_code == 0
    assert "warning: TUTELAGE_TECHER (environment) names nothing" in result.stderr


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Record what would run."""
    import tutelage.experiment

    calls = []

    def run_recipe(loaded, **options):
        calls.append({"name": loaded.recipe.name, "mode": loaded.recipe.mode, **options})
        options["show"]("working")
        return SimpleNamespace(table="the table")

    monkeypatch.setattr(tutelage.experiment, "run_recipe", run_recipe)
    monkeypatch.setattr(tutelage.experiment, "footer", lambda outcome: ["the end"])
    return calls


def test_run_hands_everything_over(started: list[dict]):
    tutelage_cli("new", "mine")
    result = tutelage_cli("run", "mine.yaml", "train.max_steps=3", "--mode", "full", "--until", "teach", "--control")

    assert result.stdout.splitlines() == ["working", "the table", "the end"]
    options = started[0]
    assert (options["name"], options["mode"], options["until"], options["only"]) == ("mine", "full", "teach", None)
    assert options["control"] is True
    assert options["command"] == "tutelage run mine.yaml train.max_steps=3 --mode full --until teach --control"


def test_a_command_in_a_report_does_not_say_where_its_author_works(
    started: list[dict], tmp_path_factory: pytest.TempPathFactory
):
    tutelage_cli("new", "mine")
    elsewhere = tmp_path_factory.mktemp("other") / "elsewhere.yaml"
    elsewhere.write_text(Path("mine.yaml").read_text())
    for recipe in (Path("mine.yaml").resolve(), elsewhere):
        assert tutelage_cli("run", str(recipe)).exit_code == 0

    assert [each["command"] for each in started] == ["tutelage run mine.yaml", f"tutelage run {elsewhere}"]


def test_demo_needs_no_file(started: list[dict]):
    result = tutelage_cli("demo", "report.question=Does it work?")

    assert result.exit_code == 0, result.output
    assert started[0]["name"] == "demo"
    assert started[0]["command"] == "tutelage demo 'report.question=Does it work?'"


def test_report_of_a_recipe_runs_that_stage_alone(started: list[dict]):
    tutelage_cli("new", "mine")

    assert tutelage_cli("report", "mine.yaml").exit_code == 0
    assert started[0]["only"] == "report"


def test_report_of_a_folder_builds_its_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    report = pytest.importorskip("tutelage.report")
    seen = {}

    def build_report(folder: Path, **options: str) -> SimpleNamespace:
        seen.update(options, folder=folder)
        return SimpleNamespace(page=folder / "report.html", terminal="the table")

    monkeypatch.setattr(report, "build_report", build_report, raising=False)
    result = tutelage_cli("report", str(tmp_path))

    assert result.stdout.splitlines() == ["the table", f"report: {tmp_path / 'report.html'}"]
    assert seen["command"].startswith("tutelage report ")


def test_an_unknown_stage_is_refused():
    tutelage_cli("new", "mine")
    result = tutelage_cli("run", "mine.yaml", "--only", "teech")

    assert result.exit_code == 1
    assert "There is no stage 'teech'" in result.stderr


def test_ls_lists_recipes_and_experiments():
    tutelage_cli("new", "mine")
    Path("recipes").mkdir()
    Path("recipes/bad.yaml").write_text("a: 1\n", encoding="utf-8")
    Path("recipes/latin.yaml").write_bytes(b"a: \xff\n")
    write_run(Path("runs"), "mine", "KD1_seed42", 0.9)
    (Path("runs") / "cache").mkdir()
    result = tutelage_cli("ls")
    words = {line.split()[0]: line for line in result.stdout.splitlines() if line}

    assert result.exit_code == 0, result.output
    assert "B0, PSEUDO, KD1" in words["mine.yaml"]
    assert "not valid: 6 problems" in words["recipes/bad.yaml"]
    assert "not UTF-8" in words["recipes/latin.yaml"]
    assert words["runs/mine"].split()[1] == "1"
    assert "shared" in words["runs/cache"]


def test_ls_of_an_empty_folder_says_what_to_do():
    assert "tutelage new NAME" in tutelage_cli("ls").stdout
    assert "nothing in runs yet" in tutelage_cli("ls").stdout


def test_runs_are_listed_and_shown():
    write_run(Path("runs"), "mine", "KD1_seed42", 0.9125)
    listed = tutelage_cli("runs", "ls")
    shown = tutelage_cli("runs", "show", "mine/KD1_seed42")

    assert "KD1_seed42  method  0.9125  test accuracy" in listed.stdout
    assert "metrics.test.accuracy: 0.9125" in shown.stdout
    assert "command: tutelage run r.yaml" in shown.stdout
    assert json.loads(tutelage_cli("runs", "ls", "--json").stdout)[0]["run_id"] == "KD1_seed42"
    assert json.loads(tutelage_cli("runs", "show", "KD1_seed42", "--json").stdout)["settings"] == {"temperature": 2}


def test_no_runs_and_an_unknown_run_are_said():
    assert tutelage_cli("runs", "ls").stdout == "no finished runs in runs\n"
    assert tutelage_cli("runs", "show", "x").exit_code == 1


def test_the_schema_comes_in_three_forms():
    assert json.loads(tutelage_cli("schema", "--json").stdout)["title"] == "Recipe"
    assert tutelage_cli("schema", "--markdown").stdout.startswith("# Recipe reference\n")
    assert "train.learning_rate: number above 0" in tutelage_cli("schema").stdout


def test_control_characters_never_reach_the_terminal():
    assert printable("a\x1b[31mb\r\x00\x7f\x9b\u202ec\td\n") == "a[31mbc\td\n"


def test_tables_are_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    table(("name", "n"), [("a\x1b[1m", 1), ("bcd\ne", 22)])

    assert capsys.readouterr().out == "name   n\na[1m   1\nbcd e  22\n"


def test_tables_have_rules_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table(("name", "n"), [("[bold]a[/bold]", 1)])
    shown = capsys.readouterr().out

    assert "[bold]a[/bold]" in shown
    assert "─" in shown


def test_output_that_the_terminal_cannot_encode_is_replaced():
    done = subprocess.run(
        [sys.executable, "-c", "from tutelage.cli.terminal import say; say('a — b')"],
        capture_output=True, check=True,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(commands.__file__).parents[2])},
    )  # fmt: skip

    assert done.stdout == b"a ? b\n"


@pytest.mark.parametrize("module", ["tutelage", "tutelage.cli"])
def test_the_package_is_a_command(module: str):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, f"{tutelage.__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_every_shell(shell: str, monkeypatch: pytest.MonkeyPatch):
    code = "import sys; sys.argv = ['tutelage', '--show-completion']; from tutelage.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "_TUTELAGE_COMPLETE": f"source_{shell}"},
    )  # fmt: skip

    assert "_TUTELAGE_COMPLETE" in done.stdout


def test_a_half_typed_command_is_completed():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['tutelage']; from tutelage.cli import main; main()"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "_TUTELAGE_COMPLETE": "complete_bash", "COMP_WORDS": "tutelage prev", "COMP_CWORD": "1"},
    )  # fmt: skip

    assert done.stdout.split() == ["preview"]


def test_stages_are_named_in_the_help():
    from tutelage.experiment import STAGES

    shown = " ".join(tutelage_cli("run", "--help").stdout.split())

    assert shown.count(f"One of {', '.join(STAGES)}.") == 2


TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.mark.parametrize("arguments", [[TOKEN], [f"my_{TOKEN}"], ["mine", "--data", f"{TOKEN}/rows.jsonl"]])
def test_new_writes_no_token(arguments: list[str], tmp_path: Path):
    result = tutelage_cli("new", *arguments)

    assert result.exit_code == 1
    assert "looks like an access token" in result.stderr
    assert TOKEN not in result.output
    assert list(tmp_path.iterdir()) == []


RUN_IDS = [f"KD1_sentiment_S1_T2_a0.3_seed{number}.c43b29c7" for number in range(3)]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("experiment", ["tiny", "a_rather_long_name_of_an_experiment"])
def test_no_word_of_a_table_is_broken_on_a_terminal(
    width: int, experiment: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [
        (experiment, run, "method", "0.8125", "test accuracy", "train.dtype bfloat16 and other settings")
        for run in RUN_IDS
    ]
    table(("experiment", "run", "role", "score", "metric", "settings that differ"), rows, numbers=("score",))
    shown = capsys.readouterr().out.split()

    for word in [*RUN_IDS, experiment, "bfloat16", "settings", "method"]:
        assert shown.count(word) >= (1 if word in RUN_IDS else 3)


def test_an_empty_column_is_left_out(capsys: pytest.CaptureFixture[str]):
    table(("name", "nothing", "n"), [("a", "", 1), ("b", "", 2)])

    assert capsys.readouterr().out == "name  n\na     1\nb     2\n"
