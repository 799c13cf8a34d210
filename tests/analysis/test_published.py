"""Published tables: rows and columns as in the paper, our numbers beside its own."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fedcl.analysis import sources
from fedcl.analysis.published import Paper, Row, entries, files, measures, names, paper
from fedcl.analysis.published_figures import panels
from fedcl.analysis.runs import Group, Run
from fedcl.analysis.statistics import joint_of, table
from fedcl.config.hydra import CONF, compose
from fedcl.errors import ConfigError
from fedcl.registry import STRATEGY
from fedcl.server.results import ScoreResults
from tests.analysis.test_statistics import run

PAPER = Paper(
    title="A table", source="Somebody (2024)", protocol="none", reference="kd",
    notes=["what is known"],
    rows={
        "joint": Row("Joint"),
        "finetune": Row("Seq"),
        "absent": Row("Absent", published={"avg": 0.9}),
        "kd": Row("KD", published={"avg": 0.709}),
    },
)  # fmt: skip


def at_once(last: tuple[float, ...]) -> Run:
    """Return a joint run whose sites come in one stage."""
    one = run("joint", last=last)
    return replace(one, results=replace(one.results, arrivals=[["A", "B"]]))


def with_distances(one: Run, *last: float) -> Run:
    scores = ScoreResults([[1.0, 1.0], list(last)], {})
    return replace(one, results=replace(one.results, secondary={"hd95": scores}))


def groups() -> list[Group]:
    """KD was run with two seeds, 0.3 and 0.5 at the second site; joint with the first alone."""
    return [
        Group("kd", [
            with_distances(run("lwf", seed=seed, last=(0.8, second)), 2.0, 6.0 + 4 * seed)
            for seed, second in enumerate((0.3, 0.5))
        ]),
        Group("joint", [with_distances(at_once((0.8, 0.6)), 1.0, 1.0)]),
        Group("finetune", [with_distances(run("finetune", last=(0.4, 0.6)), 3.0, 5.0)]),
    ]  # fmt: skip


def test_a_joint_run_of_one_stage_has_no_order():
    one = run(last=(0.4, 0.6))
    same, other = run("joint"), at_once((0.8, 0.9))
    assert joint_of(one, [other, same]) is same, "of the same order first"
    assert joint_of(one, [other]) is other
    assert joint_of(run(seed=1), [same, other]) is None
    lines = {line.name: line for line in table([Group("x", [one]), Group("joint", [other])], "x")}
    assert lines["x"].mean["ravg"] == pytest.approx((0.5 + 2 / 3) / 2)


def test_rows_are_those_of_the_paper_and_columns_stand_beside_the_published_ones():
    found = entries(PAPER, groups())
    assert [entry.row.title for entry in found] == ["Joint", "Seq", "KD"]
    rows = list(csv.DictReader(io.StringIO(files(PAPER, found, [])["table.csv"])))
    kd = rows[2]
    assert list(kd)[:5] == ["method", "row", "runs", "avg_published", "avg"]
    assert (kd["method"], kd["runs"], kd["avg_published"]) == ("KD", "2", "0.709")
    expected = {
        "avg": 0.6, "avg_std": 0.0707,
        "hd95": 5.0, "dice_A": 0.8, "dice_B": 0.4, "hd95_A": 2.0, "hd95_B": 8.0,
    }  # fmt: skip
    for name, value in expected.items():
        assert float(kd[name]) == pytest.approx(value, abs=1e-4), name
    assert rows[1]["avg_published"] == "" and rows[1]["ravg"] == "0.7500"
    assert kd["ravg"] == "", "joint was run with one of the two seeds"


def test_a_reader_sees_means_deviations_and_what_must_be_known():
    found = entries(PAPER, groups())
    written = files(PAPER.run_with(["learner.epochs=1"]), found, [])
    lines = written["table.md"].splitlines()
    assert lines[0] == "# A table" and "Somebody (2024)" in lines
    header, *rows = ([c.strip() for c in li.strip("|").split("|")] for li in lines if "|" in li)
    row = dict(zip(header, rows[-1], strict=True))
    assert row["AVG published"] == "0.709" and row["AVG"] == "0.600 ± 0.071"
    assert row["HD95"] == "5.00 ± 1.41" and row["Dice B"] == "0.400 ± 0.141"
    assert lines[-2:] == ["- what is known", "- run with learner.epochs=1"]
    assert lines[-3].startswith("- HD95 is the larger directed 95th percentile, of whole volumes")
    assert r"KD & 0.709 & 0.600 $\pm$ 0.071" in written["table.tex"]
    assert "% run with learner.epochs=1" in written["table.tex"]


@pytest.mark.parametrize(("target", "shown"), [("i", 4), ("r", 0)])
def test_published_numbers_of_another_setting_are_left_out(target: str, shown: int):
    one = paper("ted_mnms").run_with([f"protocol/target={target}", "learner.epochs=1"])
    assert sum(bool(row.published) for row in one.rows.values()) == shown
    assert any("are left out" in note for note in one.notes) == (shown == 0)


def test_published_numbers_of_other_sites_are_left_out():
    whole = paper("ted_prostate")
    assert whole.run_at(whole.sites[::-1]) is whole
    fewer = whole.run_at(["RUNMC", "bmc"])
    assert not any(row.published for row in fewer.rows.values())
    assert fewer.notes[-1] == (
        "published numbers are left out: they are of RUNMC, BMC, I2CVB, UCL, BIDMC, HK; these runs "
        "are of RUNMC, bmc"
    )
    assert paper("tkrl_prostate").run_at(["A"]) == paper("tkrl_prostate"), "none are known"


def test_every_figure_that_a_row_has_has_a_panel_and_published_numbers_a_mark():
    found = entries(PAPER, groups())
    drawn = {axes.get_title(): axes for axes in panels(found, "A table").axes if axes.axison}
    sites = {f"{score} of every site after the last stage" for score in ("Dice", "HD95")}
    assert found[0].line.mean["rbwt"] is None
    assert set(drawn) == {"AVG", "RAVG", "BWT", *sites}
    (mark,) = drawn["AVG"].get_lines()[:-1]
    assert mark.get_xdata()[0] == 0.709
    assert [m.name for m in measures(found)][:4] == ["avg", "ravg", "bwt", "rbwt"]


@pytest.mark.parametrize("name", names())
def test_every_table_can_be_run(name: str):
    """Of every variant, and of every kind of row, one is composed."""
    one = paper(name)
    variants = {row.variant for row in one.rows.values()} - {""}
    assert one.seeds and one.source
    references = {f"{variant}-{one.reference}" for variant in variants} or {one.reference}
    assert references <= set(one.rows)
    composed: dict[str, list[str]] = {}
    for row in one.rows.values():
        assert set(row.published) <= {"avg", "ravg", "bwt", "rbwt", "hd95"}
        assert not row.teacher or row.teacher in one.rows
        strategy = next((o for o in row.overrides if o.startswith("strategy=")), "")
        assert not strategy or strategy.removeprefix("strategy=") in STRATEGY.available()
        if len(row.overrides) > 1:
            keys = [override.partition("=")[0] for override in row.overrides]
            composed.setdefault(f"{strategy} {keys}", row.overrides)
        composed |= {row.variant: row.overrides} if row.variant else {}
    for overrides in {tuple(one): None for one in composed.values()}:
        STRATEGY.make(compose([f"protocol={one.protocol}", *overrides])["strategy"])


def test_a_table_of_variants_is_one_table_for_each():
    """Two networks, each with its own joint and reference; in the order of the paper."""
    shared = {"joint": Row("joint"), "kd": Row("distilled", ["strategy=lwf"])}
    one = Paper(
        title="", source="", protocol="none", reference="kd",
        rows={"t": Row("T"), "b-x": Row("B x", variant="b")},
        variants={"a": Row("A", ["model=a"]), "b": Row("B", ["model=b"])}, each=shared,
    ).whole()  # fmt: skip
    assert list(one.rows) == ["t", "a-joint", "a-kd", "b-joint", "b-kd", "b-x"]
    assert one.rows["b-kd"] == Row("B distilled", ["model=b", "strategy=lwf"], variant="b")
    scores = {"t": 0.9, "a-joint": 0.8, "a-kd": 0.4, "b-joint": 0.5, "b-kd": 0.3, "b-x": 0.2}
    found = entries(one, [
        Group(name, [run(name, seed=seed, last=(last, last)) for seed in (0, 1)])
        for name, last in scores.items()
    ])  # fmt: skip
    lines = {entry.line.name: entry.line for entry in found}
    assert list(lines) == list(scores)
    assert lines["a-kd"].mean["ravg"] == pytest.approx(0.4 / 0.8)
    assert lines["b-kd"].mean["ravg"] == pytest.approx(0.3 / 0.5)
    assert lines["b-joint"].difference[0] == pytest.approx(0.2)
    assert lines["a-joint"].difference[0] == pytest.approx(0.4)
    for alone in ("t", "a-kd", "b-kd"):
        assert lines[alone].difference is None


def test_the_ladder_of_ted_has_the_published_numbers():
    published = {key: row.published.get("avg") for key, row in paper("ted_prostate").rows.items()}
    assert {key: value for key, value in published.items() if value} == {
        "kd": 0.709, "kd+akt": 0.741, "kd+akt+gugf": 0.744, "kd+ska+akt": 0.753, "ted": 0.759,
    }  # fmt: skip
    values = yaml.safe_load((Path(CONF) / "tables" / "ted_prostate.yaml").read_text())
    assert values["rows"]["kd+akt"]["overrides"][-1] == "strategy.weight.kd=0.096"


def test_a_run_of_an_earlier_version_has_what_was_not_a_setting_yet(tmp_path: Path):
    """Its network and its loss were what the defaults are now: it can be compared with new runs."""
    values = compose(["scenario=prostate", "scenario.root=/data", "model=plain_unet"])
    one = run(last=(0.4, 0.6))
    (tmp_path / "results.json").write_text(json.dumps(one.results.values()))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    new = dict(sources.read("here", tmp_path).config)
    del values["scenario"]["loss"]
    for key in ("bias", "narrowing", "first_norm"):
        del values["model"][key]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert dict(sources.read("here", tmp_path).config) == new and new["scenario.loss"] == "dice_ce"


def test_a_table_that_there_is_not_is_told():
    with pytest.raises(
        ConfigError, match=r"no table 'ted_prostat' \(did you mean ted_prostate\?\)"
    ):
        paper("ted_prostat")
