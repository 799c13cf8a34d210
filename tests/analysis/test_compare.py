"""`fedcl compare`: the files of real runs, the page in a real browser, and what is refused."""

import csv
import json
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
from fedcl.app.cli import main
from fedcl.errors import ConfigError
from tests.conftest import TINY, read

FILES = ("table.csv", "table.md", "table.tex", "report.html")


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

    download = {"behavior": "allow", "downloadPath": str(tmp_path / "saved")}
    browser.execute_cdp_cmd("Page.setDownloadBehavior", download)
    for place in ("curves", "matrices"):
        camera = browser.find_element(
            By.CSS_SELECTOR, f"#{place} .modebar-btn[data-title^=Download]"
        )
        browser.execute_script("arguments[0].click()", camera)
    saved = [tmp_path / "saved" / f"{name}.svg" for name in ("curves", f"matrix of {names[0]}")]
    wait(lambda: all(file.exists() for file in saved))
    assert all(file.read_text().startswith("<svg") for file in saved)

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


def told(folder: Path, **values: Any) -> None:
    """Have a run's results say something else."""
    (folder / "results.json").write_text(json.dumps(read(folder) | values))


def test_settings_that_decide_whose_updates_count_make_a_method(copy: Path, tmp_path: Path, capsys):
    config = copy / "0" / "config.yaml"
    config.write_text(config.read_text().replace("largest_share: 0.9", "largest_share: 0.5"))
    change = {"round": 1, "setting": "engine.largest_share", "from": 0.9, "to": 0.5}
    told(copy / "0", changed=[change])
    assert main(["compare", str(copy), "--out", str(tmp_path / "out")]) == 0
    table = {row["strategy"]: row["runs"] for row in rows(tmp_path / "out" / "table.csv")}
    assert table["finetune engine.largest_share=0.5"] == table["finetune"] == "1"
    assert "engine.largest_share was 0.9 up to round 1" in capsys.readouterr().err


def test_teachers_and_beginnings_are_told_apart_by_their_weights(
    copy: Path, tmp_path: Path, capsys
):
    def table() -> dict[str, str]:
        assert main(["compare", str(copy), "--out", str(tmp_path / "out")]) == 0
        return {row["strategy"]: row["runs"] for row in rows(tmp_path / "out" / "table.csv")}

    first, second = (n for n in copy.iterdir() if n.is_dir() and read(n)["strategy"] == "lwf")
    told(first, teacher_sha256="a" * 64)
    assert table()["lwf teacher.file=given"] == table()["lwf"] == "1"
    told(second, teacher_sha256="b" * 64)
    assert table()["lwf"] == "2", "every seed may have its own"
    shutil.copytree(first, copy / "10")
    told(copy / "10", teacher_sha256="c" * 64)
    assert {"lwf teacher.file=aaaaaaaa", "lwf teacher.file=cccccccc"} <= table().keys()
    told(first, begun={"plain_unet": {"sha256": "d" * 64}})
    said = refused(capsys, str(copy), "--out", str(tmp_path / "none"))
    assert "weights that plain_unet began with" in said and "dddddddddddd" in said


def test_what_a_card_says_is_no_difference(copy: Path, tmp_path: Path):
    config = copy / "0" / "config.yaml"
    config.write_text(config.read_text().replace("licence: null", "licence: MIT"))
    assert main(["compare", str(copy), "--out", str(tmp_path / "out")]) == 0


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
