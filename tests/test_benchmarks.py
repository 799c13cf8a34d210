"""Benchmarks on experiments of seconds: they resume, tune and report."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import forgetting, shift
from benchmarks.forgetting import Bench, Method, Work
from tests.conftest import TINY, read
from tests.predicted import LABELS, hospitals

pytestmark = pytest.mark.slow

BENCH = Bench(
    "tiny",
    tuple(o for o in TINY if o != "engine=inprocess"),
    {"forward": "[[A],[C]]", "back": "[[C],[A]]"},
    (0,),
    tuning=7,
    title="A toy.",
)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    methods = {
        "finetune": Method(("strategy=finetune",)),
        "ted": Method(("strategy=ted",), (("strategy.weight.kd=0.5",), ("strategy.weight.kd=50",))),
        "ted: kd": Method(("strategy=ted", "strategy.terms=kd"), like="ted", part="ladder"),
    }
    monkeypatch.setattr(forgetting, "METHODS", methods)
    return Work(BENCH, tmp_path / "tiny", lanes=2)


def test_a_run_that_fails_is_an_error(work: Work, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"learner\.epochs"):
        work.run([(tmp_path / "bad", [*BENCH.overrides, "learner.epochs=0"])], "bad")


@pytest.mark.exhaustive
def test_weights_are_tuned_on_their_own_seed_and_reported(work: Work):
    """What was run is not run again, and what was begun is finished."""
    work.bench = replace(BENCH, orders={"forward": "[[A],[C]]"})
    assert work.tuned("ted") is None, "not before all values were tried"
    tried = work.tuning_runs("ted")
    for runs in tried.values():
        work.run(runs, "tuning")
    means = {}
    for values, runs in tried.items():
        results = [read(folder) for folder, _ in runs]
        assert {one["seed"] for one in results} == {7}
        means[values] = sum(one["metrics"]["avg"] for one in results)
    best = max(means, key=lambda values: means[values])
    assert work.tuned("ted") == work.tuned("ted: kd") == best
    reported = {
        name: work.reported_runs(name, work.tuned(name) or ())
        for name in ("finetune", "ted", "ted: kd")
    }
    for name, runs in reported.items():
        work.run(runs, name)
    ((first, _),), ((second, _),) = reported["finetune"], reported["ted: kd"]
    (second / "results.json").unlink()
    stamp = (first / "results.json").stat().st_mtime_ns
    for name in ("finetune", "ted: kd"):
        work.run(reported[name], name)
    assert (first / "results.json").stat().st_mtime_ns == stamp
    assert read(second)["status"] == "completed" and read(first)["arrivals"] == [["A"], ["C"]]
    text = forgetting.report([work], "command")
    sections = ("## tiny", "### Every method", "### TED's ladder", "### Tuning, on seed 7")
    assert [text.count(section) for section in sections] == [1, 1, 1, 1]
    assert text.count("| ted: kd |") == 1 and text.count("**") == 2
    assert "Not complete yet" not in text and "| finetune | 1 |" in text


def test_a_methods_own_settings_win_over_tuned_and_common_ones(work: Work):
    overrides = work.overrides("ted: kd", 3, "[[A],[C]]", ("strategy.terms=all", "strategy.x=1"))
    assert overrides.count("strategy.terms=kd") == 1
    assert "strategy.terms=all" not in overrides and "strategy.x=1" in overrides
    assert "seed=3" in overrides and "timeline.stages=[[A],[C]]" in overrides


def test_a_strength_is_told_by_what_fine_tuning_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = hospitals(tmp_path / "data")
    frame = ("scenario=folder", f"scenario.root={root}", "scenario.patient='^(.+)$'", *LABELS)
    monkeypatch.setattr(shift, "DATA", {"tiny": (*frame, "model.channels=[4,8]")})
    monkeypatch.setattr(shift, "RUNS", dict.fromkeys(shift.RUNS, ("listed",)))
    asked = ["--out", str(tmp_path / "out"), "--rounds=1", "--steps=5"]
    shift.main([*asked, "--strengths=1", "learner.lr=0.02"])
    tuned, alone = (
        read(tmp_path / "out" / "tiny" / f"{name}-listed-1-learner.lr-0.02")
        for name in ("finetune", "individual")
    )
    said = capsys.readouterr().out
    figures = tuned["metrics"]
    line = f"| 1 | {figures['plasticity']:.3f} | {figures['bwt']:+.3f} | "
    assert line in said and f" | {alone['metrics']['avg']:.3f} |" in said
    assert f"{-figures['rbwt']:.0%}" in said and tuned["seed"] == shift.SEED
    assert "scanner t2_weighted" in " ".join(tuned["notes"]["B"])
    shift.main([*asked, "--strengths=0,1", "--report", "learner.lr=0.02"])
    assert f"| 0 | - | - | - | - |\n{line}" in capsys.readouterr().out
