"""What results.json holds, as it is written and read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedcl.errors import ConfigError
from fedcl.server.results import FILE, ArchitectureResults, Results

RUN = Results(
    strategy="ted", seed=0, sites=["A"], matrix=[[0.5]], cases={"A": {"p": [0.5]}},
    metrics={"avg": 0.5}, seconds={"train": 1.0}, bytes={"down": 1, "up": 1},
    architectures={"unet": ArchitectureResults(model="unet", sites=["A"], parameters=7, macs=9)},
)  # fmt: skip


def test_what_is_written_is_read():
    text = json.dumps(RUN.values()).encode()
    assert Results.of(text) == RUN
    assert "reason" not in RUN.values() and "matrix" not in RUN.values()["architectures"]["unet"]


def test_what_is_not_known_is_not_written_as_0():
    unmet = replace(RUN, architectures={"unet": ArchitectureResults(model="unet", sites=["A"])})
    assert set(unmet.values()["architectures"]["unet"]) == {"model", "sites", "seconds_per_case"}
    assert Results.of(json.dumps(unmet.values()).encode()) == unmet


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("seed", "0", "seed"), ("matrix", [[float("nan")]], "matrix"), ("sites", None, "sites")],
)
def test_a_wrong_value_is_named_in_one_line(tmp_path: Path, key: str, value: object, said: str):
    (tmp_path / FILE).write_text(json.dumps(RUN.values() | {key: value}))
    with pytest.raises(ConfigError, match=rf"{FILE}: cannot be read \({said}") as told:
        Results.read(tmp_path)
    assert "\n" not in str(told.value)
