"""Which state of a run stays when a hospital is to be forgotten, and what is left of it in it."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.config.without import without
from fedcl.server.ledger import Ledger
from fedcl.server.state import State
from fedcl.server.withdrawal import cleaned, obstacle
from fedcl.timeline import POOL
from tests.conftest import MIXED, TINY

STAGES = [["A", "B"], ["C"], ["D"]]


def configs(*overrides: str, site: str = "C") -> tuple[Config, Config]:
    """Return a run's configuration, and that of the run without a site."""
    values = compose([*TINY, "timeline.stages=[[A,B],[C],[D]]", *overrides])
    return Config.parse(values), Config.parse(without(values, STAGES, site))


def state(config: Config, **parts: Any) -> State:
    return State({}, config.fingerprint(), **parts)


@pytest.mark.parametrize(
    "overrides",
    [
        ["sites.C.data_fraction=0.5"],
        ["faults.nan={A:0.1,C:0.2}"],
        ["timeline.sites.A.leave=3"],
        [*MIXED, "strategy=contrastive"],
    ],
)
def test_what_is_said_of_the_hospital_and_of_later_stages_is_no_obstacle(overrides: list[str]):
    before, after = configs(*overrides)
    assert obstacle(state(before), after, "C") is None


def test_an_architecture_of_its_own_is_one():
    before, after = configs(
        "models.own.name=unet", "models.own.channels=[4,8]", "sites.C.model=own"
    )
    told = obstacle(state(before), after, "C")
    assert told is not None and told.startswith("without C models.own.")


@pytest.mark.parametrize(("largest", "found"), [("C", True), ("D", False)])
def test_the_largest_images_of_a_pool_are_one(largest: str, found: bool):
    before, after = configs("timeline.centralised=true")
    samples = {site: [1, 32, 48 if site == largest else 32] for site in "ABCD"}
    told = obstacle(state(before, samples=samples | {POOL: [1, 32, 48]}), after, "C")
    assert (told is not None and "C had the largest images" in told) is found


def test_nothing_of_the_hospital_is_left_in_a_state_and_nothing_of_others_is_lost():
    before, after = configs()
    scores = {site: {"dice": {f"{site}-1": 0.5}} for site in "ABCD"}
    ledger = Ledger(bytes={"down": 7}, reputation={site: {"again": 1} for site in "AC"})
    for site in "AC":
        ledger.fail(site, 0, 1, "test", "it is off")
    was = state(
        before, initial=scores, rows=[scores], elsewhere=[{"unet": scores}],
        predicting={"unet": {"A": 1.0, "C": 1.0}}, trained=[["A", "B"]], versions={"A": 2},
        ended=[{"A": 2}], kept={"A": "ff"}, stored={"A": 3}, holds={"A": ["x"], "C": ["x"]},
        digests={"A": "aa", "C": "cc"}, samples={"A": [1], "C": [1]},
        notes={"A": ["n"], "C": ["n"]}, left_out=["C-2 lies about"], ledger=ledger,
        sources={"A": [1.0], "C": [1.0]}, sent=[{"down": 7}],
        tracking_run="run", tracking_experiment="1", round=2,
    )  # fmt: skip
    now = cleaned(was, after, "C")
    text = json.dumps(asdict(now))
    for trace in ('"C"', "C-1", "C-2", "cc", '"run"'):
        assert trace not in text, trace
    assert now.rows == [{site: scores[site] for site in "ABD"}] and now.versions == {"A": 2}
    assert [one["site"] for one in now.ledger.failures] == ["A"]
    assert now.ledger.reputation == {"A": {"again": 1}} and now.round == 2
    assert set(now.ledger.bytes.values()) == {0} and now.sent == [now.ledger.bytes]
    assert now.secret != was.secret
    # What was there is not changed.
    assert was.rows[0]["C"] and was.ledger.failures[1]["site"] == "C"
