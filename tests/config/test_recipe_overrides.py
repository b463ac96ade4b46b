import os
from pathlib import Path

import pytest
from recipe_texts import FROZEN, OWN_FILE, load, problems

from tutelage.config import RecipeError, load_recipe

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"


def write_env(text: str, folder: Path = Path()) -> None:
    (folder / ".env").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.learning_rate=2e-5", lambda r: r.train.learning_rate == 2e-5),
        ("train.fused=false", lambda r: r.train.fused is False),
        ("seeds.report=[1, 2]", lambda r: r.seeds.report == (1, 2)),
        ("signals.1.k=16", lambda r: r.signals[1].k == 16),
        ("methods.KD1.grid.temperature=[1, 2, 8]", lambda r: r.methods["KD1"].grid["temperature"] == (1, 2, 8)),
        ("methods.B0.grid.train.learning_rate=[1, 2, 3]",
         lambda r: r.methods["B0"].grid["train.learning_rate"] == (1, 2, 3)),
        ("methods.B0.train.max_steps=5", lambda r: r.methods["B0"].train.max_steps == 5),
        ("tasks.sentiment.data.limit=5", lambda r: r.tasks["sentiment"].data.limit == 5),
        ("tasks.sentiment.data.limit.full=5", lambda r: r.tasks["sentiment"].data.limit == 5),
        ("teacher.adapt=null", lambda r: r.teacher.adapt is None),
        ("report.question=Why: really, why?", lambda r: r.report.question == "Why: really, why?"),
        ("report.question=a=b", lambda r: r.report.question == "a=b"),
        ('report.question="12"', lambda r: r.report.question == "12"),
        ("students.S2={shrink: {layers: 5}}", lambda r: list(r.students) == ["S1", "S2"]),
    ],
)  # fmt: skip
def test_a_dotted_override_replaces_a_value(override: str, read):
    assert read(load(FROZEN, override).recipe)


def test_names_with_dots_can_be_overridden():
    recipe = load(OWN_FILE.replace("S1:", "S1.5:"), "students.S1.5.shrink.layers=7").recipe

    assert recipe.students["S1.5"].shrink is not None
    assert recipe.students["S1.5"].shrink.layers == 7


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("train.learning_rat=1", "train.learning_rat", "unknown key; did you mean learning_rate?"),
        ("trian.learning_rate=1", "trian", "unknown key; did you mean train?"),
        ("methods.KD2.alpha=0.1", "methods.KD2", "methods has no 'KD2'; did you mean KD1?"),
        ("students.zzz.dtype=fp32", "students.zzz", "students has no 'zzz'; did you mean S1?"),
        ("name.first=x", "name", "is a single value ('reviews') and has no first"),
        ("signals.7.k=16", "signals.7", "is not an index of this list of 2"),
        ("signals.x.k=16", "signals.x", "is not an index of this list of 2"),
        ("nothing", "", "'nothing' is not an override; expected path=value such as train.max_steps=10"),
        ("=5", "", "'=5' is not an override; expected path=value such as train.max_steps=10"),
        ("train..x=5", "", "'train..x=5' is not an override; expected path=value such as train.max_steps=10"),
        ("seeds.report=[1", "seeds.report",
         "'[1' is not valid YAML: [ on line 1 is not closed: ] or a comma is missing before here"),
    ],
)  # fmt: skip
def test_an_override_that_fits_nothing_is_refused(override: str, path: str, message: str):
    assert problems(FROZEN, override) == {f"command line: {path}": message}


def test_later_sources_win_and_every_one_is_recorded():
    write_env("TUTELAGE_TEACHER=from-file\nTUTELAGE_WORKSPACE='env file'\nTUTELAGE_SEEDS=1\n")
    environment = {"TUTELAGE_TEACHER": "from-environment", "TUTELAGE_SEEDS": "42, 123"}
    loaded = load(OWN_FILE, "teacher.model=from-command-line", environment=environment)

    assert loaded.recipe.teacher.model == "from-command-line"
    assert loaded.recipe.workspace == "env file"
    assert loaded.recipe.seeds.report == (42, 123)
    assert loaded.overrides_applied == [
        {"source": ".env TUTELAGE_SEEDS", "path": "seeds.report", "value": [1]},
        {"source": ".env TUTELAGE_TEACHER", "path": "teacher.model", "value": "from-file"},
        {"source": ".env TUTELAGE_WORKSPACE", "path": "workspace", "value": "env file"},
        {"source": "environment TUTELAGE_SEEDS", "path": "seeds.report", "value": [42, 123]},
        {"source": "environment TUTELAGE_TEACHER", "path": "teacher.model", "value": "from-environment"},
        {"source": "command line", "path": "teacher.model", "value": "from-command-line"},
    ]
    assert load(OWN_FILE, environment=environment).recipe.teacher.model == "from-environment"
    assert load(OWN_FILE).recipe.teacher.model == "from-file"


