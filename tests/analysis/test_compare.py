"""`fedcl compare`: the figures by hand, the files of real runs, the page in a real browser."""

import csv
import json
import math
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

import simulate
from fedcl.analysis.compare import latex, markdown
from fedcl.analysis.runs import Group, Run, chosen, differences, group
from fedcl.analysis.sources import run_folders
from fedcl.analysis.statistics import (
    cases,
    gap,
    interval,
    paired,
    patients,
    ravg,
    signed_rank,
    table,
)
from fedcl.app.cli import main
from fedcl.errors import ConfigError
from fedcl.server.results import Results
from tests.conftest import TINY, read

FILES = ("table.csv", "table.md", "table.tex", "report.html")


# --- the figures -----------------------------------------------------------------------------


def run(
    strategy: str = "ted",
    seed: int = 0,
    last: tuple[float, ...] = (0.5, 0.7),
    arrivals: tuple[str, ...] = ("A", "B"),
    scores: dict[str, dict[str, float]] | None = None,
    **config: Any,
) -> Run:
    """Return a run over sites that arrive one by one, with the last row of its matrix."""
    sites = list(arrivals)
    scores = scores or {site: {"p": value} for site, value in zip(sites, last, strict=True)}
    results = {
        "strategy": strategy,
        "seed": seed,
        "sites": sites,
        "arrivals": [[site] for site in sites],
        "matrix": [[0.9] * len(sites), list(last)],
        "cases": {s: {c: [0.9, v] for c, v in members.items()} for s, members in scores.items()},
        "metrics": {"avg": float(np.mean(last)), "bwt": -0.1},
        "bytes": {"down": 3, "up": 1},
        "seconds": {"train": 2.0},
    }
    return Run("somewhere", Results(**results), {"strategy.name": strategy, **config})


def test_ravg_is_the_mean_of_the_ratios_to_joint():
    assert ravg(run(last=(0.4, 0.6)), run(last=(0.8, 0.9))) == pytest.approx((0.5 + 2 / 3) / 2)
    assert ravg(run(last=(0.4, 0.6)), run(last=(0.0, 0.9))) == pytest.approx(2 / 3)


def test_a_case_is_averaged_over_orders_and_seeds_are_kept_apart():
    runs = [
        run(last=(0.2, 0.4)),
        run(last=(0.8, 0.6), arrivals=("B", "A")),
        run(seed=1, last=(0.1, 0.3)),
    ]
    assert cases(runs) == pytest.approx(
        {(0, "A", "p"): 0.4, (0, "B", "p"): 0.6, (1, "A", "p"): 0.1, (1, "B", "p"): 0.3}
    )


def test_pairs_share_seed_order_and_case():
    one = Group("one", [run(last=(0.1, 0.2)), run(seed=1, last=(0.3, 0.4))])
    other = Group("other", [run(seed=1, last=(0.5, 0.7)), run(seed=2, last=(0.6, 0.8))])
    assert paired(one, other) == {(1, "A", "p"): (0.3, 0.5), (1, "B", "p"): (0.4, 0.7)}


def test_runs_on_other_data_are_not_paired():
    one = Group("one", [run(last=(0.1, 0.2))])
    one.runs[0].results.data_sha256["A"] = "x"
    assert paired(one, Group("other", [run()])) == {}


def test_signed_rank_by_hand():
    a, b = np.arange(6.0), np.zeros(6)
    a[0] = -0.5  # ranks 1 to 6, the first negative: W = 1; P(W <= 1) = 2 / 64, two-sided
    assert signed_rank(a, b) == pytest.approx(2 * 2 / 64)
    assert signed_rank(b, b) == 1.0


def many(strategy: str, shift: float, seeds: int = 2) -> Group:
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        base = {s: {str(i): float(rng.uniform(0.3, 0.6)) for i in range(8)} for s in "AB"}
        moved = {
            s: {
                c: v + shift * (1 + int(c) + seed / 10 + (s == "A") / 100) / 5 for c, v in m.items()
            }
            for s, m in base.items()
        }
        last = tuple(float(np.mean(list(members.values()))) for members in moved.values())
        runs.append(run(strategy, seed, last, scores=moved, **{"scenario.seed": seed}))
    return Group(strategy, runs)


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests():
    groups = [many("ted", 0.1), many("lwf", 0.05), many("finetune", 0.0)]
    lines = {line.name: line for line in table(groups, "ted")}
    # In both tests all 32 pairs have one sign, so both p are the same: Holm doubles the one,
    # and the other must not come out below it.
    pairs = np.array(list(paired(groups[1], groups[0]).values()))
    single = signed_rank(*pairs.T)
    assert single < 1e-6
    assert lines["lwf"].p == lines["finetune"].p == pytest.approx(2 * single)
    assert lines["ted"].p is lines["ted"].difference is None


