"""Tables of fields from one command each, on a cine in ACDC's layout."""

import csv
from pathlib import Path

import pytest

from fedcl.app.cli import main
from fedcl.config.hydra import compose
from fedcl.registry import SCENARIO
from tests import published
from tests.conftest import read

QUICK = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "scenario.frames=6",
    "scenario.slices=2", "scenario.size=16", "learner.batch_size=256", "model.width=64",
]  # fmt: skip
EARLY = [
    f"scenario.parts.{site}.frames=[{first},{first + 2}]"
    for site, first in (("early", 0), ("middle", 2), ("late", 4))
]
ES = ["scenario.parts.es.frames=[3,4]"]


def command(table: str, root: Path, out: Path, rows: str, *more: str) -> list[str]:
    settings = [word for one in (*QUICK, *more) for word in ("--set", one)]
    return ["reproduce", table, str(root), "--out", str(out), "--only", rows, *settings]


def lines(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_the_parts_of_a_cine(tmp_path: Path):
    """All slices of all frames, and the masks of the two frames that have them."""
    root = published.cine(tmp_path)
    values = compose(["protocol=fields_signal", *QUICK, *ES, f"scenario.root={root}"])["scenario"]
    scenario = SCENARIO.make(values)
    assert scenario.arrivals() == [["image"], ["ed", "es"]]
    image, ed, es = (
        scenario.load(site, scenario.location(site), 0).test for site in values["parts"]
    )
    assert len(image) == 6 and image[0].values.shape == (1, 2, 16, 16)
    assert [(frame.name, *frame.values.shape) for frame in (*ed, *es)] == [
        ("frame-000", 3, 2, 16, 16), ("frame-003", 3, 2, 16, 16)
    ]  # fmt: skip
    assert all(float(ed[0].values[n].sum()) > 0 for n in range(3)), "rv, myo, lv"


@pytest.mark.slow
def test_frames_over_time(tmp_path: Path, capsys):
    root, out = published.cine(tmp_path / "data"), tmp_path / "out"
    rows = ["pe-finetune", "pe-lambda1", "pe-joint"]
    asked = command("fields_domain", root, out, ",".join(rows), *EARLY, "learner.steps=150")
    assert main(asked) == 0
    found = {row["row"]: row for row in lines(out / "table.csv")}
    assert list(found) == rows
    finetune, distilled = (float(found[row]["bwt"]) for row in rows[:2])
    assert finetune < -5 < distilled, "dB that earlier frames have lost"
    assert float(found["pe-joint"]["ravg"]) == 1
    results = read(out / "runs/pe-lambda1/seed42")
    every = [row for row in lines(out / "frames.csv") if row["row"] == "pe-lambda1"]
    assert len(every) == 2 + 4 + 6, "the frames seen after every stage"
    assert float(every[-1]["psnr"]) == pytest.approx(
        results["cases"]["late"]["frame-005"][-1], abs=1e-4
    )
    for name in ("figure", "cases", "frames", "lambda"):
        assert (out / f"{name}.png").stat().st_size > 5000
    capsys.readouterr()
    assert main(asked) == 0
    assert capsys.readouterr().err.count("is complete already") == 3


@pytest.mark.slow
def test_masks_of_two_frames(tmp_path: Path):
    root, out = published.cine(tmp_path / "data"), tmp_path / "out"
    rows = ["pe-finetune", "pe-lambda1", "pe-lambda-auto+"]
    assert main(command("fields_signal", root, out, ",".join(rows), *ES, "learner.steps=150")) == 0
    found = {row["row"]: row for row in lines(out / "table.csv")}
    assert list(found) == rows
    assert float(found["pe-finetune"]["bwt"]) < -5 < float(found["pe-lambda1"]["bwt"])
    assert float(found["pe-lambda1"]["dice"]) > 0.5
    masks = [row for row in lines(out / "frames.csv") if row["row"] == "pe-lambda1" and row["dice"]]
    assert [(row["stage"], row["site"], row["frame"]) for row in masks] == [
        ("2", "ed", "frame-000"), ("2", "es", "frame-003")
    ]  # fmt: skip
    stages = read(out / "runs/pe-lambda1/seed42")["stages"]
    assert stages == [["image"], ["ed", "es"]]
