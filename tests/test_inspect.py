"""`fedcl inspect` says what there is, or what is wrong."""

import pytest
from conftest import SUNNYBROOK

from fedcl.cli import main


def test_it_says_what_each_site_holds(capsys):
    assert main(["inspect", "scenario.patients=6", "scenario.slices=2"]) == 0
    said = capsys.readouterr().out
    assert all(f" {site} " in said for site in "ABCDEF")
    assert "64x64" in said


def test_it_says_when_the_model_cannot_take_the_data(capsys):
    assert main(["inspect", "scenario.size=36", "model.channels=[4,8,16,32]"]) == 2
    said = capsys.readouterr()
    assert "36x36" in said.out and "cannot take images of 36 x 36" in said.err


def test_it_says_what_the_model_costs(capsys):
    """A SIREN of 2 inputs (one frame: no t), 8 units, one more hidden layer: by hand."""
    model = ["model=siren", "model.width=8", "model.hidden=1"]
    assert main(["inspect", "scenario=cine_signal", *model]) == 0
    said = " ".join(capsys.readouterr().out.split())
    parameters = (2 * 8 + 8) + (8 * 8 + 8) + 2 * (8 + 1)  # two outputs: signal and mask
    operations = 2 * 8 + 8 * 8 + 2 * 8
    assert f"model siren: {parameters} parameters, {operations} multiply" in said


@pytest.mark.skipif(not SUNNYBROOK.exists(), reason="../shared/data/sunnybrook is not there")
def test_it_reads_real_data(capsys):
    assert main(["inspect", "scenario=folder", f"scenario.root={SUNNYBROOK}"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("HF-I", "HF-NI", "HYP", "245", "142"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("scenario=fold", "Could not find 'scenario/fold'"),
        ("scenari.size=3", "scenari.size: no such key"),
        ("scenario.sise=3", "did you mean scenario.size?"),
        ("scenario.patients=1", "scenario.patients: must be at least 3"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, override: str, said: str):
    assert main(["inspect", override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