def test_the_difference_is_that_of_the_averages_with_its_interval():
    lines = {line.name: line for line in table([many("ted", 0.1), many("lwf", 0.05)], "ted")}
    value, low, high = lines["lwf"].difference
    assert value == pytest.approx(lines["lwf"].mean["avg"] - lines["ted"].mean["avg"])
    assert low < value < high
    assert value == pytest.approx((low + high) / 2)


def test_closed_is_the_share_of_the_way_from_finetune_to_joint():
    groups = [many("finetune", 0.0), many("ted", 0.03), many("joint", 0.12)]
    lines = {line.name: line for line in table(groups, "ted")}
    assert lines["ted"].closed == pytest.approx(0.25)  # shifts are linear
    assert (lines["finetune"].closed, lines["joint"].closed) == (0.0, pytest.approx(1.0))
    assert [line.name for line in table(groups, "ted")] == ["joint", "ted", "finetune"]


def test_one_seed_gives_no_interval_and_no_p():
    for line in table([many("ted", 0.1, 1), many("lwf", 0.0, 1)], "ted"):
        assert (line.interval, line.p, line.std["avg"]) == (None, None, None)


def test_the_interval_is_students_over_seeds():
    # Seeds' averages .5, .6 and .7: s = .1, and t(.975; 2) = 4.302653.
    scores = {
        (s, site, "p"): 0.5 + s / 10 + d for s in range(3) for site, d in (("A", -0.1), ("B", 0.1))
    }
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert interval(scores) == pytest.approx((0.6 - reach, 0.6 + reach), rel=1e-6)
    assert interval(dict.fromkeys(scores, 0.5)) == pytest.approx((0.5, 0.5))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        truth = 0.7 + rng.normal(0, 0.03, 3)  # of three seeds
        scores = {
            (s, site, str(c)): float(rng.normal(truth[s], 0.05))
            for s in range(3)
            for site in "AB"
            for c in range(5)
        }
        low, high = interval(scores)
        covered += low < 0.7 < high
    assert 0.92 < covered / 400 < 0.98


def test_where_takes_values_as_the_command_line_does():
    runs = [run(seed=s, **{"strategy.kd": 1, "learner.lr": [0.002, 0.001]}) for s in (0, 1)]
    for wish in ("strategy.kd=1.0", "learner.lr=[0.002,0.001]", "strategy=ted"):
        assert chosen(runs, [wish]) == runs
    for wish, said in {
        "strategy.kd=2": "no run has strategy.kd=2; there are 1",
        "strategy.kd": "give KEY=VALUE",
        "strategy.nu=1": "no run has the setting 'strategy.nu'",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(said)):
            chosen(runs, [wish])


def test_variants_of_a_strategy_are_named_by_what_differs():
    runs = [
        run("lwf", **{"strategy.kd": 1.0, "timeline.centralised": False}),
        run("lwf", **{"strategy.kd": 2.0, "timeline.centralised": False}),
        run("joint", **{"timeline.centralised": True}),
        run("joint", **{"timeline.centralised": False}),
    ]
    groups, notes = group(runs)
    assert [g.name for g in groups] == ["lwf", "lwf kd=2.0", "joint centralised", "joint"]
    assert notes == []


def shaken(strategy: str, shift: float, seeds: tuple[float, ...]) -> Group:
    """Return runs whose averages lie `shift` and one of `seeds` above those of the first."""
    runs = []
    for seed, more in enumerate(seeds):
        value = 0.5 + 0.1 * seed + shift + more
        scores = {site: {str(n): value + n / 100 for n in range(8)} for site in "AB"}
        last = tuple(float(np.mean(list(scores[site].values()))) for site in "AB")
        runs.append(run(strategy, seed, last, scores=scores, **{"scenario.seed": seed}))
    return Group(strategy, runs)


