"""Whole runs: golden values, and what must not change them."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcl import arrays
from fedcl.registry import STRATEGY
from fedcl.wire import records
from tests.conftest import NEEDS, ROOT, TINY, base, read, start

GOLDEN = Path(__file__).with_name("golden.json")
ONE_WORKER = ("engine=ray", "engine.workers=1")
TRAINED = [
    "model.channels=[8,16,16]",
    "learner.steps=12",
    "learner.lr=0.008",
]  # long enough to tell


VOLUMES = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "scenario=phantom3d",
    "scenario.size=24", "scenario.patients=9", "timeline.stages=[[A],[C]]", "timeline.rounds=1",
    "model.channels=[8,16]", "learner.steps=40", "learner.batch_size=2", "learner.lr=0.01",
]  # fmt: skip
IN_3D = "in 3-D"


def golden_overrides(run: str) -> list[str]:
    """Return the overrides of a run called STRATEGY or STRATEGY in 3-D."""
    strategy, _, volumes = run.partition(" ")
    own = [*NEEDS.get(strategy, []), f"strategy={strategy}"]
    if volumes:
        return [*VOLUMES, *own]
    trained = TRAINED if base(strategy) is TINY else []
    return [*base(strategy), *trained, *own]


def golden_runs() -> list[str]:
    """Return every strategy, and those of images a second time, in 3-D."""
    every = STRATEGY.available()
    return [*every, *(f"{one} {IN_3D}" for one in every if base(one) is TINY)]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            run, marks=pytest.mark.exhaustive if run.endswith(IN_3D) and run[:4] != "ted " else []
        )
        for run in golden_runs()
    ],
)
def test_golden_run(cli, tmp_path: Path, run: str):
    """Scores of a small run, within 0.03 or 0.5 dB: other processors round differently."""
    assert cli(*golden_overrides(run), f"run.dir={tmp_path / 'run'}") == 0
    results = read(tmp_path / "run")
    known = json.loads(GOLDEN.read_text())
    assert run in known, f"{run} has no golden run yet: `make golden` writes it"
    golden = known[run]
    got = [[np.nan if v is None else v for v in row] for row in results["matrix"]]
    want = [[np.nan if v is None else v for v in row] for row in golden["matrix"]]
    np.testing.assert_allclose(got, want, atol={"dice": 0.03, "psnr": 0.5}[results["score"]])
    assert results["stages"] == golden["stages"]


def test_results_keep_the_contract(tiny):
    results = tiny()
    assert results["status"] == "completed"
    assert (results["scenario"], results["strategy"], results["model"]) == (
        "phantom", "ted", "unet",
    )  # fmt: skip
    assert results["sites"] == list("ABCDEF")
    assert results["stages"] == [["A", "B"], ["C", "D"], ["E", "F"]]
    assert results["score"] == "dice" and results["rounds"] == 6 and results["seed"] == 0
    assert np.shape(results["matrix"]) == (3, 6)
    for number, site in enumerate(results["sites"]):
        for stage in range(3):
            scores = [values[stage] for values in results["cases"][site].values()]
            assert results["matrix"][stage][number] == pytest.approx(sum(scores) / len(scores))
    figures = ("avg", "bwt", "fwt", "forgetting", "plasticity", "worst_site", "std_site")
    assert all(math.isfinite(results["metrics"][name]) for name in figures)
    assert set(results["seconds"]) == {"total", "setup", "train", "evaluate", "communicate"}
    cpu, memory = results["cpu_seconds"], results["peak_memory"]
    assert 0 < cpu["train"] < cpu["server"] and cpu["evaluate"] > 0, "all in one process here"
    assert 2**26 < memory["sites"] <= memory["server"] < 2**36
    assert results["failures"] == []
    assert len(results["weights_sha256"]) == 64
    assert {"flwr", "torch", "monai"} <= set(results["versions"])


def test_what_a_process_did_before_is_not_in_a_runs_cost(tiny):
    """Several runs in one process, as benchmarks and notebooks make them."""
    sum(number**0.5 for number in range(2_000_000))
    before = time.process_time()
    assert tiny("timeline.rounds=1")["cpu_seconds"]["server"] <= time.process_time() - before


def test_bytes_add_up(tiny, tmp_path: Path):
    results = tiny("strategy=lwf")
    weights = arrays.load_file(tmp_path / "run0" / "checkpoint" / "stage-3.safetensors")
    size = records.size_of(records.to_record(weights))
    trained, validated, tested = 2 * 2 * 3, 2 * 2 * 3, 6 * 4
    taught = 2 * 2  # once per site, in two stages
    assert results["bytes"]["teacher"] == taught * size
    by_stage = results["bytes_by_stage"]
    assert [stage["teacher"] for stage in by_stage] == [0, 2 * size, 2 * size]
    assert {k: sum(stage[k] for stage in by_stage) for k in by_stage[0]} == results["bytes"]
    assert results["bytes"]["down"] == (trained + validated + tested + taught) * size
    assert results["bytes"]["up"] == trained * size


def test_individual_sends_no_weights_and_scores_only_who_has_arrived(tiny):
    results = tiny("strategy=individual")
    assert not any(results["bytes"].values())
    assert [[v is None for v in row] for row in results["matrix"]] == [
        [False] * 2 + [True] * 4,
        [False] * 4 + [True] * 2,
        [False] * 6,
    ]
    assert results["metrics"]["bwt"] == 0.0, "nobody's model changes after its stage"
    assert results["metrics"]["fwt"] is None


def test_the_first_stage_is_the_same_for_every_continual_method(tiny):
    rows = [tiny(f"strategy={name}")["matrix"][0] for name in ("finetune", "lwf", "ted")]
    assert rows[0] == rows[1] == rows[2]


def test_joint_is_finetune_with_cumulative_participation(tiny):
    joint = tiny("strategy=joint")
    cumulative = tiny("strategy=finetune", "timeline.participation=cumulative")
    assert joint["weights_sha256"] == cumulative["weights_sha256"]
    assert joint["stages"] == [list("AB"), list("ABCD"), list("ABCDEF")]


def test_one_seed_one_run_another_seed_another(tiny):
    first, again, other = tiny(), tiny(), tiny("seed=1")
    assert first["weights_sha256"] == again["weights_sha256"]
    assert first["matrix"] == again["matrix"]
    assert first["weights_sha256"] != other["weights_sha256"]


def test_individual_runs_differ_in_their_digest(tiny):
    one, two = (tiny("strategy=individual", f"learner.lr={lr}") for lr in (0.01, 0.02))
    assert one["weights_sha256"] != two["weights_sha256"]


@pytest.mark.parametrize("refresh", ["stage", "round", "ema"])
def test_each_way_to_refresh_the_teacher_is_its_own(tiny, refresh: str):
    reference = tiny("strategy=lwf", "strategy.teacher.refresh=stage")
    results = tiny("strategy=lwf", f"strategy.teacher.refresh={refresh}")
    same = results["weights_sha256"] == reference["weights_sha256"]
    assert same == (refresh == "stage")
    assert results["matrix"][0] == reference["matrix"][0], "no teacher in the first stage"


def test_an_average_that_keeps_nothing_teaches_as_the_last_round_does(tiny):
    ema = tiny("strategy=lwf", "strategy.teacher.refresh=ema", "strategy.teacher.decay=0")
    last = tiny("strategy=lwf", "strategy.teacher.refresh=round")
    assert ema["weights_sha256"] == last["weights_sha256"]


@pytest.mark.exhaustive
def test_ray_with_one_worker_gives_the_bits_of_one_process(tiny):
    """With two: see test_invariance, for every method."""
    one, other = (tiny("strategy=individual", *engine) for engine in ((), ONE_WORKER))
    assert other["weights_sha256"] == one["weights_sha256"]
    assert other["cases"] == one["cases"]


def test_batch_norm_and_dropout_are_reproducible_too(tiny):
    overrides = ("model.norm=batch", "model.dropout=0.2")
    one, two = tiny(*overrides), tiny(*overrides)
    assert one["weights_sha256"] == two["weights_sha256"]


def test_keeping_the_best_epoch_changes_the_run(tiny):
    last, best = (tiny(*TRAINED, f"learner.keep={keep}") for keep in ("last", "best"))
    assert last["weights_sha256"] != best["weights_sha256"]


@pytest.mark.parametrize("scenario", ["seed=3", "scenario.seed=3"])
def test_data_follow_the_seed(tiny, scenario: str):
    assert tiny()["data_sha256"] != tiny(scenario)["data_sha256"]


def test_sweep_runs_every_combination(cli, tmp_path: Path):
    overrides = ["-m", *TINY, "timeline.rounds=1", "strategy=finetune,lwf", "seed=0,1"]
    assert cli(*overrides, f"run.dir={tmp_path}") == 0
    runs = [read(tmp_path / str(number)) for number in range(4)]
    pairs = {(run["strategy"], run["seed"]) for run in runs}
    assert pairs == {("finetune", 0), ("finetune", 1), ("lwf", 0), ("lwf", 1)}


def test_figures_are_drawn_and_the_log_tells_the_rounds(tiny, tmp_path: Path):
    tiny("run.figures=true")
    folder = tmp_path / "run0"
    for name in ("matrix", "forgetting", "overlays"):
        content = (folder / "figures" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5000
    log = (folder / "log.txt").read_text()
    assert log.count(": validation ") == 6 and "validation A dice" in log
    assert log.count("done: avg") == 3


METHOD = """
from dataclasses import dataclass
from fedcl.settings import setting
from strategies.lwf import LwF

