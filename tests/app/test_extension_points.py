"""The extension points as the documentation shows them, from a folder outside of the repository."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedcl.learning.step import Lesson, Step
from fedcl.learning.strategy import Strategy
from tests.conftest import ROOT, read

PAGE = ROOT / "docs" / "reference" / "extension_points.md"
EXAMPLE = re.compile(
    r"`((?:strategies|sites|fedcl/\w+)/\w+\.py)`[^\n]*:\n\n```python\n(.*?)```", re.S
)
COMMAND = re.compile(r"^PYTHONPATH=/my fedcl (simulate .*)$", re.M)
QUICK = ["engine=inprocess", "tracking.enabled=false", "timeline.rounds=1", "learner.steps=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the page calls /my."""
    my = tmp_path_factory.mktemp("my")
    for name, text in EXAMPLE.findall(PAGE.read_text()):
        path = my / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return my


def run(my: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command `fedcl`, as it is installed, from an empty folder."""
    place = my / "empty"
    place.mkdir(exist_ok=True)
    return subprocess.run(
        [Path(sys.executable).with_name("fedcl"), *arguments], cwd=place, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(my)},
    )  # fmt: skip


def test_the_page_shows_every_kind_of_plugin(folder: Path):
    found = {str(path.relative_to(folder).parent) for path in folder.rglob("*.py")}
    assert found == {
        "strategies", "sites", "fedcl/models", "fedcl/aggregations", "fedcl/privacy",
        "fedcl/augment",
        "fedcl/optimisers",
        "fedcl/schedules",
    }  # fmt: skip


def test_the_examples_are_in_style(folder: Path):
    style = ["ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(folder)]
    done = subprocess.run([sys.executable, "-m", *style], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_hook_of_a_strategy_is_told_with_its_arguments():
    told = re.findall(
        r"^\| `(\w+)(?:\(self(?:, )?(.*?)\))? -> (.*?)`(.*?)\|", PAGE.read_text(), re.M
    )
    hooks = {name: hook for name, hook in vars(Strategy).items() if not name.startswith("_")}
    assert hooks.pop("losses") == () and hooks.pop("leaves") == ""
    assert sorted(name for name, *_ in told) == sorted(hooks)
    for name, arguments, result, words in told:
        hook = hooks[name]
        function = hook.fget if isinstance(hook, property) else hook
        assert ("a property" in words) == isinstance(hook, property), name
        _, *parameters = inspect.signature(function).parameters.values()
        said = ", ".join(str(one) for one in parameters)
        assert _plain(arguments) == _plain(said), name
        assert _plain(result) == _plain(str(inspect.signature(function).return_annotation)), name


def _plain(annotations: str) -> str:
    """Return annotations without modules and the signs that a table needs."""
    bare = re.sub(r"<class '(.*?)'>", r"\1", annotations.replace("\\|", "|"))
    return re.sub(r"\b\w+\.(?=\w)", "", bare)


def test_all_that_a_step_has_is_told():
    # How answers are kept, and what the loop asks.
    inner = {"answers", "views", "model_loss"} | {"before", "answers_before", "drift", "drift_loss"}
    there = {name for name in [*vars(Step), *vars(Lesson)] if not name.startswith("_")}
    there |= {*Lesson.__annotations__, *Step.__annotations__}
    table = PAGE.read_text().split("### What a step has")[1].split("###")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.M)
    told = {name for row in rows for name in re.findall(r"`(\w+)(?:\(.*?\))?`", row)}
    assert told == there - inner


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_commands_of_the_page_run(folder: Path, number: int):
    command = COMMAND.findall(PAGE.read_text())[number].split()
    out = folder / f"run{number}"
    done = run(folder, *command, *QUICK, f"run.dir={out}")
    assert done.returncode == 0, done.stderr
    asked = dict(part.split("=") for part in command[1:])
    given = yaml.safe_load((out / "config.yaml").read_text())
    assert {key: given[key]["name"] for key in asked} == asked
    assert all(value is not None for value in read(out)["matrix"][-1])


def test_a_setting_of_a_plugin_without_a_yaml_is_checked(folder: Path):
    done = run(folder, "simulate", "scenario=squares", "scenario.patients=2", *QUICK)
    assert done.returncode == 2 and "scenario.patients: must be at least 3" in done.stderr
    assert not [path for path in (folder / "empty").rglob("*") if path.is_file()]


@pytest.mark.parametrize("place", ["first", "last", "alone"])
def test_a_sweep_finds_plugins_wherever_its_flag_stands(folder: Path, place: str):
    (folder / "conf" / "strategy").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "strategy" / "cautious.yaml").write_text("name: cautious\nweight: 2.0\n")
    overrides = ["strategy=cautious", "timeline.rounds=0"]  # refused once all is understood
    said = {"first": ["-m", *overrides], "last": [*overrides, "-m"], "alone": overrides}
    done = run(folder, "simulate", *said[place], *([] if place == "last" else QUICK[:2]))
    assert "timeline.rounds: must be at least 1" in done.stderr


def test_a_folder_that_happens_to_be_called_so_holds_no_plugins(tmp_path: Path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "stray.yaml").write_text("name: lwf\n")
    done = run(tmp_path, "simulate", "strategy=stray", *QUICK)
    assert done.returncode == 2 and "strategy/stray" in done.stderr


def test_a_path_with_a_quote_is_searched(tmp_path: Path):
    my = tmp_path / "o'brien, [x]"
    (my / "strategies").mkdir(parents=True)
    (my / "conf" / "strategy").mkdir(parents=True)
    (my / "strategies" / "same.py").write_text(EXAMPLE.findall(PAGE.read_text())[0][1])
    (my / "conf" / "strategy" / "same.yaml").write_text("name: same\nweight: -1\n")
    done = run(my, "simulate", "strategy=same", *QUICK)
    assert "strategy.weight: must be at least 0" in done.stderr


def test_a_plugin_that_cannot_be_loaded_is_named_with_its_line(tmp_path: Path):
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "broken.py").write_text("import nosuchthing\n")
    done = run(tmp_path, "simulate", "strategy=broken", *QUICK)
    assert done.returncode == 2
    assert "strategy: broken cannot be loaded: ModuleNotFoundError" in done.stderr
    assert "broken.py, line 1" in done.stderr
