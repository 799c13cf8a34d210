"""The release gate: a model that is worse for a hospital of before is not put to use."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import sites
from fedcl import arrays
from fedcl.app.forget import forget
from fedcl.app.resuming import changes
from fedcl.app.simulation import resume, simulate
from fedcl.config.hydra import compose
from fedcl.errors import ConfigError, RunError
from fedcl.reporting.terminal import released
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.gate import compared
from fedcl.server.results import Results
from tests.conftest import ROOT, TINY, TINY_FIELD

GATED = [
    "scenario=mislabelled", "scenario.wrong=[C]", "strategy=finetune", "timeline.rounds=2",
    "timeline.stages=[[A,B],[C],[D]]", "learner.steps=15", "learner.lr=0.01", "scenario.strength=0",
    "scenario.patients=14", "scenario.val=0.3",
]  # fmt: skip


@pytest.fixture(autouse=True)
def mislabelled(monkeypatch: pytest.MonkeyPatch) -> None:
    own = str(ROOT / "benchmarks" / "plugins" / "sites")
    monkeypatch.setattr(sites, "__path__", [*sites.__path__, own])


def run(folder: Path, *overrides: str) -> Results:
    return simulate(compose([*TINY, *GATED, *overrides]), folder)


def weights(folder: Path, name: str) -> str:
    return arrays.digest(arrays.load_file(folder / "checkpoint" / f"{name}.safetensors"))


def test_the_test_is_students_on_the_losses_beyond_the_margin():
    judged = compared({"A": ([0.8, 0.9, 0.7], [0.5, 0.5, 0.5])}, margin=0.1, alpha=0.05)["A"]
    # Losses .3 .4 .2: mean .3, deviation .1; t = (.3 - .1) / (.1 / sqrt 3), 2 degrees of freedom,
    # whose distribution is 1/2 + t / (2 sqrt(2 + t^2)).
    t = 0.2 / (0.1 / math.sqrt(3))
    assert judged.p == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-6)
    assert (judged.cases, judged.worse) == (3, True)
    assert judged.released == pytest.approx(0.8) and judged.candidate == pytest.approx(0.5)


def test_more_hospitals_ask_for_more_evidence():
    lost = ([0.8, 0.9, 0.7], [0.5, 0.5, 0.5])
    alone = compared({"A": lost}, 0.1, 0.05)["A"]
    many = {site: ([0.5, 0.6], [0.5, 0.6]) for site in "BCD"}
    among = compared({"A": lost} | many, 0.1, 0.05)
    assert among["A"].p == pytest.approx(4 * alone.p, abs=1e-5), "Holm: the least of four"
    assert not among["A"].worse and alone.worse
    assert among["B"].p == 1.0


def test_a_loss_within_the_margin_is_no_reason():
    old, new = [0.80, 0.81, 0.79, 0.80], [0.79, 0.80, 0.781, 0.79]
    assert not compared({"A": (old, new)}, margin=0.02, alpha=0.05)["A"].worse
    assert compared({"A": (old, new)}, margin=0.0, alpha=0.05)["A"].worse


def test_a_loss_of_just_the_margin_is_put_up_with():
    """0.5 - 0.48 is 0.020000000000000018."""
    judged = compared({"A": ([0.5, 0.5], [0.48, 0.48])}, margin=0.02, alpha=0.05)["A"]
    assert (judged.worse, judged.p) == (False, 1.0)


@pytest.mark.parametrize(("by", "worse"), [(0.5, True), (0.25, False), (0.0, False), (-0.5, False)])
def test_losses_without_spread_are_compared_as_they_are(by: float, worse: bool):
    old = [0.5, 0.625, 0.75]
    judged = compared({"A": (old, [one - by for one in old])}, margin=0.25, alpha=0.05)["A"]
    assert (judged.worse, judged.p) == (worse, 0.0 if worse else 1.0)


@pytest.mark.parametrize(
    ("pair", "note"),
    [
        (([0.9], [0.1]), "1 validation case, a test needs 2"),
        (([0.9, 0.8], "no answer within 5 s"), "no answer within 5 s"),
        (([0.9, 0.8], [0.9]), "it scored 2 and 1 cases"),
    ],
)
def test_what_cannot_be_tested_is_said_and_nothing_concluded(pair: Any, note: str):
    judged = compared({"A": pair}, 0.02, 0.05)["A"]
    assert (judged.note, judged.p, judged.worse) == (note, None, False)


def test_a_hospital_with_wrong_labels_changes_no_model_that_is_kept(tmp_path: Path):
    found = run(tmp_path / "keep", "release.on_refusal=keep")
    first, second, third = found.release
    assert first.released and first.reason == "it is the first one"
    assert not second.released and second.model == 1 and second.against == 1
    assert {"A", "B"} == second.hospitals.keys()
    assert any(f"{site} would fall from" in second.reason for site in "AB")
    assert third.released and third.model == 3 and third.against == 1
    assert found.stages == [["A", "B"], [], ["D"]]
    for row in (0, 1):  # the figures after the refused stage are those of the model kept
        assert found.matrix[row] == found.matrix[0]
    assert weights(tmp_path / "keep", "stage-2") == weights(tmp_path / "keep", "stage-1")
    assert weights(tmp_path / "keep", "refused-2") != weights(tmp_path / "keep", "stage-1")
    text = json.loads((tmp_path / "keep" / "results.json").read_text())
    assert text["release"][1]["reason"] == second.reason
    assert "the model of stage 2 is refused" in (tmp_path / "keep" / "log.txt").read_text()


def test_a_warning_changes_nothing_but_what_is_in_use(tmp_path: Path):
    plain, warned = run(tmp_path / "null"), run(tmp_path / "warn", "release.on_refusal=warn")
    assert warned.weights_sha256 == plain.weights_sha256
    assert warned.matrix == plain.matrix
    assert [one.model for one in warned.release][:2] == [1, 1]
    assert warned.release[2].against == 1, "compared with the one in use, not with the one refused"
    assert plain.release == []


@pytest.mark.slow
def test_a_run_that_stops_can_go_on_either_way(tmp_path: Path):
    with pytest.raises(RunError, match=r"the model of stage 2 is refused: .*keep or warn goes on"):
        run(tmp_path / "run", "release.on_refusal=stop")
    left = Results.read(tmp_path / "run")
    assert left is not None and left.status == "failed" and not left.release[1].released
    for _ in range(2):
        with pytest.raises(RunError, match="stage 2 is refused"):
            resume(tmp_path / "run", changes([]))
    resumed = resume(tmp_path / "run", changes(["release.on_refusal=keep"]))
    kept = run(tmp_path / "keep", "release.on_refusal=keep")
    assert resumed.weights_sha256 == kept.weights_sha256
    assert resumed.release == kept.release


def test_a_gate_cannot_come_or_go_in_the_middle_of_a_run(tmp_path: Path):
    with pytest.raises(RunError):
        run(tmp_path / "run", "release.on_refusal=stop")
    with pytest.raises(ConfigError, match=r"release\.on_refusal: a run goes on with a gate as it"):
        resume(tmp_path / "run", changes(["release.on_refusal=null"]))
    with pytest.raises(ConfigError, match=r"release\.margin: a resumed run keeps"):
        resume(tmp_path / "run", changes(["release.margin=0.9"]))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([*TINY, "strategy=individual"], "release.on_refusal: .*keep .* to themselves"),
        ([*TINY_FIELD], "release.on_refusal: .* no cases to validate on"),
        ([*TINY, "release.on_refusal=perhaps"], "release.on_refusal: must be one of null, keep"),
        ([*TINY, "release.margin=-1"], "release.margin: "),
    ],
)
def test_a_gate_that_could_not_judge_is_refused(tmp_path: Path, overrides: list[str], reason: str):
    given = overrides if "perhaps" in overrides[-1] else [*overrides, "release.on_refusal=keep"]
    with pytest.raises(ConfigError, match=reason):
        values = compose(given)
        simulate(values, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_a_run_began_with_stays_where_the_first_stage_spoils_it(tmp_path: Path):
    good = run(tmp_path / "good", "scenario.wrong=[]", "timeline.stages=[[A,B]]")
    weights_ = f"model.weights={tmp_path / 'good'}"
    wrong = ["scenario.wrong=[C,E]", "timeline.stages=[[A,C],[E]]", "release.on_refusal=keep"]
    spoilt = run(tmp_path / "run", weights_, *wrong)
    first, second = spoilt.release
    assert (first.released, first.model, first.against) == (False, 0, 0)
    assert (second.released, second.model) == (False, 0)
    assert list(second.hospitals) == ["A", "C", "E"], "nobody was promised less than others"
    assert spoilt.weights_sha256 == good.weights_sha256
    assert spoilt.chosen == [0, 0]
    assert released(spoilt)[-2:] == [
        "in use: the model it began with",
        "few validation cases (A 4, C 4, E 4): only large losses could be seen",
    ]


@pytest.mark.slow
def test_a_hospital_is_forgotten_where_the_model_that_a_run_began_with_is_in_use(tmp_path: Path):
    run(tmp_path / "good", "scenario.wrong=[]", "timeline.stages=[[A,B]]")
    given = [
        f"model.weights={tmp_path / 'good'}", "scenario.wrong=[C,D,E]", "release.on_refusal=keep",
    ]  # fmt: skip
    whole = run(tmp_path / "run", *given, "timeline.stages=[[A,C],[D],[E]]")
    assert [one.model for one in whole.release] == [0, 0, 0]
    forget(tmp_path / "run", "D", tmp_path / "out", [], Console(quiet=True))  # `wrong` names D
    never = run(tmp_path / "never", *given, "timeline.stages=[[A,C],[E]]")
    found = Results.read(tmp_path / "out")
    assert found is not None and found.release == never.release
    assert (found.weights_sha256, found.matrix) == (never.weights_sha256, never.matrix)


@pytest.mark.parametrize(
    "strategy", ["ted", *(pytest.param(name, marks=pytest.mark.slow) for name in ("replay", "ewc"))]
)
def test_memory_and_buffers_of_a_refused_stage_are_gone(tmp_path: Path, strategy: str):
    """The next stage goes on as if the hospital refused had only been there."""
    found = run(tmp_path / "run", f"strategy={strategy}", "release.on_refusal=keep")
    assert not found.release[1].released
    assert "C" not in found.stored
    checkpoint = Checkpoint(tmp_path / "run" / "checkpoint")
    before, after = checkpoint.ended(1), checkpoint.ended(2)
    assert before is not None and after is not None
    for name in ("weights", "teacher", "memory"):
        assert arrays.digest(getattr(after, name)) == arrays.digest(getattr(before, name)), name
    assert (after.versions, after.kept, after.stored) == (
        before.versions, before.kept, before.stored,
    )  # fmt: skip
    assert found.stages == [["A", "B"], [], ["D"]]