@dataclass
class Halved(LwF):
    share: float = setting(0.5, low=0)

    def distil(self, step):
        return {"kd": self.share * super().distil(step)["kd"]}
"""


@pytest.mark.slow
def test_a_method_from_outside_needs_no_change_in_here(tiny, tmp_path: Path, monkeypatch):
    """In a real process and on Ray, where the hospitals must find it too."""
    for name, content in {
        "strategies/halved.py": METHOD,
        "conf/strategy/halved.yaml": "name: halved\nkd: 2.0\nshare: 0.5\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    search = f"hydra.searchpath=[{tmp_path / 'conf'}]"
    own = tmp_path / "own"
    process = start(*TINY, *ONE_WORKER, "strategy=halved", search, f"run.dir={own}")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert read(own)["strategy"] == "halved"
    lwf = tiny("strategy=lwf", "strategy.kd=1.0")
    assert read(own)["weights_sha256"] == lwf["weights_sha256"]


OUTSIDE = {
    "fedcl/models/own.py": """
from dataclasses import dataclass
from torch import nn
from fedcl.models.base import ImageModel

@dataclass
class Own(ImageModel):
    def build(self, channels, classes, dims):
        return nn.Conv2d(channels, classes, 3, padding=1)
""",
    "fedcl/aggregations/own.py": """
