"""Which runs are repetitions of one method, and which are to be compared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedcl.analysis.runs import Run, differences, group
from fedcl.learning.learner import Learner
from fedcl.registry import SCENARIO
from fedcl.server.results import Results
from fedcl.settings import free
from tests.plugins import OWN, install

BASE: dict[str, Any] = {"strategy.name": "ted", "scenario.name": "folder", "learner.lr": 0.01}
SAME = ("scenario.cache", "scenario.splits", "learner.threads", "engine.workers", "release.licence")


def made(**config: Any) -> Run:
    results: dict[str, Any] = {
        "strategy": "ted",
        "seed": 0,
        "sites": ["A", "B"],
        "arrivals": [["A"], ["B"]],
        "matrix": [[0.9, 0.1], [0.8, 0.9]],
        "cases": {"A": {"p": [0.9, 0.8]}, "B": {"q": [0.1, 0.9]}},
        "metrics": {"avg": 0.85, "bwt": -0.1},
        "bytes": {"down": 3, "up": 1},
        "seconds": {"train": 2.0},
    }
    return Run("somewhere", Results(**results), BASE | config)


def apart(**config: Any) -> bool:
    """Whether a run that differs in some settings is another method, or not to be compared."""
    runs = [made(), made(**config)]
    return bool(differences(runs)) or len(group(runs)[0]) > 1


@pytest.mark.parametrize("key", [*SAME, "scenario.size", "learner.lr", "engine.quorum"])
def test_runs_are_apart_by_what_changes_what_is_learned(key: str):
    assert apart(**{key: "another"}) == (key not in SAME)


@pytest.mark.parametrize("name", SCENARIO.available())
def test_no_setting_that_changes_nothing_of_what_is_learned_keeps_runs_apart(name: str):
    one = made(**{"scenario.name": name})
    for key in (*free(SCENARIO.find(name), "scenario"), *free(Learner, "learner")):
        runs = [one, made(**{"scenario.name": name, key: "another"})]
        assert differences(runs) == [] and len(group(runs)[0]) == 1, key


@pytest.mark.parametrize("name", ["elsewhere", ["a"], None, 3])
def test_a_scenario_that_is_not_here_is_compared_all_the_same(name: Any):
    runs = [made(**{"scenario.name": name, "scenario.cache": how}) for how in ("memory", "disk")]
    assert differences(runs) == [] and len(group(runs)[0]) == 1


def test_of_a_plugin_of_ones_own_counts_what_changes_what_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install(tmp_path, "strategy", "own", OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for key, methods in {
        "strategy.chunk": 1, "strategy.part.chunk": 1, "strategy.part.width": 2, "strategy.prior": 2
    }.items():  # fmt: skip
        runs = [made(**{"strategy.name": "own", key: value}) for value in (1, 2)]
        assert len(group(runs)[0]) == methods, key


def test_that_runs_are_of_two_scenarios_is_said_first():
    other = made(**{"scenario.name": "phantom", "learner.clip": 1, "scenario.channels": 3})
    assert differences([made(), other])[0].startswith('scenario.name: "folder"')


def test_a_plugin_that_cannot_be_loaded_stops_no_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install(tmp_path, "scenario", "broken", "import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    runs = [made(**{"scenario.name": "broken", "learner.threads": n}) for n in (1, 2)]
    assert differences(runs) == []
    install(tmp_path, "strategy", "faulty", "import not_there_at_all\n")
    runs = [made(**{"strategy.name": "faulty", "strategy.kd": n}) for n in (1, 2)]
    runs = [replace(run, results=replace(run.results, strategy="faulty")) for run in runs]
    assert [one.name for one in group(runs)[0]] == ["faulty kd=1", "faulty kd=2"]
