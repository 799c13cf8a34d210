"""`scenario.scores`: what is asked for is in the results, and what cannot be is told at once."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fedcl.app.cli import main
from tests.conftest import read
from tests.images import picture

QUICK = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "strategy=finetune",
    "scenario=folder", "scenario.patient='^(.+)$'", "scenario.size=32", "model.channels=[4,8]",
    "timeline.rounds=1", "timeline.stages=[[A],[B]]", "learner.steps=8", "learner.lr=0.02",
]  # fmt: skip


@pytest.fixture(scope="module")
def vessels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of two sites of pictures of a bright line; one has no line."""
    root, rng = tmp_path_factory.mktemp("vessels"), np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    for site in "AB":
        for number in range(5):
            line = np.abs(rows - 10 - 2 * number - 4 * np.sin(columns / 5)) < 2
            line &= (site, number) != ("B", 2)
            image = line * 120 + rng.integers(0, 60, line.shape)
            picture(root / site / "images" / f"p{number}.png", image.astype(np.uint8))
            picture(root / site / "masks" / f"p{number}.png", (line * 255).astype(np.uint8))
    return root


def test_centrelines_and_auc_are_among_the_secondary_scores(cli, vessels: Path, tmp_path: Path):
    asked = [*QUICK, f"scenario.root={vessels}", "scenario.scores=[cldice,auc]"]
    assert cli(*asked, f"run.dir={tmp_path / 'run'}") == 0
    found = read(tmp_path / "run")
    assert list(found["secondary"]) == ["iou", "hd95", "cldice", "auc"]
    for name in ("cldice", "auc"):
        one = found["secondary"][name]
        assert [[0 <= value <= 1 for value in row] for row in one["matrix"]] == [[True] * 2] * 2
        assert {site: [*cases] for site, cases in one["cases"].items()} == {
            site: [*cases] for site, cases in found["cases"].items()
        }
    assert found["secondary"]["auc"]["matrix"][1][1] > 0.8, "bright lines are told from the rest"
    plain = [*QUICK, f"scenario.root={vessels}", f"run.dir={tmp_path / 'plain'}"]
    assert cli(*plain) == 0
    same = read(tmp_path / "plain")
    assert same["weights_sha256"] == found["weights_sha256"] and same["matrix"] == found["matrix"]


@pytest.mark.parametrize("command", ["simulate", "inspect"])
def test_without_scikit_image_it_is_told_in_one_line(
    cli, vessels: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setitem(sys.modules, "skimage", None)  # as if it were not installed
    asked = [*QUICK, f"scenario.root={vessels}"]
    run = [f"run.dir={tmp_path / 'run'}"]
    scores = "scenario.scores=[auc,cldice]"
    status = (
        cli(*asked, scores, *run) if command == "simulate" else main(["inspect", *asked, scores])
    )
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl")]
    assert status == 2 and not (tmp_path / "run").exists()
    assert "scenario.scores: cldice needs scikit-image: pip install 'fedcl[vessels]'" in line
    if command == "inspect":
        assert main(["inspect", *asked, "scenario.scores=[auc]"]) == 0, "nothing else needs it"


@pytest.mark.parametrize("scores", ["[clDice]", "[auc,auc]", "[dice]", "auc"])
def test_scores_that_are_none_or_twice_are_refused(
    cli, vessels: Path, tmp_path: Path, capsys, scores: str
):
    asked = [*QUICK, f"scenario.root={vessels}", f"scenario.scores={scores}"]
    assert cli(*asked, f"run.dir={tmp_path / 'run'}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    assert "scenario.scores: " in line and not (tmp_path / "run").exists()