from dataclasses import dataclass
from fedcl.aggregations.fedavg import FedAvg

@dataclass
class Own(FedAvg):
    pass
""",
    "fedcl/privacy/own.py": """
from dataclasses import dataclass
from fedcl.privacy.none import Plain

@dataclass
class Own(Plain):
    pass
""",
    **{f"conf/{kind}/own.yaml": "name: own\n" for kind in ("model", "aggregation", "privacy")},
}


@pytest.mark.slow
def test_models_aggregations_and_privacy_from_outside(tmp_path: Path):
    for name, content in OUTSIDE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    tiny = [option for option in TINY if not option.startswith("model.")]
    command = [sys.executable, str(ROOT / "simulate.py"), *tiny, "strategy=finetune"]
    command += ["model=own", "aggregation=own", "privacy=own", f"run.dir={tmp_path / 'run'}"]
    command += [f"hydra.searchpath=[{tmp_path / 'conf'}]"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    results = read(tmp_path / "run")
    assert (results["model"], results["aggregation"], results["privacy"]["name"]) == ("own",) * 3


@pytest.mark.slow
def test_the_method_in_the_documentation_runs_as_it_stands(tmp_path: Path):
    text = (ROOT / "docs" / "howto" / "own_method.md").read_text()
    for name, language in (("strategies/mine.py", "python"), ("conf/strategy/mine.yaml", "yaml")):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text.partition(f"```{language}\n")[2].partition("```")[0])
    style = ["ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", *style], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    command = [sys.executable, str(ROOT / "simulate.py"), *TINY, "strategy=mine"]
    command += [f"hydra.searchpath=[{tmp_path / 'conf'}]", f"run.dir={tmp_path / 'run'}"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "run")["strategy"] == "mine"


def write_golden() -> None:
    """Write golden.json anew."""
    import tempfile

    import simulate

    golden: dict[str, Any] = {}
    for run in golden_runs():
        with tempfile.TemporaryDirectory() as folder:
            assert simulate.main([*golden_overrides(run), f"run.dir={folder}/run"]) == 0
            results = read(Path(folder) / "run")
            golden[run] = {key: results[key] for key in ("matrix", "stages")}
    GOLDEN.write_text(json.dumps(golden, indent=1))
