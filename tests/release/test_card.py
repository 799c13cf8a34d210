"""The model card: its numbers by hand, nothing from later stages, no name that is to be hidden."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from fedcl.errors import ConfigError
from fedcl.privacy.report_dp import ReportDP
from fedcl.release.card import card
from fedcl.release.known import interval, known
from fedcl.release.names import Names
from fedcl.server.metrics import summary
from fedcl.server.results import ArchitectureResults, Results, ScoreResults

ODD = "H|K <b>_x_"
RUN = Results(
    scenario="folder", strategy="ted", model="unet", seed=4, engine="ray",
    sites=["RUNMC", "BMC", ODD], arrivals=[["RUNMC"], ["BMC"], [ODD]],
    stages=[["RUNMC"], ["BMC"], [ODD]], rounds_per_stage=2, rounds=6, chosen=[2, 3, 6],
    matrix=[[0.8, 0.5, 0.2], [0.7, 0.9, 0.3], [0.75, 0.85, 0.6]],
    cases={
        "RUNMC": {"p1": [0.9, 0.6, 0.7], "p2": [0.7, 0.8, 0.8]},
        "BMC": {"q1": [0.4, 0.9, 0.8], "q2": [0.6, 0.9, 0.9], "q3": [0.5, 0.9, 0.85]},
        ODD: {"r1": [0.2, 0.3, 0.6]},
    },
    metrics={"avg": 2.2 / 3, "bwt": -0.05, "forgetting": 0.05, "worst_site": 0.6, "fwt": None},
    secondary={"iou": ScoreResults([[0.7, 0.4, 0.1], [0.6, 0.8, 0.2], [0.65, None, 0.5]], {})},
    samples={"RUNMC": [1, 16, 16], "BMC": [1, 16, 16], ODD: [1, 24, 24]},
    data_sha256={"RUNMC": "aa11", "BMC": "bb22", ODD: "cc33"},
    notes={"BMC": ["pixels: clipped: /data/bmc/q1.png, q2.png (2)"], ODD: ["guessed: r1.png"]},
    failures=[
        {"site": "BMC", "stage": 2, "round": 4, "what": "update", "reason": "BMC_host: no|answer"},
        {"site": ODD, "stage": 3, "round": 5, "what": "test", "reason": "too late"},
    ],
    architectures={"unet": ArchitectureResults(model="unet", sites=["RUNMC"], parameters=70)},
    privacy={"name": "none", "leaves": "weights alone"}, weights_sha256="dd44",
    versions={"python": "3.11", "torch": "2.13"}, seconds={}, bytes={},
)  # fmt: skip
VALUES: dict[str, Any] = {
    "scenario": {
        "name": "folder", "labels": [0, 7, [3, 4]], "channels": 2, "spacing": [1.5, 1.0],
        "normalise": "window", "window": [-100, 300],
    },
    "strategy": {"name": "ted"}, "learner": {"steps": 5, "epochs": 2, "lr": 0.01},
    "aggregation": {"name": "fedavg"}, "optimiser": {"name": "adam", "keep": False},
}  # fmt: skip


def rows(told: str, heading: str, number: int = 0) -> list[list[str]]:
    """Return the cells of a section's table, as a reader of Markdown sees them."""
    body = told.split(f"\n## {heading}", 1)[1].partition("\n\n## ")[0]
    tokens = MarkdownIt("commonmark").enable("table").parse(body.partition("\n")[2])
    tables: list[list[list[str]]] = []
    for place, token in enumerate(tokens):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("td_open", "th_open"):
            parts = tokens[place + 1].children or []
            tables[-1][-1].append("".join(part.content for part in parts))
    return tables[number][1:]


def section(told: str, heading: str) -> str:
    return told.split(f"\n## {heading}\n", 1)[1].partition("\n## ")[0]


# --- numbers ---------------------------------------------------------------------------------