def test_no_share_is_given_of_a_distance_that_may_be_nothing():
    none = shaken("finetune", 0.0, (0.0, 0.0, 0.0))
    apart = (0.0, 0.012, -0.009)
    joint = shaken("joint", 0.02, apart)
    far = shaken("joint", 0.2, apart)
    ted = shaken("ted", 0.05, (0.0, 0.0, 0.0))
    value, low, high = gap([none, joint])
    assert value == pytest.approx(0.02 + np.mean(apart))
    half = 4.303 * np.std(apart, ddof=1) / math.sqrt(3)
    assert (low, high) == (
        pytest.approx(value - half, rel=1e-3),
        pytest.approx(value + half, rel=1e-3),
    )
    assert low < 0 < high
    assert all(line.closed is None for line in table([none, joint, ted], "ted"))
    lines = {line.name: line.closed for line in table([none, far, ted], "ted")}
    assert lines["ted"] == pytest.approx(0.05 / (0.2 + np.mean(apart)))
    one = [shaken(name, shift, (0.0,)) for name, shift in (("finetune", 0), ("joint", 0.2))]
    assert gap(one) is None and all(line.closed is None for line in table(one, "joint"))


def test_where_p_is_small_and_the_interval_holds_0_the_row_says_what_each_means():
    groups = [shaken("ted", 0.0, (0.0, 0.0, 0.0)), shaken("lwf", 0.02, (0.03, 0.03, -0.045))]
    line = next(one for one in table(groups, "ted") if one.name == "lwf")
    assert line.p < 0.05 and line.difference[1] < 0 < line.difference[2]
    assert line.words.startswith("the models trained here are better on these test cases (p), but")
    assert line.words in markdown([line], "ted") and line.words in latex([line], "ted").replace(
        "\\", ""
    )
    clear = [shaken("ted", 0.0, (0.0, 0.0, 0.0)), shaken("lwf", 0.02, (0.001, 0.0, -0.001))]
    assert all(one.words == "" for one in table(clear, "ted"))


def test_runs_that_are_mixed_are_other_methods():
    runs = [run(**{"model.name": name}) for name in ("unet", "segresnet")]
    groups, _ = group(runs)
    assert [g.name for g in groups] == ["ted model=unet", "ted model=segresnet"]


def test_a_pool_alone_is_never_taken_for_the_federated_bound():
    groups, _ = group([run("joint", **{"timeline.centralised": True}), run("finetune")])
    assert [g.name for g in groups] == ["joint centralised", "finetune"]
    assert all(line.closed is None for line in table(groups, "finetune"))


def test_linked_folders_of_runs_are_found_once(tmp_path: Path):
    (tmp_path / "store" / "run").mkdir(parents=True)
    for name in ("config.yaml", "results.json"):
        (tmp_path / "store" / "run" / name).touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "mine" / "again").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "mine")
    (found,) = run_folders(tmp_path / "mine")
    assert found.resolve() == (tmp_path / "store" / "run").resolve()


def test_within_a_stage_there_is_no_order():
    one, other = run(), run()
    one.results.arrivals[:], other.results.arrivals[:] = [["A", "B"]], [["B", "A"]]
    assert one.order == other.order == "A+B"


def test_other_sites_are_no_other_order():
    assert differences([run(), run(arrivals=("B", "A"))]) == []
    said = differences([run(), run(arrivals=("A", "C"))])
    assert len(said) == 1 and said[0].startswith("sites: ")


@pytest.mark.parametrize(("world", "pairs"), [({}, 2), ({"scenario.seed": 4}, 2), (None, 4)])
def test_a_patient_in_several_seeds_is_one_observation(world: dict[str, int] | None, pairs: int):
    def of(shift: float) -> Group:
        config = [world if world is not None else {"scenario.seed": seed} for seed in (0, 1)]
        return Group("g", [run(seed=s, last=(0.1 * s + shift, 0.5), **config[s]) for s in (0, 1)])

    one, other = of(0.2), of(0.0)
    a, b = patients(paired(one, other), one.runs)
    assert len(a) == len(b) == pairs
    if pairs == 2:
        assert (a.tolist(), b.tolist()) == (pytest.approx([0.25, 0.5]), pytest.approx([0.05, 0.5]))


def test_names_cannot_break_the_tables():
    lines = table([many("a|b_c{$}%~^\\", 0.0)], "a|b_c{$}%~^\\")
    assert markdown(lines, "x").splitlines()[2].startswith(r"| a\|b_c")
    expected = r"a|b\_c\{\$\}\%\textasciitilde{}\textasciicircum{}\textbackslash{} & 2"
    assert expected in latex(lines, "x")


