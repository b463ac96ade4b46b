"""What the system refuses is one line with a documented exit code, whatever the command and whatever the file."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_experiment import recipe_with, run_tiny, write_experiment
from typer.testing import CliRunner, Result

from tutelage.cli.app import app

NOBODY = 65534
ONE_SEED = "seeds.report=[1]"
RUN = "B0_sentiment_S1_seed1"
COMMANDS = {
    "plan": ["plan", "tiny.yaml", ONE_SEED],
    "run": ["run", "tiny.yaml", ONE_SEED],
    "report": ["report", "tiny.yaml", ONE_SEED],
    "runs ls": ["runs", "ls"],
    "runs show": ["runs", "show", RUN],
    "preview": ["preview", "tiny.yaml"],
    "cache report": ["cache", "report", "runs"],
    "cache verify": ["cache", "verify", "tiny.yaml"],
    "ls": ["ls"],
}
DENIED = {  # which commands need a file: the others must work without it
    "tiny.yaml": {"plan", "run", "report", "preview", "cache verify", "ls"},
    ".env": {"plan", "run", "report", "preview", "cache verify", "ls"},
    "reviews.jsonl": {"plan", "run"},
    "model": {"plan", "run"},
    "model/model.safetensors": {"plan", "run"},
    "model/config.json": {"plan", "run"},
    "runs": {"plan", "run", "report", "runs ls", "runs show", "cache report", "ls"},
    "runs/tiny": {"plan", "run", "report", "runs ls", "runs show", "ls"},
    f"runs/tiny/{RUN}.*/run.json": {"report", "runs ls", "runs show"},
    f"runs/tiny/{RUN}.*/MANIFEST.json": {"report", "runs ls", "runs show"},
    "runs/tiny/audit.jsonl": {"run"},
    "runs/tiny/.lock": {"run"},
    "runs/tiny/prepare/sentiment.*/train.jsonl": {"preview"},
}


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    text = recipe_with("  B0: {kind: baseline}\n", "signals: [{kind: final_hidden}]").replace("WORKSPACE", "runs")
    recipe = write_experiment(tmp_path_factory.mktemp("denied"), recipe=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(recipe.parent)
        run_tiny(recipe, ONE_SEED, report=True)
    (recipe.parent / ".env").write_text("NOT_OURS=1\n")
    return recipe.parent


@pytest.fixture
def own_copy(finished_once: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy that belongs to a user without privileges, who may reach it."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "experiment"
        shutil.copytree(finished_once, folder)
        Path(parent).chmod(0o755)
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.lchown(path, NOBODY, NOBODY)
        monkeypatch.chdir(folder)
        yield folder
        for path in (folder, *(Path(root, name) for root, names, _ in os.walk(folder) for name in names)):
            path.chmod(0o755)
        monkeypatch.undo()


@pytest.fixture
def without_privileges() -> Iterator[None]:
    """Permissions mean nothing to root."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(NOBODY)
    yield
    if was_root:
        os.seteuid(0)


def require_one_line(result: Result, *, code: int = 1) -> str:
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    return result.stderr


@pytest.mark.parametrize("target", DENIED)
def test_a_file_without_permission_is_one_line(own_copy: Path, without_privileges: None, target: str):
    next(Path().glob(target)).chmod(0)
    for name, arguments in COMMANDS.items():
        if name in DENIED[target]:
            assert "ermission denied" in require_one_line(cli(*arguments)), name


@pytest.mark.parametrize("target", ["model/config.json", "runs/tiny/audit.jsonl", "runs/tiny/.lock"])
def test_what_a_command_does_not_read_may_be_denied(own_copy: Path, without_privileges: None, target: str):
    Path(target).chmod(0)
    assert cli("runs", "ls").exit_code == cli("runs", "show", RUN).exit_code == 0


def test_a_finished_workspace_that_can_only_be_read_is_planned_listed_and_reported(
    own_copy: Path, without_privileges: None
):
    for path in (Path("runs"), *Path("runs").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    planned = cli(*COMMANDS["plan"])
    assert planned.exit_code == 0, planned.output
    assert "note: runs/tiny cannot be written to" in planned.stdout
    assert RUN in cli("runs", "ls").stdout
    for arguments in (["report", "runs/tiny"], COMMANDS["report"]):
        shown = cli(*arguments)
        assert shown.exit_code == 0, shown.output
        assert "Teacher" in shown.stdout
        assert "--to FOLDER` makes it" in shown.output
    for source, settings in (("runs/tiny", []), ("tiny.yaml", [ONE_SEED])):
        shown = cli("report", source, *settings, "--to", f"of_{source.replace('/', '_')}")
        assert shown.exit_code == 0, shown.output
        assert (Path(f"of_{source.replace('/', '_')}") / "report" / "report.html").is_file()
    assert "permission denied" in require_one_line(cli(*COMMANDS["run"]))


def test_a_report_may_be_written_elsewhere(own_copy: Path, without_privileges: None, tmp_path: Path):
    assert cli("report", "runs/tiny", "--to", "elsewhere").exit_code == 0
    assert Path("elsewhere/report/report.html").is_file()


def test_a_workspace_that_is_a_file_is_refused_by_every_command_that_needs_it(own_copy: Path):
    shutil.rmtree("runs")
    Path("runs").write_text("a file")
    assert "workspace: runs is a file, expected a folder" in require_one_line(cli(*COMMANDS["plan"]))
    for name in ("run", "report", "runs ls", "runs show", "ls"):
        assert "file" in require_one_line(cli(*COMMANDS[name])), name


def test_new_in_a_folder_that_is_read_only_is_one_line(own_copy: Path, without_privileges: None):
    own_copy.chmod(0o555)
    assert require_one_line(cli("new", "mine")) == (
        "error: mine.yaml: permission denied. Ask its owner for access, or use another folder\n"
    )


@pytest.mark.parametrize("recipe", ["x" * 300 + ".yaml", "a\nb.yaml", "tiny.yaml/x.yaml", "runs"])
@pytest.mark.parametrize("command", ["plan", "run", "report"])
def test_an_impossible_recipe_path_is_one_line(command: str, recipe: str):
    Path("tiny.yaml").write_text("name: x\n")
    require_one_line(cli(command, recipe))