def test_the_mode_of_the_command_line_wins_over_all():
    loaded = load(FROZEN, "mode=full", environment={"TUTELAGE_MODE": "full"}, mode="fast")

    assert loaded.recipe.mode == "fast"
    assert loaded.recipe.tasks["sentiment"].data.limit == 1000
    assert loaded.overrides_applied[-1] == {"source": "command line", "path": "mode", "value": "fast"}


def test_variables_reach_every_place_they_name():
    environment = {"TUTELAGE_DEVICE": "cpu", "TUTELAGE_PRECISION": "fp32", "TUTELAGE_MODE": "fast"}
    recipe = load(OWN_FILE, environment=environment).recipe

    assert (recipe.teacher.device, recipe.train.device) == ("cpu", "cpu")
    assert (recipe.teacher.dtype, recipe.students["S1"].dtype) == ("fp32", "fp32")
    assert recipe.mode == "fast"


TWO_STUDENTS = OWN_FILE.replace("students:\n", "students:\n  small-2: {}\n")


def test_one_variable_names_the_models_of_all_students_in_order():
    recipe = load(TWO_STUDENTS, environment={"TUTELAGE_STUDENTS": "a, b"}).recipe

    assert {name: student.model for name, student in recipe.students.items()} == {"small-2": "a", "S1": "b"}
    shared = load(TWO_STUDENTS, environment={"TUTELAGE_STUDENTS": "a"}).recipe
    assert {student.model for student in shared.students.values()} == {"a"}


def test_a_variable_names_the_model_of_one_student():
    recipe = load(TWO_STUDENTS, environment={"TUTELAGE_STUDENT_SMALL_2": "a"}).recipe

    assert {name: student.model for name, student in recipe.students.items()} == {"small-2": "a", "S1": None}


@pytest.mark.parametrize(
    ("variable", "value", "key", "message"),
    [
        ("TUTELAGE_SEEDS", "1,x", "environment TUTELAGE_SEEDS: ",
         "found '1,x', expected whole numbers with commas between them, such as 42,123"),
        ("TUTELAGE_STUDENTS", "a,b,c", "environment TUTELAGE_STUDENTS: ",
         "names 3 models, but the recipe has 1 students (S1)"),
        ("TUTELAGE_DEVICE", "tpu", "environment TUTELAGE_DEVICE: teacher.device",
         "found 'tpu', expected auto, cpu, mps, cuda or cuda:N"),
    ],
)  # fmt: skip
def test_a_variable_with_a_wrong_value_is_blamed_by_name(variable: str, value: str, key: str, message: str):
    assert problems(OWN_FILE, environment={variable: value})[key] == message


def test_a_variable_that_names_nothing_is_reported():
    write_env("TUTELAGE_TECHER=x\nHF_TOKN=x\nTEACHER_MODEL=x\nUNRELATED=1\n")
    loaded = load(OWN_FILE, environment={"TUTELAGE_STUDENT_S9": "x", "TUTELAGE_ZZZ": "1", "PATH": "/bin"})

    assert loaded.overrides_applied == []
    assert loaded.warnings == (
        "HF_TOKN (.env) names nothing and was ignored; did you mean HF_TOKEN?",
        "TUTELAGE_TECHER (.env) names nothing and was ignored; did you mean TUTELAGE_TEACHER?",
        "TUTELAGE_STUDENT_S9 (environment) names nothing and was ignored; did you mean TUTELAGE_STUDENT_S1?",
        "TUTELAGE_ZZZ (environment) names nothing and was ignored; known are TUTELAGE_TEACHER, TUTELAGE_STUDENTS, "
        "TUTELAGE_DEVICE, TUTELAGE_MODE, TUTELAGE_SEEDS, TUTELAGE_PRECISION, TUTELAGE_WORKSPACE, TUTELAGE_STUDENT_S1",
    )