def test_a_repeated_run_is_used_once_and_said():
    groups, notes = group([run(), run(), run(seed=1)])
    assert [len(g.runs) for g in groups] == [2]
    assert len(notes) == 1 and "2 runs" in notes[0]


# --- real runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sweep in `runs` and its MLflow store."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        overrides = ["-m", *TINY, "tracking.enabled=true", f"run.dir={folder / 'runs'}"]
        overrides.append("run.figures=true")
        overrides += [
            "strategy=finetune,lwf,ted",
            "seed=0,1",
            "learner.steps=12",
            "learner.lr=0.008",
        ]
        assert simulate.main(overrides) == 0
    return folder


@pytest.fixture
def copy(swept: Path, tmp_path: Path) -> Path:
    """Return a copy of the sweep's runs that may be damaged."""
    shutil.copytree(swept / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_experiment_and_its_folders_give_the_same_table(swept: Path, tmp_path: Path):
    uri = f"sqlite:///{swept / 'mlflow.db'}"
    assert main(["compare", "phantom", "--uri", uri, "--out", str(tmp_path / "a")]) == 0
    assert main(["compare", str(swept / "runs"), "--out", str(tmp_path / "b")]) == 0
    for name in FILES[:3]:
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    assert (tmp_path / "b" / "report.html").stat().st_size > 1e6

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("phantom").experiment_id
    written = client.search_runs([experiment], "tags.`fedcl.comparison` = 'true'")
    assert len(written) == 1
    assert {item.path for item in client.list_artifacts(written[0].info.run_id)} == set(FILES)
    avg = {row["strategy"]: float(row["avg"]) for row in rows(tmp_path / "a" / "table.csv")}
    logged = written[0].data.metrics
    assert {name: logged[f"avg/{name}"] for name in avg} == pytest.approx(avg, abs=1e-4)
    # A comparison is not a run to be compared.
    assert main(["compare", "phantom", "--uri", uri, "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "a" / "table.csv").read_text() == (tmp_path / "c" / "table.csv").read_text()


def test_the_table_holds_what_the_runs_say(swept: Path, tmp_path: Path, capsys):
    assert main(["compare", str(swept / "runs"), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert all(f"│ {name}" in said for name in ("finetune", "lwf", "ted")), "80 columns suffice"
    found = [read(path.parent) for path in (swept / "runs").glob("*/results.json")]
    for row in rows(tmp_path / "table.csv"):
        own = [r for r in found if r["strategy"] == row["strategy"]]
        assert row["runs"] == row["seeds"] == "2"
        for key in ("avg", "bwt", "forgetting", "worst_site"):
            expected = np.mean([r["metrics"][key] for r in own])
            assert float(row[key]) == pytest.approx(expected, abs=1e-4)
        assert float(row["bytes"]) == own[0]["bytes"]["down"] + own[0]["bytes"]["up"]
        assert (row["p_holm"] == "") == (row["strategy"] == "ted")
    tex = (tmp_path / "table.tex").read_text()
    assert tex.count(r"\\") == 4 and r"\toprule" in tex


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_in_a_browser(
    swept: Path, tmp_path: Path, browser: webdriver.Chrome, width: int
):
    assert main(["compare", str(swept / "runs"), "--out", str(tmp_path)]) == 0
    browser.get_log("browser")
    # A window is never as narrow as a telephone; what it shows can be.
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get((tmp_path / "report.html").as_uri())
    find = browser.find_elements

    def marks(place: str, what: str) -> int:
        return len(find(By.CSS_SELECTOR, f"#{place} {what}"))

    wait(lambda: marks("cases", "path.point") > 0)
    assert marks("ranking", "path.point") == 3
    assert marks("curves", "path.js-line") >= 6
    assert marks("sites", "path.point") == 3 * 6 + 3
    assert marks("costs", "path.point") == 6
    assert marks("matrices", ".hm image") == 3
    assert len(find(By.CSS_SELECTOR, "figure img")) == 3
    shown = [
        {cell.get_attribute("data-column"): cell.get_attribute("textContent") for cell in cells}
        for row in find(By.CSS_SELECTOR, "#table tbody tr")
        for cells in [row.find_elements(By.TAG_NAME, "td")]
    ]
    assert shown == rows(tmp_path / "table.csv")

    names = [row["strategy"] for row in shown]
    titles = [title.text for title in find(By.CSS_SELECTOR, "#matrices .gtitle")]
    assert titles == names, "best first, as in the table"

    before = marks("cases", "path.point")
    Select(browser.find_element(By.ID, "one")).select_by_visible_text("finetune")
    wait(lambda: "finetune" in browser.find_element(By.CSS_SELECTOR, "#cases .xtitle").text)
    assert marks("cases", "path.point") == before
    assert "test cases" in browser.find_element(By.ID, "verdict").text

    overflow = browser.execute_script("return document.documentElement.scrollWidth")
    assert overflow <= width, "the page itself never scrolls sideways"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


# --- bad input -------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which must fail in one line and write nothing; return the line."""
    out = Path(arguments[arguments.index("--out") + 1])
    assert main(["compare", *arguments]) == 2
    assert not out.exists()
    said = capsys.readouterr().err.strip().splitlines()
    return said[-1]


def test_no_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "empty").mkdir()
    said = refused(capsys, str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert "no completed runs found" in said


def test_an_unfinished_run_is_left_out_and_said(copy: Path, tmp_path: Path, capsys):
    (copy / "0" / "results.json").unlink()
    failed = read(copy / "1") | {"status": "failed", "reason": "no luck"}
    (copy / "1" / "results.json").write_text(json.dumps(failed))
    assert main(["compare", str(copy), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "unfinished" in said and "no luck" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "unfinished" in page and "no luck" in page
    strict = refused(capsys, str(copy), "--strict", "--out", str(tmp_path / "strict"))
    assert str(copy / "0") in strict and str(copy / "1") in strict


DAMAGE: dict[str, Any] = {
    "half": "{",
    "list": "[]",
    "empty": '{"status": "completed"}',
    "binary": "\x00",
    "deep": "[" * 100_000,
    "nan": {"metrics": {"avg": float("nan"), "bwt": 0.0}},
    "no avg": {"metrics": {"avg": None, "bwt": 0.0}},
    "text": {"matrix": "none"},
    "ragged": {"matrix": [[0.1], [0.2], [0.3]]},
    "short": {"matrix": []},
    "seed": {"seed": "0"},
    "bytes": {"bytes": None},
    "cases": {"cases": {"A": {}}},
    "arrivals": {"arrivals": [["A"]]},
    "digests": {"data_sha256": [1]},
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_corrupted_results_are_named(copy: Path, tmp_path: Path, capsys, kind: str):
    damage, path = DAMAGE[kind], copy / "2" / "results.json"
    path.write_text(damage if isinstance(damage, str) else json.dumps(read(copy / "2") | damage))
    said = refused(capsys, str(copy), "--strict", "--out", str(tmp_path / "out"))
    assert str(copy / "2") in said and "results.json" in said


def test_one_seed_is_said(copy: Path, tmp_path: Path, capsys):
    for folder in copy.iterdir():
        if folder.is_dir() and read(folder)["seed"] == 1:
            shutil.rmtree(folder)
    assert main(["compare", str(copy), "--out", str(tmp_path / "out")]) == 0
    assert "one seed only (0): no intervals and no p-values" in capsys.readouterr().err
    assert {row["p_holm"] for row in rows(tmp_path / "out" / "table.csv")} == {""}


def test_different_budgets_are_refused_unless_told_to(copy: Path, tmp_path: Path, capsys):
    config = copy / "3" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 12", "steps: 13"))
    said = refused(capsys, str(copy), "--out", str(tmp_path / "out"))
    assert "learner.steps: 12" in said and f"13 ({copy / '3'})" in said and "--mix" in said
    assert main(["compare", str(copy), "--mix", "--out", str(tmp_path / "out")]) == 0
    assert "mixed: learner.steps" in capsys.readouterr().err
    names = {row["strategy"] for row in rows(tmp_path / "out" / "table.csv")}
    assert {"lwf learner.steps=12", "lwf learner.steps=13", "ted learner.steps=12"} & names
    wanted = ("--where", "learner.steps=12")
    assert main(["compare", str(copy), *wanted, "--out", str(tmp_path / "some")]) == 0
    assert sum(int(row["runs"]) for row in rows(tmp_path / "some" / "table.csv")) == 5
    said = refused(capsys, str(copy), "--where", "lerner=1", "--out", str(tmp_path / "none"))
    assert "no run has the setting 'lerner'" in said


def test_without_ted_the_best_is_the_reference_and_it_is_said(copy: Path, tmp_path: Path, capsys):
    wanted = ("--where", "strategy.name=lwf")
    assert main(["compare", str(copy), *wanted, "--out", str(tmp_path / "out")]) == 0
    assert "tests are against the best, lwf" in capsys.readouterr().err


def test_different_data_are_refused(copy: Path, tmp_path: Path, capsys):
    results = read(copy / "0")
    results["data_sha256"]["C"] = "f" * 64
    (copy / "0" / "results.json").write_text(json.dumps(results))
    said = refused(capsys, str(copy), "--out", str(tmp_path / "out"))
    assert "data of site C, seed 0" in said


def test_an_unknown_reference_and_experiment(swept: Path, tmp_path: Path, capsys):
    out = ("--out", str(tmp_path / "out"))
    said = refused(capsys, str(swept / "runs"), "--reference", "tedd", *out)
    assert "no 'tedd'" in said and "finetune" in said
    uri = f"sqlite:///{swept / 'mlflow.db'}"
    said = refused(capsys, "phantoom", "--uri", uri, *out)
    assert "neither a folder nor an MLflow experiment" in said and "phantom" in said


def test_a_missing_store_is_not_made(tmp_path: Path, capsys):
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    said = refused(capsys, "phantom", "--uri", uri, "--out", str(tmp_path / "out"))
    assert "none.db" in said and not (tmp_path / "none.db").exists()


def test_a_whole_number_is_the_same_setting_with_or_without_a_point(copy: Path, tmp_path: Path):
    for number in range(6):
        config = copy / str(number) / "config.yaml"
        if read(copy / str(number))["seed"] == 0:
            config.write_text(config.read_text().replace("kd: 1.0", "kd: 1"))
            config.write_text(config.read_text().replace("dropout: 0.0", "dropout: 0"))
    assert main(["compare", str(copy), "--out", str(tmp_path / "out")]) == 0
    table = {row["strategy"]: row["runs"] for row in rows(tmp_path / "out" / "table.csv")}
    assert table == {"finetune": "2", "lwf": "2", "ted": "2"}


def test_of_repeated_runs_the_latest_counts(copy: Path, tmp_path: Path):
    again = shutil.copytree(copy / "0", copy / "10")
    changed = read(again)
    changed["metrics"]["bwt"] = 0.5
    (again / "results.json").write_text(json.dumps(changed))
    (again / "config.yaml").touch()
    assert main(["compare", str(copy), "--out", str(tmp_path / "out")]) == 0
    one, other = (read(copy / n)["metrics"]["bwt"] for n in ("10", "1"))
    row = next(r for r in rows(tmp_path / "out" / "table.csv") if r["strategy"] == "finetune")
    assert float(row["bwt"]) == pytest.approx((one + other) / 2, abs=1e-4)


def test_a_folder_that_cannot_be_written_to(swept: Path, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["compare", str(swept / "runs"), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "compare --out" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["", "postgresql://nobody@127.0.0.1:1/none"])
def test_an_address_that_is_none(uri: str, tmp_path: Path, capsys):
    said = refused(capsys, "phantom", "--uri", uri, "--out", str(tmp_path / "out"))
    assert "--uri" in said


def test_a_name_too_long_for_a_file_is_no_folder(tmp_path: Path, capsys):
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    said = refused(capsys, "[/b]" * 100, "--uri", uri, "--out", str(tmp_path / "out"))
    assert "is no folder" in said


def test_an_address_that_does_not_answer(tmp_path: Path, capsys):
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        said = refused(capsys, "phantom", "--uri", uri, "--out", str(tmp_path / "out"))
        assert "MLflow does not answer" in said
        assert time.monotonic() - began < 10


def test_a_store_that_fails_later_on(tmp_path: Path, capsys):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    client.create_run(client.create_experiment("phantom", artifact_location="nosuch://place"))
    said = refused(capsys, "phantom", "--uri", uri, "--out", str(tmp_path / "out"))
    assert "MLflow does not answer" in said and "nosuch" in said


def test_the_configuration_error_is_one(tmp_path: Path):
    from fedcl.analysis.compare import compare

    with pytest.raises(ConfigError):
        compare([str(tmp_path)], tmp_path / "out", "sqlite:///none.db")
