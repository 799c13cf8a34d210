"""Noise on what hospitals report: how much, of what, once only, and what it is said to cost."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedcl import arrays
from fedcl.app.simulation import APP, nodes_of, simulate
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.errors import ConfigError, RunError
from fedcl.hospital.store import SiteState
from fedcl.learning.strategy import Form
from fedcl.privacy.central_dp import epsilon
from fedcl.privacy.report_dp import ReportDP, clipped
from fedcl.wire import records
from fedcl.wire.answers import Hello, Report
from fedcl.wire.local_grid import InProcessGrid
from fedcl.wire.requests import ReportRequest
from tests.conftest import TINY, read

RUN = [*TINY, "strategy=cauaug", "privacy=report_dp", "timeline.rounds=1", "learner.steps=1"]
FORMS = {"a": Form((2, 3)), "b": Form((1,)), "c": Form((40,))}
SECRET = (7, "A", 0)


def part(rng: np.random.Generator, size: float = 1.0) -> arrays.Arrays:
    """Return what a case alone would report."""
    return {
        key: (size * rng.normal(size=form.shape)).astype(np.float32) for key, form in FORMS.items()
    }


# --- what is clipped, and how much noise there is -------------------------------------------------


def test_an_array_is_scaled_down_to_the_root_mean_square_and_a_smaller_one_left_alone():
    long = clipped("a", np.float32([[3], [4]]), 2.5)  # its root mean square is sqrt(12.5)
    assert np.allclose(long, np.array([[3], [4]]) * 2.5 / math.sqrt(12.5))
    assert np.array_equal(clipped("a", np.float32([1, -2]), 2.5), [1, -2])
    assert np.array_equal(clipped("a", np.zeros(2, np.float32), 2.5), [0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_cannot_be_clipped(bad: float):
    with pytest.raises(RunError, match=r"^a: of one case alone it is not finite"):
        ReportDP().told([{"a": np.float32([1, bad])}], {"a": Form((2,))}, SECRET)


def test_without_noise_a_report_is_the_mean_over_cases_of_what_each_would_tell():
    rng = np.random.default_rng(0)
    parts = [part(rng) for _ in range(5)]
    told = ReportDP(clip=100.0, noise=1e-3, seed=0).told(parts, FORMS, SECRET)
    for key, value in told.items():
        assert value.dtype == np.float32 and value.shape == FORMS[key].shape
        scale = 1e-3 * 100 * math.sqrt(3 * value.size) / 5
        assert np.abs(value - np.mean([one[key] for one in parts], axis=0)).max() < 5 * scale


def test_the_noise_is_as_stated():
    """Two arrays, 200 000 values and one; 4 cases: noise * clip * sqrt(2 * 200 000) / 4."""
    size, forms = 200_000, {"a": Form((200_000,)), "b": Form((1,))}
    parts = [{"a": np.zeros(size, np.float32), "b": np.float32([0])}] * 4
    told = ReportDP(clip=0.5, noise=3.0, seed=0).told(parts, forms, SECRET)["a"]
    sigma = 3.0 * 0.5 * math.sqrt(2 * size) / 4
    assert told.std() == pytest.approx(sigma, rel=0.01)
    assert abs(told.mean()) < 5 * sigma / math.sqrt(size)


@pytest.mark.parametrize("size", [0.1, 1.0, 1e3])
def test_one_case_changes_a_report_by_no_more_than_the_noise_is_made_for(size: float):
    """In units of the noise's deviation at most by 1 / noise, and just that far if clipped."""
    rng, rule = np.random.default_rng(1), ReportDP(clip=0.8, noise=0.25, seed=0)
    parts = [part(rng, size) for _ in range(6)]
    none = {key: np.zeros(form.shape, np.float32) for key, form in FORMS.items()}
    one, other = (rule.told([*parts[:5], last], FORMS, SECRET) for last in (parts[5], none))
    change = 0.0
    for key, value in one.items():
        deviation = 0.25 * 0.8 * math.sqrt(len(FORMS) * value.size) / 6
        change += float(np.square((value - other[key]).astype(np.float64) / deviation).sum())
    assert math.sqrt(change) <= 1 / 0.25 * (1 + 1e-4)
    assert (math.sqrt(change) > 0.999 / 0.25) == (size == 1e3)