def test_the_interval_is_students_over_cases():
    """4.3027 and 12.7062 are the quantiles of Student's t for three and for two cases."""
    low, high = interval([0.8, 0.9, 0.85]) or (0, 0)
    assert (low, high) == pytest.approx((0.85 - 4.302653 * 0.05 / 3**0.5, 0.974207), abs=1e-5)
    low, high = interval([1.0, 3.0]) or (0, 0)
    assert (low, high) == pytest.approx((2 - 12.70620, 2 + 12.70620), abs=1e-4)
    assert interval([0.5]) is None and interval([]) is None


def test_scores_of_the_last_stage_by_hand():
    told = card(RUN, VALUES)
    assert rows(told, "How well it does") == [
        ["RUNMC", "0.750 (0.115 to 1.000)", "2", "1", "0.800", "+0.050"],
        ["BMC", "0.850 (0.726 to 0.974)", "3", "2", "0.900", "+0.050"],
        [ODD, "0.600 (one case, no interval)", "1", "3", "0.300", "new in this stage"],
    ]
    assert rows(told, "How well it does", 1) == [
        ["RUNMC", "0.650"], ["BMC", "not evaluated"], [ODD, "0.500"]
    ]  # fmt: skip
    body = section(told, "How well it does")
    assert (
        "AVG, the mean over hospitals: 0.733" in body
        and "now than when they trained: -0.050" in body
    )
    assert "earlier hospitals: 0.050" in body and r"Worst hospital: 0.600 (H\|K \<b\>\_x\_)" in body


def test_after_a_stage_there_is_nothing_that_came_later():
    told = card(RUN, VALUES, stage=2)
    assert rows(told, "How well it does") == [
        ["RUNMC", "0.700 (0.000 to 1.000)", "2", "1", "0.800", "+0.100"],
        ["BMC", "0.900 (0.900 to 0.900)", "3", "2", "0.500", "new in this stage"],
    ]
    body = section(told, "How well it does")
    assert "over hospitals: 0.800" in body and "when they trained: -0.100" in body
    assert "Worst hospital: 0.700 (RUNMC)" in body
    assert rows(told, "Who trained it") == [
        ["1", "1 to 2", "RUNMC", "RUNMC", "2"], ["2", "3 to 4", "BMC", "BMC", "3"]
    ]  # fmt: skip
    for later in ("H\\|K", "cc33", "too late", "dd44", "24x24", "0.733", "0.650"):
        assert later not in told, later
    assert "arrays in the order of their names: not recorded for this stage" in told
    assert "their names: `ee55`" in card(RUN, VALUES, stage=2, sha256="ee55")


def test_figures_are_those_of_the_measures(tmp_path: Path):
    for stage in (1, 2, 3):
        seen = RUN.sites[:stage]
        wanted = summary(RUN.matrix[:stage], RUN.stages[:stage], RUN.sites, None, seen)
        found = known(RUN, stage).figures
        for name in ("avg", "bwt", "forgetting", "worst_site"):
            assert found[name] == pytest.approx(wanted[name]), (stage, name)


def test_what_was_not_measured_is_not_0():
    lost = replace(
        RUN, matrix=[[0.8, None, None], [None, 0.9, None]], stages=[["RUNMC"], ["BMC"]],
        cases={"BMC": {"q1": [None, 0.9]}}, secondary={}, data_sha256={},
        metrics={"avg": None, "bwt": None, "forgetting": None, "worst_site": None},
        status="failed", reason="disk full", architectures={}, rounds_per_stage=0, chosen=[],
        versions={},
    )  # fmt: skip
    told = card(lost, VALUES)
    assert rows(told, "How well it does") == [
        ["RUNMC", "not evaluated", "0", "1", "0.800", "not evaluated"],
        ["BMC", "0.900 (one case, no interval)", "1", "2", "not evaluated", "new in this stage"],
    ]
    assert "AVG, the mean over hospitals: not evaluated" in told
    assert rows(told, "Data")[0] == ["RUNMC", "not evaluated", "not recorded"]
    assert "Not evaluated at all on images of RUNMC" in told
    wrong = section(told, "What went wrong")
    assert "not complete: it ended as failed after 2 finished stages (disk full)" in wrong
    assert not re.search(r"\b0\.000\b|\bNone\b|\bnan\b", told)


