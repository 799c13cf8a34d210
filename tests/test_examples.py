"""The examples run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import ROOT

SAYS = {
    "three_strategies": r"(finetune|lwf|joint) +0\.\d{3} [+-]0\.\d{3}",
    "own_method": r"(lwf|sure|sure strategy.least=0.99) +AVG 0\.\d{3}  BWT [+-]0\.\d{3}",
    "own_data": r"Dice after stage \d: bright 0\.\d{3}, dark 0\.\d{3}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str):
    file = ROOT / "examples" / f"{name}.py"
    done = subprocess.run([sys.executable, str(file)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.fullmatch(SAYS[name], line)]
    assert len(lines) == (2 if name == "own_data" else 3), done.stdout


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SAYS)


def test_the_layout_of_a_folder_per_patient_is_read(tmp_path: Path):
    for site in ("north", "south"):
        for number in range(4):
            folder = tmp_path / "data" / site / f"patient{number}"
            folder.mkdir(parents=True)
            mask = np.zeros((16, 12, 4), np.uint8)
            mask[4:9, 4:9, 1:3] = 1
            for name, values in (
                ("t1", mask * 5.0 + number),
                ("flair", -mask * 1.0),
                ("seg", mask),
            ):
                nib.save(nib.Nifti1Image(values, np.diag([1, 1, 3, 1])), folder / f"{name}.nii.gz")
    (tmp_path / "data" / "north" / "notes.txt").write_text("")
    asked = ["scenario=by_patient", f"scenario.root={tmp_path / 'data'}", "scenario.spatial_dims=3"]
    done = subprocess.run(
        [Path(sys.executable).with_name("fedcl"), "inspect", *asked], cwd=tmp_path,
        capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "examples" / "plugins")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4x12x16" in done.stdout and "3x1x1" in done.stdout
    assert "note: site north: left out, no folder of a patient: notes.txt" in done.stdout
