"""The examples run as they stand."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SAYS = {
    "three_strategies": r"(finetune|lwf|joint) +0\.\d{3} [+-]0\.\d{3}",
    "own_method": r"(lwf|sure|sure strategy.least=0.99) +AVG 0\.\d{3}  BWT [+-]0\.\d{3}",
    "own_data": r"Dice after stage \d: bright 0\.\d{3}, dark 0\.\d{3}",
}


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str):
    file = ROOT / "examples" / f"{name}.py"
    done = subprocess.run([sys.executable, str(file)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.fullmatch(SAYS[name], line)]
    assert len(lines) == (2 if name == "own_data" else 3), done.stdout


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SAYS)
