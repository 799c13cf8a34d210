"""What a site may weigh in a round, on numbers small enough to reckon by hand."""

from pathlib import Path
from typing import Any

import pytest

from fedcl.effort import Clock
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.server.shares import ceilings, shares
from fedcl.server.state import State
from fedcl.wire.local_grid import InProcessGrid
from tests.servers import config


@pytest.mark.parametrize(
    ("expected", "most", "found"),
    [
        ({"A": 100, "B": 100}, 0.9, {}),
        ({"A": 90, "B": 10}, 0.9, {}),  # as unequal as may be
        ({"A": 10**10, "B": 100}, 0.9, {"A": 900}),  # 900 / 1000
        ({"A": 10**10, "B": 100, "C": 60}, 0.8, {"A": 640}),  # 640 / 800
        ({"A": 10**10, "B": 10**9, "C": 60}, 0.4, {"A": 120, "B": 120}),  # 120 / 300 each
        ({"A": 10**10, "B": 30, "C": 60}, 0.5, {"A": 90}),
        ({"A": 10**10, "B": 70}, 0.2, {"A": 70}),  # at most half each: all weigh the same
        ({"A": 10**10, "B": 70}, 1.0, {}),
        ({"A": 10**10}, 0.9, {}),  # nobody else is there
        ({}, 0.9, {}),
    ],
)
def test_who_would_weigh_too_much_counts_as_less(expected: dict, most: float, found: dict):
    assert ceilings(expected, most) == pytest.approx(found)


def test_a_site_alone_in_learning_is_not_bounded_and_those_beside_it_are():
    """One of 200 learns beside two that rehearse 8 each; then one of these claims very many."""
    assert ceilings({"A": 200, "B": 8, "C": 8}, 0.5, alone=["A"]) == {}
    found = ceilings({"A": 200, "B": 10**10, "C": 8}, 0.5, alone=["A"])
    assert found == pytest.approx({"B": 208})


def test_shares_are_parts_of_the_whole():
    assert shares({"A": 3, "B": 1}) == {"A": 0.75, "B": 0.25}
    assert shares({}) == {}


FEW = ("strategy=finetune", "timeline.stages=[[A,B],[C,D]]")


def weighed(folder: Path, *overrides: str, **about: object) -> tuple[State, dict[str, Any]]:
    """Run four hospitals, of which D is as told; return the last state and the results."""
    nodes: list[dict] = [{"site": site, "state-path": str(folder / site)} for site in "ABCD"]
    nodes[3] |= about
    settings = config(*FEW, *overrides)
    grid = InProcessGrid("tests.apps:rogue", nodes)
    server = Server(grid, settings, Checkpoint(folder / "checkpoint"))
    server.run(server.meet(), Clock())
    return server.state, outcome(settings, server.state).values()


CLAIMS = {"claims": 10**10, "spoil": "claims", "bad-from": 0}
"""A hospital that says it has very many samples, and has trained on them."""


def test_who_claims_very_many_samples_weighs_no_more_than_it_may(tmp_path: Path):
    _, found = weighed(tmp_path, **CLAIMS)
    shares = found["shares"]
    assert shares["D"] == pytest.approx({"last": 0.9, "sum": 1.8}, abs=0.01)
    assert shares["C"] == pytest.approx({"last": 0.1, "sum": 0.2}, abs=0.01)
    assert shares["A"] == {"last": 0.0, "sum": 1.0}, "two rounds, half of each"
    assert found["failures"] == []


@pytest.mark.parametrize(
    ("overrides", "claims"),
    [
        (["strategy=replay", "timeline.stages=[[A,D],[B,C]]"], 10**10),  # expected: what it stores
        (["timeline.stages=[[C,D],[A]]", "+timeline.sites.D.ramp=2"], 70),  # half of its cases
    ],
)
def test_nor_does_who_is_expected_with_few(tmp_path: Path, overrides: list[str], claims: int):
    about = {**CLAIMS, "claims": claims}
    state, found = weighed(tmp_path, *overrides, "timeline.rounds=1", **about)
    assert found["failures"] == []
    assert state.ledger.shares["D"]["last"] < 0.91
    assert state.ledger.shares["D"]["sum"] < 1.82


def test_what_the_operator_knows_counts_and_not_what_is_claimed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    honest, known = weighed(tmp_path / "honest")
    samples = 4  # two of its six patients, two slices each
    state, found = weighed(tmp_path / "known", f"sites.D.samples={samples}", **CLAIMS)
    assert found["weights_sha256"] == known["weights_sha256"]
    assert "they count as 4 (sites.D.samples)" in caplog.text
    assert state.ledger.shares == honest.ledger.shares
    _, half = weighed(tmp_path / "half", "sites.D.samples=2")
    assert half["shares"]["D"] == pytest.approx({"last": 1 / 3, "sum": 2 / 3}, abs=1e-6)
