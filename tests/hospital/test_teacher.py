"""Whom a hospital's teacher has learned from."""

from pathlib import Path

import pytest

from fedcl.app.simulation import nodes_of
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.hospital.site import Hospital
from fedcl.hospital.teacher import taught
from fedcl.wire import records
from fedcl.wire.requests import TrainRequest
from tests.conftest import TINY

SIZES = [
    "models.big.name=plain_unet", "models.big.channels=[4,8,16]",
    "models.small.name=plain_unet", "models.small.channels=[4,8]",
    "sites.A.model=big", "sites.B.model=big", "sites.C.model=small", "sites.D.model=small",
]  # fmt: skip


def knows(site: str, *overrides: str, round_: int = 3, lost: str = "") -> list[str]:
    """Return it in a round of the second stage, of rounds 3 and 4."""
    config = Config.parse(compose([*TINY, "timeline.stages=[[A,C],[B,D]]", *overrides]))
    here = Hospital.of(nodes_of(config, Path("none"))[site], config.job.to_json())
    call = TrainRequest(
        job="", model="", arrays=records.to_record({}), arrivals=[["A", "C"], ["B", "D"]],
        shares={site: 1.0}, stage=1, round=round_, rounds=2, lost=list(lost),
    )  # fmt: skip
    return taught(here, call)


@pytest.mark.parametrize(
    ("site", "strategy", "sites"),
    [("D", "lwf", ["C"]), ("B", "lwf", ["A"]), ("D", "contrastive", ["A"])],
)
def test_a_teacher_knows_those_who_trained_its_architecture(
    site: str, strategy: str, sites: list[str]
):
    assert knows(site, f"strategy={strategy}", *SIZES) == sites


def test_a_teacher_of_this_stage_knows_who_is_there_and_no_teacher_who_never_delivered():
    assert knows("D", "strategy=lwf") == ["A", "C"]
    assert knows("D", "strategy=lwf", lost="A") == ["C"]
    assert knows("D", "strategy=lwf", "strategy.teacher.refresh=round", round_=4) == [*"ACBD"]
    assert knows("D", "strategy=lwf", "strategy.teacher.refresh=both", round_=4) == ["A", "C"]
