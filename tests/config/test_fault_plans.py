"""Hospitals that fail on purpose, as `faults.*` and `timeline.stragglers` ask for."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.fault_plans import lethal, play
from fedcl.config.faults import Faults, Plan
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.errors import ConfigError
from fedcl.hospital import faulty_app
from tests.conftest import ROOT, TINY, read

BEFORE = {"a": np.float32([1, 2]), "n": np.int64(4)}
AFTER = {"a": np.float32([2, 0]), "n": np.int64(5)}


def test_what_is_spoilt_is_spoilt_as_it_says():
    done = {kind: spoil(AFTER, BEFORE, 10.0) for kind, spoil in faulty_app.SPOIL.items()}
    assert done["flip"]["a"].tolist() == [0, 4] and done["scale"]["a"].tolist() == [11, -18]
    assert np.isnan(done["nan"]["a"]).all() and done["shape"]["a"].shape == (2, 1)
    for spoilt in done.values():
        assert spoilt["n"] == 5 and spoilt["a"].dtype == np.float32
    assert AFTER["a"].tolist() == [2, 0]


def test_faults_come_as_often_as_they_are_asked_for_and_follow_from_the_seed():
    plan = Plan(3, 1.0, {"crash": 0.2, "flip": 0.3})
    drawn = [plan.draw("A", round_, 1) for round_ in range(4000)]
    assert drawn == [plan.draw("A", round_, 1) for round_ in range(4000)]
    shares = {kind: drawn.count(kind) / 4000 for kind in ("crash", "flip", None)}
    assert shares == pytest.approx({"crash": 0.2, "flip": 0.3, None: 0.5}, abs=0.03)
    for other in (Plan(4, 1.0, plan.chances).draw("A", 7, 1), plan.draw("B", 7, 1)):
        assert other in ("crash", "flip", None)
    assert [plan.draw("A", r, 2) for r in range(50)] != drawn[:50], "another attempt is another"


def test_chances_are_one_number_or_one_per_site():
    some = Faults(crash=0.1, nan={"A": 0.5})
    assert some.of("A") == {"crash": 0.1, "nan": 0.5} and some.of("B") == {"crash": 0.1}
    assert Faults().of("A") == {}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("faults.crash=1.5", "faults.crash: must be a chance"),
        ("faults.crash=often", "faults.crash: must be a chance"),
        ("faults.nan={A:0.5,X:0.5}", "faults.nan.X: no such site"),
        ("faults.nan={A:-1}", "faults.nan: must be a chance"),
        ("faults.scale=0.6 faults.flip=0.6", "faults: those of site A"),
        ("faults.scale=0.6 timeline.stragglers=0.6", "faults: those of site A"),
        ("faults.crash=1 timeline.centralised=true", "faults: a pool"),
        ("timeline.stragglers=1 timeline.centralised=true", "timeline.stragglers: a pool"),
        ("engine.norm_bound=3 privacy=central_dp", "engine.norm_bound: central_dp"),
        ("faults.burn=0.1", "faults.burn"),
        ("engine.norm_bound=0.5", "engine.norm_bound: must be at least 1"),
    ],
)
def test_chances_that_are_none_are_refused(override: str, said: str):
    with pytest.raises(ConfigError, match=said):
        Config.parse(compose([*TINY, *override.split()]))


def test_a_crash_is_over_when_the_site_is_asked_again(tiny: Callable[..., dict[str, Any]]):
    clean = tiny("strategy=finetune")
    plan = Plan(0, 10.0, {"crash": 0.4})
    once = [
        site
        for site, rounds in {"A": (1, 2), "B": (1, 2), "C": (3, 4), "D": (3, 4)}.items()
        for round_ in rounds
        if plan.draw(site, round_, 1) and not plan.draw(site, round_, 2)
    ]
    crashed = tiny("strategy=finetune", "faults.crash={A:0.4,B:0.4,C:0.4,D:0.4}")
    again = {s: known.get("again", 0) for s, known in crashed["reputation"].items()}
    assert once and all(again[site] for site in once)
    lost = {(failure["site"], failure["round"]) for failure in crashed["failures"]}
    for site, rounds in {"A": (1, 2), "B": (1, 2), "C": (3, 4), "D": (3, 4)}.items():
        for round_ in rounds:
            both = plan.draw(site, round_, 1) and plan.draw(site, round_, 2)
            assert ((site, round_) in lost) == bool(both)
    if not lost:
        assert crashed["weights_sha256"] == clean["weights_sha256"]
    assert crashed["bytes"]["down"] > clean["bytes"]["down"], "what is sent again is counted"


@pytest.mark.parametrize(
    ("fault", "reason", "known"),
    [
        ("faults.hang={B:1}", "before the deadline", "lost"),
        ("timeline.stragglers=0.5", "after the deadline", "lost"),
        ("faults.nan={B:1}", "is not finite", "refused"),
        ("faults.shape={B:1}", "has shape", "refused"),
    ],
)
def test_a_fault_costs_its_site_the_round_and_is_named(
    tiny: Callable[..., dict[str, Any]], fault: str, reason: str, known: str
):
    done = tiny("strategy=finetune", fault, "engine.quorum=0.01", "timeline.stages=[[A,B,C,D]]")
    assert done["failures"] and all(reason in failure["reason"] for failure in done["failures"])
    counts = done["reputation"]
    assert sum(one.get(known, 0) for one in counts.values()) == len(done["failures"])
    for site, one in counts.items():
        assert sum(one.values()) == 2 and "again" not in one, site


def test_an_update_that_goes_too_far_is_left_out(tiny: Callable[..., dict[str, Any]]):
    common = ("strategy=finetune", "timeline.stages=[[A,B,C,D]]", "timeline.rounds=1")
    bound = tiny(*common, "faults.scale={B:1}", "faults.factor=50", "engine.norm_bound=3")
    assert [f["site"] for f in bound["failures"]] == ["B"]
    assert "its change of the weights is" in bound["failures"][0]["reason"]
    without = tiny(*common, "faults.nan={B:1}")
    assert bound["weights_sha256"] == without["weights_sha256"]
    free = tiny(*common, "faults.scale={B:1}", "faults.factor=50")
    assert not free["failures"] and free["weights_sha256"] != bound["weights_sha256"]
    honest = tiny(*common, "engine.norm_bound=3")
    assert not honest["failures"]


@pytest.mark.parametrize("number", range(25))
def test_every_plan_of_faults_ends_well_or_can_be_gone_on_with(number: int, tmp_path: Path):
    """The first of the two hundred that `benchmarks.fault_plans` plays."""
    ends = play(number, tmp_path)
    assert (set(ends[:-1]) <= {"failed"} and ends[-1] == "completed") or lethal(number)


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
import simulate
sys.exit(simulate.main(["run.resume={folder}"]))
"""


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    cli: Callable[..., int], tmp_path: Path
):
    """In a process that may write small files only: a disk that is full for what is large."""
    folder = tmp_path / "run"
    settings = [*TINY, "model.channels=[32,64]", "faults.hang={C:0.9,D:0.9}", f"run.dir={folder}"]
    assert cli(*settings) == 1, "below the quorum in the second stage"
    snapshots = sorted((folder / "checkpoint").glob("round-*/*"))
    before = {path: path.read_bytes() for path in snapshots}
    weights = [path for path in snapshots if path.name == "weights.safetensors"]
    assert weights and weights[0].stat().st_size > 60_000
    code = FULL.format(folder=folder)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be written (File too large)" in done.stderr and "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert sorted((folder / "checkpoint").glob("*round-*/*")) == snapshots, "nothing half written"
    assert read(folder)["status"] == "failed"


def test_a_checkpoint_of_another_configuration_is_refused(
    cli: Callable[..., int], tmp_path: Path, capsys
):
    folder = tmp_path / "run"
    assert cli(*TINY, "faults.hang={C:1,D:1}", f"run.dir={folder}") == 1
    path = folder / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["model"]["channels"] = [4, 16]
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    assert cli(f"run.resume={folder}") == 2
    said = capsys.readouterr().err
    assert "models.unet.channels: the run was begun with [4, 8]" in said
    values["model"]["channels"] = [4, 8]
    values["engine"]["quorum"] = 0.01  # the engine may change
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    assert cli(f"run.resume={folder}") == 1
    assert "0 of 2 sites delivered" in capsys.readouterr().err
