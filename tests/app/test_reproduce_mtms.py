"""MTMS's table from one command, on files in the layout of the Decathlon's spleen."""

import csv
from pathlib import Path

import numpy as np
import pytest

from fedcl.app.cli import main
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.errors import ConfigError
from tests import published
from tests.conftest import read

QUICK = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "scenario.resize=[16,16]",
    "models.t1.channels=[8,16,32]", "models.s1.channels=[4,8]", "learner.epochs=1",
    "learner.batch_size=8",
]  # fmt: skip
ROWS = ["s1-alone+", "s1-t1-all"]


def test_a_student_without_a_teacher_is_refused(tmp_path: Path):
    root = published.spleen(tmp_path)
    values = compose(["protocol=mtms_spleen", f"scenario.root={root}", "models.t1.channels=[4,8]"])
    with pytest.raises(ConfigError, match=r"no site trains t1.*strategy\.teacher\.file"):
        Config.parse(values)


@pytest.mark.slow
def test_students_beside_the_teacher_that_is_trained_before_them(tmp_path: Path, capsys):
    root, out = published.spleen(tmp_path / "Task09_Spleen"), tmp_path / "out"
    settings = [word for one in QUICK for word in ("--set", one)]
    asked = [
        "reproduce",
        "mtms_spleen",
        str(root),
        "--out",
        str(out),
        "--seeds",
        "42,43",
        *settings,
    ]
    assert main([*asked, "--only", ",".join(ROWS)]) == 0
    lines = (out / "table.csv").read_text().splitlines()
    rows = {row["row"]: row for row in csv.DictReader(lines)}
    assert list(rows) == ["t1", *ROWS], "who teaches is trained without being asked for"
    teacher, student = (read(out / "runs" / row / "seed42") for row in ("t1", "s1-t1-all"))
    assert student["teacher_sha256"] == teacher["weights_sha256"]
    assert student["architectures"]["t1"]["sites"] == [], "it teaches alone"
    sizes = {name: one["parameters"] for name, one in student["architectures"].items()}
    assert rows["t1"]["parameters"] == str(sizes["t1"])
    assert rows["s1-t1-all"]["parameters"] == rows["s1-alone+"]["parameters"] == str(sizes["s1"])
    assert float(rows["t1"]["avg"]) == pytest.approx(
        np.mean([read(out / "runs/t1" / f"seed{n}")["metrics"]["avg"] for n in (42, 43)]), abs=1e-4
    )
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (out / "table.md").read_text().splitlines()
        if line.startswith("|")
    ]
    values = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    tested = {title for title, line in values.items() if line["p (alone+)"]}
    assert tested == {"S1 by T1: all"}, "over cases, against the same student alone"
    assert (out / "cases.png").stat().st_size > 5000
    capsys.readouterr()
    assert main([*asked, "--only", "s1-t1-all"]) == 0
    assert "s1-t1-all/seed43 is complete already" in capsys.readouterr().err
