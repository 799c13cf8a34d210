"""What benchmarks share, and how a strength of scanners is chosen, on experiments of seconds."""

from pathlib import Path

import pytest

from benchmarks import running, shift
from benchmarks.running import completed, run_all, write_section
from tests.conftest import TINY, read
from tests.predicted import LABELS, hospitals


def test_a_section_is_put_in_place_of_the_old_one_or_at_the_end(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- a -->\nold\n<!-- end of a -->\n\nAfter.\n")
    write_section("a", "new\n", page)
    write_section("b", "more", page)
    assert page.read_text() == (
        "# Title\n\n<!-- a -->\nnew\n<!-- end of a -->\n\nAfter.\n\n"
        "<!-- b -->\nmore\n<!-- end of b -->\n"
    )
    page.write_text("<!-- a -->\nold\n<!-- end of a-->\n\nMore.\n")
    with pytest.raises(ValueError, match="where the section ends is not known"):
        write_section("a", "new", page)
    assert page.read_text().endswith("More.\n")


@pytest.mark.slow
def test_lanes_go_on_after_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "SHARE", 1)
    overrides = [one for one in TINY if one != "engine=inprocess"]
    runs = [(tmp_path / str(seed), [*overrides, f"seed={seed}"]) for seed in range(3)]
    run_all(runs, 2, "runs")
    assert all(completed(folder) for folder, _ in runs)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_run_that_fails_is_an_error(lanes: int, tmp_path: Path):
    overrides = [one for one in TINY if one != "engine=inprocess"]
    with pytest.raises(RuntimeError, match=r"learner\.epochs"):
        run_all([(tmp_path / "bad", [*overrides, "learner.epochs=0"])], lanes, "bad")


@pytest.mark.slow
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
