"""A published table from one command: what is complete is skipped, what was begun goes on."""

import csv
import os
import signal
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedcl.app.cli import main
from fedcl.app.segmented import segmented
from tests import published
from tests.conftest import read
from tests.predicted import LABELS, hospitals, simulated

QUICK = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "scenario.resize=[16,16]",
    "model.channels=[4,8]", "learner.epochs=1", "learner.lr=0.01", "timeline.rounds=6",
]  # fmt: skip


def command(root: Path, out: Path, *more: str, quick: list[str] = QUICK) -> list[str]:
    settings = [word for one in quick for word in ("--set", one)]
    return ["reproduce", "ted_prostate", str(root), "--out", str(out), *settings, *more]


def interrupt(log: Path, line: str) -> None:
    """Ask this process to stop as soon as a run has logged a line."""
    for _ in range(6000):
        if log.exists() and line in log.read_text():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_a_table_interrupted_and_gone_on_with(tmp_path: Path, capsys):
    root, out = published.prostate(tmp_path / "a paper's data", ("RUNMC", "HK")), tmp_path / "out"
    asked = command(root, out, "--only", "finetune,kd", "--seeds", "42,42")
    log = out / "runs" / "kd" / "seed42" / "log.txt"
    watcher = threading.Thread(target=interrupt, args=(log, "stage 1, round 2:"))
    watcher.start()
    assert main(asked) == 128 + signal.SIGTERM
    watcher.join()
    assert "finetune, seed 42 (1 of 2)" in capsys.readouterr().err, "a seed given twice is one"
    assert not (out / "table.md").exists()
    first = out / "runs" / "finetune" / "seed42"
    kept = {file: file.stat().st_mtime_ns for file in first.rglob("*") if file.is_file()}

    assert main(asked) == 0
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "it was complete already"
    assert "finetune/seed42 is complete already" in capsys.readouterr().err
    assert log.read_text().count("stage 1, round 1:") == 1, "it went on, and did not begin anew"

    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["Seq", "KD"]
    assert [row["runs"] for row in rows] == ["1", "1"], "two would make an interval of one run"
    assert "avg_published" not in rows[0], "they are of six sites, these runs of two"
    assert "these runs are of HK, RUNMC" in (out / "table.md").read_text()
    sites = ["RUNMC", "HK"]
    columns = {
        "ravg",
        "bwt",
        "rbwt",
        "hd95",
        *(f"{s}_{x}" for s in ("dice", "hd95") for x in sites),
    }
    assert columns < set(rows[0])
    results = read(log.parent)
    assert float(rows[1]["avg"]) == pytest.approx(results["metrics"]["avg"], abs=1e-4)
    assert float(rows[1]["bwt"]) == pytest.approx(results["metrics"]["bwt"], abs=1e-4)
    for site, value in zip(results["sites"], results["matrix"][-1], strict=True):
        assert float(rows[1][f"dice_{site}"]) == pytest.approx(value, abs=1e-4)
    table = (out / "table.md").read_text()
    assert "timeline.rounds=6" in table and "not run, or not complete: joint" in table
    assert all((out / name).stat().st_size > 5000 for name in ("figure.png", "cases.png"))
    labels = out / "segmentations/labels"
    truth = {file.relative_to(labels): nib.load(file) for file in labels.glob("*/*.nii.gz")}
    assert len(truth) == 2
    for method in ("Seq", "KD"):
        for name, label in truth.items():
            found = nib.load(out / "segmentations" / method / name)
            assert found.shape == label.shape == (14, 12, 5)
            assert np.allclose(found.header.get_zooms(), (1.25, 1.25, 8.0))

    other = command(root, out, "--only", "finetune", quick=[*QUICK[:-1], "timeline.rounds=3"])
    assert main(other) == 2
    assert "timeline.rounds: a resumed run keeps its configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--only", "ted,kt"], "has no row 'kt'; there are: joint"),
        (["--seeds", "1,b"], "--seeds: whole numbers needed"),
        (["--set", "seed=7"], "reproduce --set seed: give --seeds"),
        (["--set", "+run.resume=x"], "reproduce --set run.resume: give --out"),
        (["--set", "strategy=lwf"], "reproduce --set strategy: it is what rows differ in"),
    ],
)
def test_what_cannot_be_run_is_told(tmp_path: Path, capsys, more: list[str], said: str):
    assert main(command(tmp_path, tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_root_without_data_is_told(tmp_path: Path, capsys):
    assert main(command(tmp_path / "none", tmp_path / "out")) == 2
    assert "scenario.root: " in capsys.readouterr().err


@pytest.mark.slow
def test_the_masks_that_are_drawn_are_those_that_were_scored(tmp_path: Path):
    """Also of a method whose tests see images through something: CauAug's random network."""
    root = hospitals(tmp_path / "data")
    folder = simulated(tmp_path / "run", root, "strategy=cauaug", "scenario.resize=24", *LABELS)
    results = read(folder)
    pictures, notes = segmented({"cauaug": folder}, tmp_path / "out")
    assert notes == [] and pictures["cauaug"].keys() == set(results["sites"])
    for site in results["sites"]:
        (case, scores), *_ = results["cases"][site].items()
        found, truth = (
            np.asarray(nib.load(tmp_path / "out" / name / site / f"{case}.nii.gz").dataobj)
            for name in ("cauaug", "labels")
        )
        pairs = [(found == n, truth == n) for n in (1, 2)]
        dice = [2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs]
        assert np.mean(dice) == pytest.approx(scores[-1], abs=1e-6)
