"""What results.json holds, as it is written and read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedcl.errors import ConfigError
from fedcl.server.results import FILE, ArchitectureResults, Results
from tests.conftest import read
from tests.images import picture

RUN = Results(
    strategy="ted", seed=0, sites=["A"], matrix=[[0.5]], cases={"A": {"p": [0.5]}},
    metrics={"avg": 0.5}, seconds={"train": 1.0}, bytes={"down": 1, "up": 1},
    architectures={"unet": ArchitectureResults(model="unet", sites=["A"], parameters=7, macs=9)},
    chosen=[2, 5], settled={"scenario.spacing": [3.25, 0.9, 0.95]},
)  # fmt: skip


def test_what_is_written_is_read():
    text = json.dumps(RUN.values()).encode()
    assert Results.of(text) == RUN
    assert "reason" not in RUN.values() and "matrix" not in RUN.values()["architectures"]["unet"]


def test_what_an_earlier_version_did_not_write_is_empty():
    values = RUN.values()
    del values["chosen"], values["settled"]
    assert Results.of(json.dumps(values).encode()) == replace(RUN, chosen=[], settled={})


def test_what_is_not_known_is_not_written_as_0():
    unmet = replace(RUN, architectures={"unet": ArchitectureResults(model="unet", sites=["A"])})
    assert set(unmet.values()["architectures"]["unet"]) == {"model", "sites", "seconds_per_case"}
    assert Results.of(json.dumps(unmet.values()).encode()) == unmet


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", "0", "seed"), ("matrix", [[float("nan")]], "matrix"), ("sites", None, "sites"),
        ("chosen", [2.5], "chosen"), ("settled", {"scenario.spacing": [float("nan")]}, "settled"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_in_one_line(tmp_path: Path, key: str, value: object, said: str):
    (tmp_path / FILE).write_text(json.dumps(RUN.values() | {key: value}))
    with pytest.raises(ConfigError, match=rf"{FILE}: cannot be read \({said}") as told:
        Results.read(tmp_path)
    assert "\n" not in str(told.value)


def test_samples_of_other_sizes_than_elsewhere_are_told(cli, tmp_path: Path) -> None:
    """Networks that normalise over an image see its padding, and a pool pads to the largest."""
    rng = np.random.default_rng(0)
    for site, size in (("A", 16), ("B", 24)):
        for number in range(5):
            image = rng.integers(0, 200, (size, 16)).astype(np.uint8)
            picture(tmp_path / site / "images" / f"p{number}.png", image)
            mask = np.where(image > 100, 255, 0).astype(np.uint8)
            picture(tmp_path / site / "masks" / f"p{number}.png", mask)
    quick = [
        "engine=inprocess", "tracking.enabled=false", "run.figures=false", "strategy=finetune",
        "scenario=folder", "scenario.patient='^(.+)$'", "model.channels=[4,8]", "learner.steps=1",
        "timeline.rounds=1", f"scenario.root={tmp_path}",
    ]  # fmt: skip
    note = "samples of 16x16, elsewhere up to 24x16: "
    for more in (["timeline.centralised=true"], ["scenario.size=null"]):
        assert cli(*quick, *more, f"run.dir={tmp_path / more[0][:8]}") == 0
        notes = read(tmp_path / more[0][:8])["notes"]
        assert list(notes) == ["A"] and notes["A"][0].startswith(note)
    assert cli(*quick, "scenario.size=24", f"run.dir={tmp_path / 'alike'}") == 0
    assert read(tmp_path / "alike")["notes"] == {}
