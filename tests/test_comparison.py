"""The comparison of methods: on equal terms, resumable, and every run can be made."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import comparison, comparison_tables
from benchmarks.comparison_tables import complete, measured, readme, report
from benchmarks.methods import METHODS
from benchmarks.plan import Work, planned
from benchmarks.running import ROOT, archive, completed, run_all
from benchmarks.streams import STREAMS, Stream
from fedcl.config.hydra import compose
from fedcl.config.schema import Config

TOY = Stream(
    (
        "scenario=phantom", "scenario.patients=4", "scenario.size=32", "learner.steps=1",
        "timeline.rounds=1", "model.channels=[4,8]", "run.figures=false",
    ),
    {"AC": "[[A],[C]]", "CA": "[[C],[A]]"},
    "A toy.",
    seeds=(0,),
    only=None,
    parts=None,
)  # fmt: skip


def test_every_method_with_weights_gets_as_many_tries():
    tried = {name: len(method.grid) for name, method in METHODS.items() if method.grid}
    assert set(tried.values()) == {4}
    assert all(METHODS[method.like].grid for method in METHODS.values() if method.like)


def test_seeds_that_are_tuned_on_are_never_reported():
    assert all(one.tuning not in one.seeds and len(one.seeds) >= 5 for one in STREAMS.values())
    assert all(len(one.orders) >= 2 for one in STREAMS.values())


@pytest.mark.parametrize("name", STREAMS)
def test_runs_of_every_stream_can_be_made(name: str, monkeypatch: pytest.MonkeyPatch):
    stream = STREAMS[name]
    if not stream.there:
        pytest.skip(f"no {stream.needs}")
    monkeypatch.chdir(ROOT)
    work = Work(name, stream, Path("nowhere"))
    stages = next(iter(stream.orders.values()))
    few = ("joint, pooled", "ted: kd", "cauaug: AnaAug alone")
    for method in few if name == "phantom" else ("finetune",):
        values = METHODS[METHODS[method].like or method].grid[:1]
        overrides = work.overrides(method, 0, stages, "light", *values or [()])
        keys = [override.partition("=")[0] for override in overrides]
        assert len(keys) == len({*keys}), "no setting is given twice"
        Config.parse(compose(overrides))


def test_methods_that_cannot_be_had_are_left_out():
    name = "hippocampus, partial labels"
    there = Work(name, STREAMS[name], Path("nowhere")).methods()
    assert "souvenir" not in there and "mib" in there and "ted: kd" not in there


def test_a_report_needs_no_data_and_a_stream_without_them_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    toy = replace(TOY, needs="nowhere")
    monkeypatch.setattr(comparison, "STREAMS", {"toy": toy})
    written: list[str] = []
    monkeypatch.setattr(
        comparison_tables, "write_section", lambda name, text, *page: written.append(text)
    )
    monkeypatch.setattr(comparison, "archive", lambda folder, file: written.append(file.name))
    comparison.main(["--out", str(tmp_path)])
    pages = {method.strategy for method in METHODS.values()}
    assert written[0] == "comparison.tar.xz" and "### toy" in written[1]
    assert written[3:] == ["Nothing of it is complete yet."] * len(pages)
    assert capsys.readouterr().out == "toy: not run, since nowhere is missing\n"
    with pytest.raises(RuntimeError, match="has no complete run"):
        comparison.main(["--out", str(tmp_path), "--report"])
    assert len(written) == len(pages) + 3


@pytest.mark.slow
def test_what_is_complete_is_not_run_again_and_tables_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = ("finetune", "joint", "lwf", "ted", "ted: kd")
    for name, method in [*METHODS.items()]:
        monkeypatch.delitem(METHODS, name)
        if name in chosen:
            monkeypatch.setitem(METHODS, name, replace(method, grid=method.grid[:2]))
    work = Work("toy", TOY, tmp_path)
    assert work.tuned("lwf") is None and work.tuned("finetune") == ()
    for what, runs in planned(work, ()):
        run_all(runs, 1, what)
    runs = [run for name in chosen for run in work.reported(name, "none")]
    assert {str(completed(folder)["arrivals"]) for folder, _ in runs} == {
        "[['A'], ['C']]", "[['C'], ['A']]"
    }  # fmt: skip
    stamps = [(folder / "results.json").stat().st_mtime_ns for folder, _ in runs]
    (lost, _), *_ = work.reported("ted: kd", "none")
    (lost / "results.json").unlink()
    for what, more in planned(work, ()):
        run_all(more, 1, what)
    again = [(folder / "results.json").stat().st_mtime_ns for folder, _ in runs]
    assert [folder for (folder, _), a, b in zip(runs, stamps, again, strict=True) if a != b] == [
        lost
    ]
    found = complete([work])
    text = report([work], found)
    archive(tmp_path, tmp_path / "kept.tar.xz")
    with tarfile.open(tmp_path / "kept.tar.xz") as kept:
        kept.extractall(tmp_path / "again", filter="data")
    again_there = Work("toy", TOY, tmp_path / "again" / "kept")
    assert complete([again_there]) == found and report([again_there], found) == text
    assert text.count("#### ") == 4 and "Not complete yet" not in text
    assert text.count("| ted: kd |") == 1 and text.count("| finetune |") == 4
    told = [line.split(" | ") for line in measured("ted", found).splitlines() if "toy" in line]
    assert [row[:2] for row in told[:2]] == [["| toy", "as they are"], ["| toy", "varied"]]
    assert {row[0] for row in told[2:]} == {"| ted", "| ted: kd"}
    page = readme({("phantom", "methods", "none"): found["toy", "methods", "none"]})
    assert [f"| `{name}` |" in page for name in chosen] == [True, True, True, True, False]
