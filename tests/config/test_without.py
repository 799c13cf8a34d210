"""The configuration of a run that never had a hospital, from that of one that had it."""

from pathlib import Path
from typing import Any

import pytest

from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.config.timeline import arrivals_of, timeline_of
from fedcl.config.without import without
from fedcl.errors import ConfigError
from fedcl.registry import SCENARIO
from fedcl.timeline import Timeline
from tests.conftest import TINY
from tests.images import decathlon

BASE: dict[str, Any] = {"scenario": {"name": "phantom"}}


def timelines(
    site: str, stages: list[list[str]] | None = None, **given: Any
) -> tuple[Timeline, Timeline]:
    """Return the timeline of a run, and that of the run without a site."""
    values = {**BASE, "timeline": {"stages": stages, **given}}

    def read(one: dict[str, Any]) -> Timeline:
        return timeline_of(arrivals_of(one), lambda: [["A", "B"], ["C", "D"]], 0)

    before = read(values)
    return before, read(without(values, before.stages, site))


def test_the_stages_of_others_stay_in_their_order():
    assert timelines("B", [["A"], ["B", "C"], ["D"]])[1].stages == (("A",), ("C",), ("D",))


def test_a_stage_that_the_site_alone_made_happen_is_none():
    assert timelines("B", [["A"], ["B"], ["C"]])[1].stages == (("A",), ("C",))
    assert timelines("A", [["A"], ["B"], ["C"]])[1].stages == (("B",), ("C",))


def test_what_is_said_of_others_is_counted_anew():
    after = timelines("B", [["A"], ["B"], ["C"]], sites={"A": {"leave": 3, "rejoin": 4}})[1]
    assert after.stages == (("A",), ("C",), ())
    assert (after.stays["A"].leave, after.stays["A"].rejoin) == (2, 3)
    assert [after.present(stage) for stage in range(3)] == [["A"], ["C"], ["A", "C"]]


def test_a_stage_in_which_another_gets_cases_or_is_back_stays():
    after = timelines("B", [["A"], ["B"]], sites={"A": {"ramp": 3}})[1]
    assert after.stages == (("A",), (), ()) and after.share("A", 1) == pytest.approx(2 / 3)
    after = timelines("C", [["A", "B"], ["D"], ["C"]], sites={"A": {"leave": 2, "rejoin": 3}})[1]
    assert after.stages == (("A", "B"), ("D",), ()) and after.new(2) == ["A"]


def test_stages_that_only_the_return_of_the_site_or_its_cases_made_happen_go_too():
    after = timelines("A", [["A", "B"], ["C"]], sites={"A": {"ramp": 4}})[1]
    assert after.stages == (("B",), ("C",))
    after = timelines("A", [["A", "B"], ["C"]], sites={"A": {"leave": 2, "rejoin": 3}})[1]
    assert after.stages == (("B",), ("C",)) and not after.stays


def test_who_leaves_when_there_are_no_more_stages_stays_to_the_end():
    after = timelines("C", [["A"], ["B"], ["C"]], sites={"A": {"leave": 3}})[1]
    assert after.stages == (("A",), ("B",)) and not after.stays


def test_a_table_with_joins_loses_its_row():
    joins = {"A": {"join": 1}, "B": {"join": 2}, "C": {"join": 4}, "D": {"join": 2, "leave": 4}}
    after = timelines("B", sites=joins, participation="cumulative")[1]
    assert after.stages == (("A",), ("D",), (), ("C",)) and after.stays["D"].leave == 4


@pytest.mark.parametrize("order", ["reversed", "permuted"])
def test_places_that_others_took_are_still_theirs(order: str):
    before, after = timelines("B", None, order=order, sites={"A": {"leave": 2}})
    (leaver,) = before.stays
    site = next(one for one in before.sites if one != leaver)
    before, after = timelines(site, None, order=order, sites={"A": {"leave": 2}})
    assert after.stays == before.stays
    assert after.sites == [one for one in before.sites if one != site]


def test_nobody_can_have_been_away_only_while_the_site_came():
    with pytest.raises(ConfigError, match=r"timeline\.sites\.A\.rejoin: A was away only while B"):
        timelines("B", [["A"], ["B"]], sites={"A": {"leave": 2, "rejoin": 3}})