def test_a_report_stays_within_the_bounds_of_the_strategy():
    form = Form((500,), low=0.0, high=0.3)
    told = ReportDP(seed=0).told([{"a": np.full(500, 0.1, np.float32)}], {"a": form}, SECRET)["a"]
    assert form.problem(told) is None and {0.0, np.float32(0.3)} <= set(told)


# --- what it costs --------------------------------------------------------------------------------


def test_two_reports_cost_what_one_does_with_less_noise():
    """Balle & Wang's calibration: sigma 3.730632 gives (1, 1e-5)."""
    once = ReportDP(noise=3.730632).spent({"A": 1, "B": 0})
    assert once["epsilon"] == {"A": pytest.approx(1.0, abs=1e-5), "B": 0.0}
    assert once["delta"] == 1e-5 and "weights and scores are not covered" in once["neighbours"]
    twice = ReportDP(noise=math.sqrt(2) * 3.730632).spent({"A": 2})
    assert twice["epsilon"]["A"] == pytest.approx(1.0, abs=1e-5)


def test_a_run_tells_what_its_reports_have_cost_every_site(tmp_path: Path):
    """Who trains in all three stages reports after two of them: after the last nobody is asked."""
    folder, more = tmp_path / "run", ["timeline.participation=cumulative", "privacy.noise=2"]
    told = simulate(compose([*RUN, *more]), folder).privacy
    once, twice = (epsilon(2.0, times, 1e-5) for times in (1, 2))
    assert told["name"] == "report_dp" and told["covers"] == "reports"
    assert told["epsilon"] == dict(zip("ABCDEF", [twice, twice, once, once, 0, 0], strict=True))
    log = (folder / "log.txt").read_text()
    assert f"reports of stage 2: epsilon by now, at delta 1e-05: A {twice:.3g}" in log
    assert log.count("epsilon by now") == 2


# --- drawn once, and known to nobody --------------------------------------------------------------


def test_two_reports_of_the_same_cases_differ_but_with_a_seed():
    parts = [part(np.random.default_rng(2))]

    def told(seed: int | None, *secret: Any) -> np.ndarray:
        return ReportDP(seed=seed).told(parts, FORMS, secret)["c"]

    assert not np.array_equal(told(None, 7, "A", 0), told(None, 8, "A", 0))
    assert np.array_equal(told(1, 7, "A", 0), told(1, 8, "A", 0))
    assert not np.array_equal(told(1, 7, "A", 0), told(1, 7, "A", 1)), "another stage"
    assert not np.array_equal(told(1, 7, "A", 0), told(1, 7, "B", 0)), "another hospital"


