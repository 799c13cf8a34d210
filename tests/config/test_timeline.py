"""Who is present when, as described by stages, by site, in YAML or as a table."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.config.timeline import arrivals_of, inlined, timeline_of
from fedcl.errors import ConfigError
from fedcl.server.outcome import away, presence
from fedcl.timeline import Timeline, can_name
from tests.conftest import TINY, read

STAGES = [["A", "B"], ["C"]]


def timeline(seed: int = 0, **values: Any) -> Timeline:
    return timeline_of(arrivals_of({"timeline": values}), lambda: STAGES, seed)


def who(told: Callable[[int], list[str]], stages: int) -> list[str]:
    return ["".join(told(stage)) for stage in range(stages)]


def test_a_site_leaves_and_is_back():
    known = timeline(sites={"A": {"leave": 2, "rejoin": 4}})
    assert known.stages == (("A", "B"), ("C",), (), ())
    assert who(known.seen, 4) == ["AB", "ABC", "ABC", "ABC"]
    assert who(known.present, 4) == ["AB", "BC", "BC", "ABC"]
    assert who(known.new, 4) == ["AB", "C", "", "A"]


def test_a_site_that_leaves_for_good_needs_no_stage_of_its_own():
    known = timeline(sites={"B": {"leave": 2}})
    assert len(known.stages) == 2 and who(known.present, 2) == ["AB", "AC"]


def test_cases_come_in_over_several_stages_that_overlap_with_others():
    known = timeline(sites={"A": {"ramp": 3}, "C": {"ramp": 2}})
    assert [known.share("A", stage) for stage in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [known.share("C", stage) for stage in (1, 2)] == pytest.approx([0.5, 1])
    assert known.share("B", 0) == 1
    assert who(known.new, 3) == ["AB", "AC", "AC"]


@pytest.mark.parametrize(
    ("participation", "expected"),
    [
        ("new", ["AB", "C", "", "A"]),
        ("cumulative", ["AB", "BC", "BC", "ABC"]),
        ("window(1)", ["AB", "C", "", "A"]),
        ("window(2)", ["AB", "BC", "C", "A"]),
        ("window(9)", ["AB", "BC", "BC", "ABC"]),
    ],
)
def test_who_trains(participation: str, expected: list[str]):
    known = timeline(sites={"A": {"leave": 2, "rejoin": 4}}, participation=participation)
    assert who(known.participants, 4) == expected


def test_joins_replace_stages():
    joins = {"C": {"join": 1}, "A": {"join": 3, "ramp": 2}, "B": {"join": 1}}
    assert timeline(sites=joins).stages == (("C", "B"), (), ("A",), ())


def test_sites_come_so_many_at_a_time():
    assert timeline(per_stage=2).stages == (("A", "B"), ("C",))
    assert timeline(per_stage=1, order="reversed").stages == (("C",), ("B",), ("A",))
    assert timeline(per_stage=9, sites={"A": {"ramp": 2}}).stages == (("A", "B", "C"), ())


def test_a_thousand_stages_are_planned_as_three_are():
    """By the definition of who is new, site by site and stage by stage."""
    names = [f"S{number}" for number in range(1000)]
    ramps = {"S3": {"ramp": 4}, "S10": {"leave": 13, "rejoin": 500}, "S998": {"ramp": 3}}
    known = timeline(stages=[[name] for name in names], sites=ramps, participation="window(3)")
    assert len(known.stages) == 1001
    assert known.new(3) == ["S3"] and known.new(5) == ["S3", "S5"]
    assert known.new(499) == ["S10", "S499"] and known.new(1000) == ["S998"]
    assert known.participants(-1) == known.new(-1) == []
    assert known.participants(14) == ["S12", "S13", "S14"]
    assert known.participants(501) == ["S10", "S499", "S500", "S501"]
    assert "S10" not in known.present(100) and known.arrival("S700") == 700


def test_a_table_and_yaml_say_the_same(tmp_path: Path):
    table, text = tmp_path / "t.csv", tmp_path / "t.yaml"
    table.write_text("site,join,leave,rejoin,ramp\nA,1,2,4,\nB,1,,,3\nC,2,,,\n")
    sites = {
        "A": {"join": 1, "leave": 2, "rejoin": 4},
        "B": {"join": 1, "ramp": 3},
        "C": {"join": 2},
    }
    text.write_text(yaml.safe_dump({"sites": sites}))
    direct = timeline(sites=sites)
    assert timeline(file=str(table)) == timeline(file=str(text)) == direct
    assert inlined({"file": str(table), "rounds": 2}) == {"rounds": 2, "sites": sites}


def test_orders_change_who_takes_the_places_and_not_the_places():
    sites = {"A": {"leave": 2}, "C": {"ramp": 2}}
    back = timeline(sites=sites, order="reversed")
    assert back.stages == (("C", "B"), ("A",), ())
    assert who(back.present, 2) == ["CB", "BA"], "who is in A's place leaves"
    assert back.share("A", 1) == 0.5, "who is in C's place fills up slowly"
    drawn = {timeline(seed, order="permuted").stages for seed in range(20)}
    assert len(drawn) > 3 and all(sorted(sum(s, ())) == ["A", "B", "C"] for s in drawn)
    assert timeline(3, order="permuted") == timeline(3, order="permuted")


def test_who_is_away_follows_from_the_seed_and_never_too_many_are():
    known = timeline(dropout=0.5)
    sites = ["A", "B", "C", "D"]
    rounds = [known.reached(sites, round_, []) for round_ in range(1, 401)]
    assert rounds == [known.reached(sites, round_, []) for round_ in range(1, 401)]
    assert fmean(map(len, rounds)) == pytest.approx(2, abs=0.15)
    assert rounds != [timeline(1, dropout=0.5).reached(sites, r, []) for r in range(1, 401)]
    always = timeline(dropout=1.0)
    left = [always.reached(sites, r, [(2, sites), (1, ["A"])]) for r in range(1, 50)]
    assert all(2 <= len(there) <= 3 and "A" in there for there in left)
    assert len(set(map(tuple, left))) > 1, "not always the same ones"
    for there in left:
        assert there == sorted(there), "in site order"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"per_stage": 2, "stages": [["A"]]}, "timeline.per_stage: timeline.stages or"),
        ({"sites": {"A": {"leave": 1}}}, "timeline.sites.A.leave: must be at least 2"),
        ({"sites": {"C": {"leave": 2}}}, "timeline.sites.C.leave: 2, but it arrives in stage 2"),
        ({"sites": {"A": {"leave": 5}}}, "timeline.sites.A.leave: 5, but there are 2 stages"),
        ({"sites": {"A": {"rejoin": 3}}}, "timeline.sites.A.rejoin: 3; give it a leave"),
        ({"sites": {"A": {"leave": 3, "rejoin": 3}}}, "timeline.sites.A.rejoin: 3; give it"),
        (
            {"sites": {"X": {"ramp": 2}}},
            "timeline.sites.X: it arrives in no stage; there are: A, B, C",
        ),
        ({"sites": {"A": {"join": 1}, "B": {}}}, "timeline.sites.B.join: missing"),
        ({"sites": {"A": {"join": 1}}, "stages": [["A"]]}, "timeline.sites.A.join: timeline.sta"),
        ({"sites": {"A": {"ramps": 2}}}, "timeline.sites.A.ramps"),
        ({"participation": "window(0)"}, "timeline.participation: must be one of new"),
        ({"participation": "window"}, "timeline.participation: must be one of new"),
        ({"dropout": 1.5}, "timeline.dropout: must be at most 1"),
        ({"dropout": 0.5, "centralised": True}, "timeline.dropout: a pool"),
        ({"order": "random"}, "timeline.order: must be one of listed"),
        ({"file": "nowhere.csv"}, "timeline.file: nowhere.csv cannot be read"),
    ],
)
def test_what_contradicts_itself_is_refused_by_its_key(values: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")) as error:
        timeline(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "site,leave\nA,2\n",
        "site,join,colour\nA,1,red\n",
        "site,join\nA,1\nA,2\n",
        "site,join\nA\n",
        "site,join\nA,1,3\n",
        "site,join\nA,first\n",
        "",
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"timeline\.file: .*t\.csv cannot be read"):
        timeline(file=str(path))


def test_a_stage_in_which_nobody_trains_is_refused_unless_the_method_has_somebody():
    stays = ["timeline.sites.A.join=1", "timeline.sites.B.join=3"]
    with pytest.raises(ConfigError, match="timeline: nobody trains in stage 2"):
        Config.parse(compose([*TINY, "strategy=finetune", *stays]))
    assert len(Config.parse(compose([*TINY, "strategy=joint", *stays])).timeline.stages) == 3


def test_the_cases_of_fields_do_not_come_in_bit_by_bit():
    overrides = ["scenario=cine_domain", "timeline.sites.early.ramp=2"]
    with pytest.raises(ConfigError, match=r"timeline\.sites\.early\.ramp: .* bit by bit"):
        Config.parse(compose(overrides))


def test_a_run_follows_its_timeline(cli: Callable[..., int], tmp_path: Path):
    table = tmp_path / "hospitals.csv"
    table.write_text("site,join,leave,rejoin,ramp\nA,1,2,4,\nB,1,,,2\nC,2,,,\nD,3,,,\n")
    folder = tmp_path / "run"
    settings = [*TINY, "strategy=ted", "run.figures=true", "timeline.dropout=0.3"]
    assert cli(*settings, f"timeline.file={table}", f"run.dir={folder}") == 0
    table.unlink()
    results = read(folder)
    assert results["arrivals"] == [["A", "B"], ["C"], ["D"], []]
    assert results["presence"] == {
        "A": [1.0, None, None, 1.0],
        "B": [0.5, 1.0, 1.0, 1.0],
        "C": [None, 1.0, 1.0, 1.0],
        "D": [None, None, 1.0, 1.0],
    }
    assert results["cohorts"] == [["A", "B"], ["B", "C"], ["D"], ["A"]]
    rounds = {site: set(away) for site, away in results["away"].items()}
    for stage, cohort in enumerate([["A", "B"], ["B", "C"], ["D"], ["A"]]):
        here = {2 * stage + 1, 2 * stage + 2}
        trained = [site for site in cohort if not here <= rounds.get(site, set())]
        assert sorted(results["stages"][stage]) == sorted(trained)
    matrix, sites = results["matrix"], results["sites"]
    last = {s: max(t for t, names in enumerate(results["stages"]) if s in names) for s in sites}
    old = [s for s in sites if any(s in names for names in results["stages"][:3])]
    column = {site: number for number, site in enumerate(sites)}
    bwt = fmean(matrix[3][column[s]] - matrix[last[s]][column[s]] for s in old)
    assert results["metrics"]["bwt"] == pytest.approx(bwt)
    assert (folder / "figures" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    (folder / "results.json").unlink()  # it goes on without the file
    assert cli(f"run.resume={folder}") == 0
    assert read(folder)["weights_sha256"] == results["weights_sha256"]


def test_the_first_half_of_the_cases_is_what_a_fraction_of_one_half_takes(
    cli: Callable[..., int], tmp_path: Path
):
    half, ramp = tmp_path / "half", tmp_path / "ramp"
    common = [*TINY, "strategy=finetune", "timeline.stages=[[A],[B]]"]
    assert cli(*common, "sites.A.data_fraction=0.5", f"run.dir={half}") == 0
    assert cli(*common, "timeline.sites.A.ramp=2", f"run.dir={ramp}") == 0
    first, second = ((f / "checkpoint/stage-1.safetensors").read_bytes() for f in (half, ramp))
    assert first == second
    assert read(half)["weights_sha256"] != read(ramp)["weights_sha256"]
    assert read(ramp)["stages"] == [["A"], ["B", "A"]] or read(ramp)["stages"] == [
        ["A"],
        ["A", "B"],
    ]


def test_a_site_away_is_not_asked_and_others_stay_enough_for_the_aggregation():
    overrides = [*TINY, "aggregation=bulyan", "timeline.stages=[[A,B,C,D,E,F]]"]
    config = Config.parse(compose([*overrides, "timeline.dropout=0.9"]))
    for round_ in range(1, 30):
        assert len(config.asked(list("ABCDEF"), round_)) >= config.aggregation.least
    assert set(away(config)) <= set("ABCDEF") and presence(config)["A"] == [1.0]


@pytest.mark.parametrize(
    ("site", "fits"),
    [
        ("St\xa0Mary", True), ("Zürich", True), ("病院", True), ("a b", True),
        ("a\u202eb", False), ("a\x9b31m", False), ("a\nb", False), ("..", False), ("", False),
    ],
)  # fmt: skip
def test_a_name_is_what_one_sees(site: str, fits: bool):
    """Bundles take the same names as runs, so that a run's can be used."""
    assert can_name(site) == fits