@pytest.mark.parametrize(
    ("site", "stages", "said"),
    [
        ("X", [["A"], ["B"]], r"--site: 'X' took no part; there are: A, B"),
        ("A", [["A"]], r"--site: A was the only hospital"),
    ],
)
def test_there_must_be_somebody_to_forget_and_somebody_left(site: str, stages: Any, said: str):
    with pytest.raises(ConfigError, match=said):
        timelines(site, stages)


def test_nothing_that_is_said_by_site_is_left():
    overrides = [
        *TINY, "timeline.stages=[[A,B],[C]]", "sites.C.data_fraction=0.5", "faults.nan={C:0.1,A:0}",
        "scenario.stages=[[A,B],[C]]",
    ]  # fmt: skip
    values = compose(overrides)
    after = without(values, [["A", "B"], ["C"]], "C")
    assert after["sites"] == {} and after["faults"]["nan"] == {"A": 0}
    assert after["scenario"]["stages"] == [["A", "B"]]
    assert Config.parse(after).timeline.sites == ["A", "B"]
    assert values["sites"], "what was given is not changed"


def test_labels_and_files_of_single_sites_go():
    files = {
        "name": "folder",
        "site_files": {"A": {"image": "x/{case}"}, "B": {"mask": "y/{case}"}},
    }
    files["site_labels"] = {"A": [0, 1], "B": [0, 2]}
    after = without({"scenario": files}, [["A"], ["B"]], "B")["scenario"]
    assert list(after["site_files"]) == ["A"] and after["site_labels"] == {"A": [0, 1]}


@pytest.mark.parametrize("how", ["shares", "table"])
def test_the_neighbour_does_not_get_the_cases_of_the_forgotten(tmp_path: Path, how: str):
    root = decathlon(tmp_path, [f"case_{n:02d}" for n in range(12)])
    scenario: dict[str, Any] = {"name": "decathlon", "root": str(root)}
    if how == "shares":
        scenario["cohorts"] = {"A": {"share": 0.3}, "B": {"share": 0.4}, "C": {"share": 0.3}}
    else:
        rows = [f"case_{n:02d},{'AABBBBBCCCCC'[n]}" for n in range(12)]
        (tmp_path / "t.csv").write_text("\n".join(["case,site", *rows]))
        scenario["table"] = str(tmp_path / "t.csv")
    before = SCENARIO.make(scenario)
    after = SCENARIO.make(without({"scenario": scenario}, [["A"], ["B"], ["C"]], "B")["scenario"])
    assert after.sites() == ["A", "C"]
    for site in "AC":
        assert after.case_names(site) == before.case_names(site) != []
    told = " ".join(after.left_out())
    assert before.case_names("B")[0] not in told and f" {len(before.case_names('B'))}" in told


def test_shares_without_a_folder_cannot_be_told_apart():
    scenario = {"name": "decathlon", "cohorts": {"A": {"share": 0.5}, "B": {"share": 0.5}}}
    with pytest.raises(ConfigError, match=r"scenario\.cohorts: shares count the cases"):
        without({"scenario": scenario}, [["A"], ["B"]], "B")


def test_a_given_split_keeps_the_cases_of_others(tmp_path: Path):
    root = decathlon(tmp_path, [f"case_{n:02d}" for n in range(6)])
    (tmp_path / "s.json").write_text(
        '{"train": ["case_00", "case_04"], "test": ["case_01", "case_05"]}'
    )
    cohorts = {"A": {"cases": ["case_00", "case_01"]}, "B": {"cases": ["case_04", "case_05"]}}
    scenario: dict[str, Any] = {"name": "decathlon", "root": str(root), "cohorts": cohorts}
    scenario["splits"] = str(tmp_path / "s.json")
    after = without({"scenario": scenario}, [["A"], ["B"]], "B")["scenario"]
    assert after["splits"] is None
    assert after["assigned"] == {"train": ["case_00"], "test": ["case_01"]}
    assert SCENARIO.make(after).assigned == after["assigned"]
