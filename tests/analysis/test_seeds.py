"""A seed counts once in every mean, however many orders it was run in."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fedcl.analysis import classes, report
from fedcl.analysis.compare import _reference
from fedcl.analysis.runs import Group, Run
from fedcl.analysis.statistics import joint_of, table
from fedcl.server.results import Results

SITES = ["A", "B"]


def run(strategy: str, seed: int, avg: float, order: str = "AB", **more: Any) -> Run:
    by_class: Mapping[str, Any] = {"dice_class_1": {"avg": avg, "worst_site": avg}}
    results = Results(
        strategy=strategy, seed=seed, sites=SITES, arrivals=[[*order[0]], [*order[1]]],
        stages=[[*order[0]], [*order[1]]], matrix=[[avg, avg], [avg, avg]],
        cases={site: {"p": [avg, avg]} for site in SITES},
        metrics={"avg": avg, "bwt": 0.0, "std_site": avg, "worst_site": avg},
        metrics_by_class=by_class,
        bytes={"down": int(100 * avg), "up": 0}, seconds={"train": avg},
    )  # fmt: skip
    return Run("somewhere", replace(results, **more), {"strategy.name": strategy})


UNEVEN = [run("lwf", 0, 0.9), run("lwf", 0, 0.9, "BA"), run("lwf", 1, 0.3)]
GROUPS = [Group("lwf", UNEVEN), Group("plop", [run("plop", n, 0.65) for n in (0, 1)])]


def test_the_table_its_classes_and_its_reference_count_alike():
    lines = {line.name: line for line in table(GROUPS, "plop")}
    assert lines["lwf"].mean["avg"] == pytest.approx(0.6)
    assert (lines["lwf"].bytes, lines["lwf"].seconds) == pytest.approx((60, 0.6))
    assert _reference(GROUPS, None) == "plop"
    (row, _) = classes.table(GROUPS)
    assert row.mean["avg"] == pytest.approx(0.6) and row.runs == 3


@pytest.mark.parametrize("draw", [report._curves, report._sites])
def test_the_page_counts_alike(draw: Any):
    looks = {name: {"color": "#000", "dash": "solid", "symbol": "x"} for name in ("lwf", "plop")}
    drawn = [one for one in draw(GROUPS, looks).data if one.name == "lwf" and one.y is not None]
    assert drawn and all(value == pytest.approx(0.6) for one in drawn for value in one.y)


def test_no_joint_run_on_other_data_is_an_upper_bound():
    ours, theirs = {"A": "a", "B": "b"}, {"A": "a", "B": "other"}
    one = run("lwf", 0, 0.5, data_sha256=ours)
    other, same = (run("joint", 0, 0.8, "BA", data_sha256=data) for data in (theirs, ours))
    same = replace(same, results=replace(same.results, arrivals=[SITES]))
    assert joint_of(one, [run("joint", 0, 0.8, data_sha256=theirs)]) is None
    assert joint_of(one, [other, same]) is same