def test_what_is_made_once_is_not_made_again(tmp_path: Path):
    state, made = SiteState(tmp_path / "new"), iter([{"a": np.float32([1])}])
    assert [state.once("x", lambda: next(made))["a"].tolist() for _ in range(3)] == [[1]] * 3
    (tmp_path / "new" / "x.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"x\.safetensors: cannot be read"):
        state.once("x", lambda: next(made))


class Asked:
    """A hospital that is asked for reports after some stages."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.config = Config.parse(compose([*RUN, *overrides]))
        self.grid = InProcessGrid(APP, [nodes_of(self.config, folder)["A"]])

    def report(self, stage: int, shift: float = 0.0) -> np.ndarray:
        network = self.config.job.network("unet", "AB")
        weights = {key: value + shift for key, value in arrays.of_network(network).items()}
        request = ReportRequest(
            job=self.config.job.to_json(), model="unet", arrays=records.to_record(weights),
            arrivals=[["A", "B"], ["C"]][: stage + 1], shares={"A": 1.0},
        )  # fmt: skip
        message = Message(request.pack(), 1, ReportRequest.TYPE)
        (reply,) = self.grid.send_and_receive([message])
        assert not reply.has_error(), reply.error.reason
        return Report.unpack(reply.content).arrays["spectrum"]


def test_a_hospital_tells_the_same_of_a_stage_whoever_asks_again(tmp_path: Path):
    """By another process, and of other weights as well; of another stage it is other noise."""
    one = Asked(tmp_path / "run")
    first = one.report(0)
    assert np.array_equal(first, one.report(0, shift=1.0))
    assert np.array_equal(first, Asked(tmp_path / "run").report(0))
    assert not np.array_equal(first, one.report(1))
    assert not np.array_equal(first, Asked(tmp_path / "other").report(0)), "another run"


def remembered(folder: Path) -> bytes:
    """Return what a run of two stages remembers of the first."""
    snapshots = sorted((folder / "checkpoint").glob("round-*-stage-*"))
    return (snapshots[-1] / "memory.safetensors").read_bytes()


def test_a_resumed_run_asks_for_no_other_noise(tmp_path: Path, cli):
    """Nobody knows it, and yet a run that plays its first stage again comes to the same."""
    folder, two = tmp_path / "run", "timeline.stages=[[A],[B]]"
    assert cli(*RUN, two, f"run.dir={folder}") == 0
    before, memory = read(folder), remembered(folder)
    first = folder / "checkpoint" / "round-000000-stage-000"
    for snapshot in {*first.parent.glob("round-*-stage-*")} - {first}:
        shutil.rmtree(snapshot)
    (folder / "results.json").unlink()
    assert cli(f"run.resume={folder}") == 0
    again = read(folder)
    assert again["weights_sha256"] == before["weights_sha256"]
    assert again["privacy"] == before["privacy"] and remembered(folder) == memory
    assert cli(*RUN, two, f"run.dir={tmp_path / 'other'}") == 0
    assert remembered(tmp_path / "other") != memory


# --- where it cannot be had -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy=finetune"], "report_dp is for what hospitals report besides weights, and str"),
        (["strategy=tkrl"], "strategy tkrl has them report nothing; choose privacy=none or cent"),
        (["timeline.centralised=true"], "timeline.centralised: a pool is no hospital that could"),
        (["privacy.noise=0"], "privacy.noise: must be at least 0.001"),
        (["privacy=central_dp"], "strategy: cauaug has every site report more than its update"),
    ],
)
def test_where_it_cannot_be_had_it_is_refused_and_leaves_nothing(
    overrides: list[str], message: str, tmp_path: Path
):
    with pytest.raises(ConfigError, match=message):
        simulate(compose([*RUN, *overrides]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_updates_are_guarded_as_without_it():
    config = Config.parse(compose([*RUN, "engine.norm_bound=3"]))
    assert config.engine.norm_bound == 3 and not config.privacy.accounts


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"state-path": "state"}, "site A: privacy.seed: the server knows it and could take the"),
        ({}, "site A: this run keeps state at sites; set state-path"),
    ],
)
def test_a_real_hospital_refuses_noise_that_others_know_and_needs_a_place_for_its_reports(
    node: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    config = Config.parse(compose([*RUN, "privacy.seed=1"]))
    grid = InProcessGrid(APP, [{"site": "A", **node}])
    asked = RecordDict({"job": ConfigRecord({"json": config.job.to_json()})})
    (reply,) = grid.send_and_receive([Message(asked, 1, "query.hello")])
    assert Hello.unpack(reply.content).error.startswith(message)


def test_a_server_that_does_not_greet_is_refused_as_well(tmp_path: Path):
    asked = Asked(tmp_path, "privacy.seed=1")
    asked.grid = InProcessGrid(APP, [{"site": "A", "state-path": str(tmp_path / "state")}])
    with pytest.raises(AssertionError, match=r"site A: privacy\.seed: the server knows it"):
        asked.report(0)
    assert not list((tmp_path / "state").rglob("report-*"))
