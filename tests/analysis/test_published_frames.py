"""Fields in a published table: every frame's scores, and what lambda does, by hand."""

import csv
import io
from dataclasses import replace

import pytest

from fedcl.analysis.published import Entry, Paper, Row, entries, files
from fedcl.analysis.published_frames import curves, frames, sweep
from fedcl.analysis.runs import Group, Run
from fedcl.server.results import ScoreResults
from tests.analysis.test_statistics import run

PAPER = Paper(
    title="Fields", source="Somebody (2025)", protocol="none", reference="finetune",
    variants={"pe": Row("PE")},
    each={"finetune": Row("fine-tuned"), "lambda1": Row("1"), "lambda10": Row("10")},
).whole()  # fmt: skip


def field(psnr: float, dice: float, seed: int = 0, **config: float) -> Run:
    """Return a run that learned an image of two frames, and then the mask of the second."""
    one = run(seed=seed, last=(psnr, 0.0), arrivals=("image", "es"), **config)
    results = replace(
        one.results,
        score="psnr", case="frame",
        matrix=[[40.0, None], [psnr, None]],
        cases={"image": {"frame-000": [41.0, psnr + 1], "frame-001": [39.0, psnr - 1]}},
        secondary={"dice": ScoreResults([[None, None], [None, dice]],
                                        {"es": {"frame-001": [None, dice]}})},
    )  # fmt: skip
    return replace(one, results=results)


def found() -> list[Entry]:
    """Two values of lambda, the first with two seeds, beside fine-tuning."""
    runs = {
        "pe-finetune": [field(12.0, 0.9)],
        "pe-lambda1": [
            field(30.0, 0.8, **{"strategy.weight": 1}),
            field(32.0, 0.6, seed=1, **{"strategy.weight": 1}),
        ],
        "pe-lambda10": [field(38.0, 0.5, **{"strategy.weight": 10})],
    }
    return entries(PAPER, [Group(name, own) for name, own in runs.items()])


def test_every_frame_has_the_scores_of_what_it_gives():
    rows = list(csv.DictReader(io.StringIO(frames(found()))))
    assert list(rows[0]) == ["row", "seed", "stage", "site", "frame", "psnr", "dice"]
    assert len(rows) == 4 * 5, "a frame without a score after a stage has no row"
    last = [
        row for row in rows if (row["row"], row["seed"], row["stage"]) == ("pe-lambda1", "1", "2")
    ]
    assert [(r["site"], r["frame"], r["psnr"], r["dice"]) for r in last] == [
        ("image", "frame-000", "33.0000", ""),
        ("image", "frame-001", "31.0000", ""),
        ("es", "frame-001", "", "0.6000"),
    ]


def test_curves_are_means_over_runs_at_the_end():
    psnr, dice = curves(found(), "Fields").axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in psnr.get_lines()}
    assert drawn["lambda1"] == [[0, 32], [1, 30]] and drawn["finetune"] == [[0, 13], [1, 11]]
    assert [line.get_xydata().tolist() for line in dice.get_lines()][1] == [[1, pytest.approx(0.7)]]
    assert (psnr.get_ylabel(), dice.get_ylabel()) == ("PSNR (dB)", "Dice")


def test_lambda_is_set_against_what_came_first_and_last():
    first, last = sweep(found(), "Fields").axes
    level, swept = first.get_lines()
    assert level.get_label() == "finetune" and set(level.get_ydata()) == {12}
    assert swept.get_xydata().tolist() == [[1, 31], [10, 38]]
    assert last.get_lines()[1].get_xydata().tolist() == [[1, pytest.approx(0.7)], [10, 0.5]]
    assert last.get_ylabel() == "Dice, what came last"


def test_sites_that_never_have_a_score_are_left_out_of_its_mean():
    rows = list(csv.DictReader(io.StringIO(files(PAPER, found(), [])["table.csv"])))
    assert [row["dice"] for row in rows] == ["0.9000", "0.7000", "0.5000"]
    assert rows[1]["psnr_image"] == "31.0000" and rows[1]["psnr_es"] == ""
    header = files(PAPER, found(), [])["table.md"].splitlines()[4]
    assert "Dice es" in header and "Dice image" not in header