def test_variables_of_other_parts_and_empty_ones_are_left_alone():
    environment = {"TUTELAGE_CACHE": "/x", "TUTELAGE_CRASH_POINT": "p", "TUTELAGE_TEACHER": "", "HF_TOKEN": TOKEN}
    loaded = load(OWN_FILE, environment=environment)

    assert loaded.warnings == ()
    assert loaded.overrides_applied == []


def test_an_env_file_may_hold_comments_quotes_and_export():
    write_env(
        "# note\n\nexport TUTELAGE_TEACHER = \"a b\"\nTUTELAGE_WORKSPACE=w # note\nTUTELAGE_SEEDS='5'\nbroken line\n"
    )
    loaded = load()

    assert (loaded.recipe.teacher.model, loaded.recipe.workspace, loaded.recipe.seeds.report) == ("a b", "w", (5,))
    assert [warning.split(": ", 1)[1] for warning in loaded.warnings] == ["not of the form KEY=VALUE, ignored"]
    assert "line 6" in loaded.warnings[0]


def test_the_env_file_beside_the_recipe_wins_over_that_of_the_current_folder(tmp_path: Path):
    (tmp_path / "recipes").mkdir()
    path = tmp_path / "recipes" / "r.yaml"
    path.write_text(OWN_FILE, encoding="utf-8")
    write_env("TUTELAGE_TEACHER=here\n")
    assert load_recipe(path, environment={}).recipe.teacher.model == "here"

    write_env("TUTELAGE_TEACHER=beside\n", tmp_path / "recipes")
    assert load_recipe(path, environment={}).recipe.teacher.model == "beside"


def test_a_huge_env_file_is_not_read():
    write_env("TUTELAGE_TEACHER=x\n" + "#" * 2**17)
    loaded = load()

    assert loaded.recipe.teacher.model.startswith("sample:")
    assert "larger than 64 KiB" in loaded.warnings[0]


def test_tokens_and_folders_of_an_env_file_are_passed_on_and_never_recorded(monkeypatch: pytest.MonkeyPatch):
    write_env(f"HF_TOKEN={TOKEN}\nHF_HOME=/from/file\nTUTELAGE_CACHE=/cache\n")
    monkeypatch.setenv("HF_HOME", "/from/environment")
    for name in ("HF_TOKEN", "TUTELAGE_CACHE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    Path("recipe.yaml").write_text(OWN_FILE, encoding="utf-8")
    loaded = load_recipe(Path("recipe.yaml"))

    assert os.environ["HF_TOKEN"] == TOKEN
    assert os.environ["TUTELAGE_CACHE"] == "/cache"
    assert os.environ["HF_HOME"] == "/from/environment"
    assert TOKEN not in repr(loaded)
    assert TOKEN not in str(loaded.resolved())


def test_a_given_environment_leaves_that_of_the_process_alone():
    write_env(f"HF_TOKEN={TOKEN}\n")
    load()

    assert "HF_TOKEN" not in os.environ


@pytest.mark.parametrize("secret", [TOKEN, "a-token-of-another-shape"])
@pytest.mark.parametrize("where", ["value", "comment", "override", "variable", "path"])
def test_a_token_in_a_recipe_is_refused_and_never_shown(secret: str, where: str):
    text, overrides, environment = OWN_FILE, [], {"HF_TOKEN": secret}
    if where == "value":
        text += f"report: {{question: {secret}}}\n"
    elif where == "comment":
        text += f"# {secret}\n"
    elif where == "override":
        overrides = [f"teacher.revision={secret}"]
    elif where == "variable":
        environment["TUTELAGE_TEACHER"] = secret
    else:
        overrides = [f"{secret}=1"]

    with pytest.raises(RecipeError) as caught:
        load(text, *overrides, environment=environment)
    assert secret not in str(caught.value)
    assert secret not in repr([problem.message for problem in caught.value.problems])
    if where != "path":
        assert "looks like an access token" in str(caught.value)