# --- words -----------------------------------------------------------------------------------


def test_what_the_model_is_and_how_it_was_trained():
    told = card(RUN, VALUES)
    body = section(told, "What it is")
    assert "Classes, by the values of masks: 0 (background), 7, 3 or 4" in body
    assert "2-D images of 2 channels" in body and r"brought to \[1.5, 1.0\] mm" in body
    assert "-100 to 300 become -1 and 1" in body and "1x16x16, 1x24x24" in body
    body = section(told, "How it was trained")
    assert "Teacher: the global model of the stage before" in body
    assert "steps=5" in body and "epochs" not in body and "device" not in body
    assert "Begun from weights drawn at random" in body
    assert "Not a medical device" in told and "There is **no guarantee** of privacy" in told
    assert "Licence: not stated" in told and "Intended use: not stated" in told
    given = VALUES | {"release": {"licence": "CC-BY | 4.0", "intended_use": "research"}}
    assert r"Licence: CC-BY \| 4.0" in card(RUN, given)


def test_notes_lose_the_names_of_files():
    body = section(card(RUN, VALUES), "Data")
    assert "BMC: pixels (2)" in body and "q1.png" not in body and "r1.png" not in body


def test_a_guarantee_is_told_in_plain_words():
    epsilon = {"RUNMC": 3.14159, "BMC": 2.0, ODD: 1.0}
    rule = {"name": "central_dp", "neighbours": "one update", "delta": 1e-5, "epsilon": epsilon}
    body = section(card(replace(RUN, privacy=RUN.privacy | rule), VALUES), "Privacy")
    assert "RUNMC: epsilon 3.14\n" in body and "1e-05" in body and "no guarantee" not in body
    early = section(card(replace(RUN, privacy=RUN.privacy | rule), VALUES, stage=1), "Privacy")
    assert "RUNMC: epsilon 3.14 (after the whole run; after this stage it was no more)" in early
    assert "BMC" not in early


def test_a_guarantee_of_reports_alone_does_not_pass_for_one_of_the_model():
    rule = ReportDP().spent({"RUNMC": 1}) | {"name": "report_dp"}
    body = section(card(replace(RUN, privacy=RUN.privacy | rule), VALUES), "Privacy")
    assert "RUNMC: epsilon 4.38\n" in body and "is seen of what hospitals report" in body
    assert "From weights and scores, which bear no noise, something may be learned" in body
    assert "hospitals as wholes" not in body and "seen of the model" not in body


def test_hospitals_are_numbered_where_their_names_are_hidden():
    """In reasons, notes and settings as well, whatever stands around them."""
    command = ['timeline.stages=[["RUNMC"],["BMC"]]', "sites.BMC.data_fraction=0.5"]
    told = card(RUN, VALUES | {"release": {"licence": "of runmc"}}, hidden=True, command=command)
    for name in ("RUNMC", "BMC", "H|K", "H\\|K"):
        assert name.lower() not in told.lower(), name
    assert [row[0] for row in rows(told, "Data")] == ["Hospital 1", "Hospital 2", "Hospital 3"]
    assert "Hospital 2, stage 2, round 4: its update was lost or refused (Hospital 2" in told
    assert "Licence: of Hospital 1" in told and '[["Hospital 1"],["Hospital 2"]]' in told


def test_short_names_are_hidden_where_they_stand_alone():
    short = {"RUNMC": "A", "BMC": "B", ODD: "C"}
    told = card(
        replace(
            RUN, sites=["A", "B", "C"], arrivals=[["A"], ["B"], ["C"]], notes={},
            stages=[["A"], ["B"], ["C"]], cases={short[s]: own for s, own in RUN.cases.items()},
            failures=[RUN.failures[0] | {"site": "B", "reason": "A_1 and /data/B: Bad Answer"}],
        ),
        VALUES, hidden=True,
    )  # fmt: skip
    assert "(Hospital 1_1 and /data/Hospital 2: Bad Answer)" in told


def test_tables_hold_together_whatever_names_are():
    """Every row has as many cells as its head, and no name is code."""
    evil = "a|b`c`\n# head <script>*x* [l](u) \\|"
    names = [evil if site == ODD else site for site in RUN.sites]
    odd = replace(
        RUN, sites=names, arrivals=[[n] for n in names], stages=[[n] for n in names],
        cases={evil if s == ODD else s: own for s, own in RUN.cases.items()}, failures=[],
    )  # fmt: skip
    told = card(odd, VALUES)
    seen = " ".join(evil.split())
    assert rows(told, "How well it does")[2][0] == seen and rows(told, "Data")[2][0] == seen
    parsed = MarkdownIt("commonmark").enable("table").parse(told)
    headings = [parsed[n + 1].content for n, t in enumerate(parsed) if t.type == "heading_open"]
    assert "head" not in " ".join(headings).lower() and len(headings) == 11
    assert not [t for t in parsed if t.type == "html_block"]
    inline = [child.type for t in parsed for child in t.children or []]
    assert "html_inline" not in inline and "link_open" not in inline and "em_open" not in inline


def test_architectures_have_sections_of_their_own():
    def one(sites: Sequence[str], low: float) -> ArchitectureResults:
        matrix = [[value - low for value in row] for row in RUN.matrix]
        figures = {"avg": 0.5 - low, "bwt": None, "forgetting": None, "worst_site": 0.4}
        return ArchitectureResults(
            model="unet", sites=[*sites], matrix=matrix, cases=RUN.cases, metrics=figures
        )

    both = {"small": one(["RUNMC"], 0.1), "lar|ge": one(["BMC", ODD], 0.0)}
    several = replace(RUN, architectures=both)
    told = card(several, VALUES)
    assert [row[1][:5] for row in rows(told, "How well small does")] == ["0.650", "0.750", "0.500"]
    assert [row[3] for row in rows(told, "How well small does")] == ["1", "never", "never"]
    assert rows(told, r"How well lar\|ge does")[0][5] == "it has not trained"
    alone = card(several, VALUES, model="small")
    assert "## How well small does" in alone and "lar" not in alone
    assert "## How well it does" not in alone
    with pytest.raises(ConfigError, match=r"--model: there is no 'x'; there are: small, lar|ge"):
        card(several, VALUES, model="x")


@pytest.mark.parametrize("stage", [0, 4, -1])
def test_a_stage_that_was_not_finished_is_refused(stage: int):
    with pytest.raises(ConfigError, match="--stage: give 1 to 3"):
        card(RUN, VALUES, stage=stage)
    with pytest.raises(ConfigError, match="finished no stage"):
        card(replace(RUN, matrix=[], stages=[]), VALUES)


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ("Istanbul", "the site \u0131stanbul, or İstanbul"),
        ("Izmir", "İzmir izmir"),
        ("Zürich", 'timeline.stages=[["Z\\u00fcrich"]]'),
        ("Zürich", "masks/Zu\u0308rich.nii.gz"),
        ("St  Mary", "St Mary has lost it"),
        ('O\'Brien "II"', 'timeline.stages=[["O\'Brien \\"II\\""]]'),
        ('O\'Brien "II"', repr('O\'Brien "II"') + " is not there"),
        ("a\xa0b", repr("a\xa0b") + " is not there"),
    ],
)
def test_hidden_names_are_hidden_however_they_are_written(site: str, words: str):
    masked = Names([site, "other"], hidden=True).masked(words)
    assert "Hospital 1" in masked
    for part in ("stanbul", "zmir", "rich", "Mary", "Brien", "\\xa0"):
        assert part not in masked
