"""MLflow as the contract has it: a real sqlite store, and no trace when it is off."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from mlflow.tracking import MlflowClient
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.conftest import TINY, read

SMALL = ["timeline.stages=[[A],[B]]", "timeline.rounds=2"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a store; making its tables takes seconds, so they share it."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def runs(store: str, folder: Path) -> list:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("phantom")
    found = client.search_runs([experiment.experiment_id])
    return [run for run in found if run.data.tags["folder"] == str(folder)]


def steps(store: str, run: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(store).get_metric_history(run, key)]


def test_a_run_is_recorded(cli, tmp_path: Path, store: str):
    folder = tmp_path / "run"
    on = ["tracking.enabled=true", f"tracking.uri={store}", "run.figures=true"]
    assert cli(*TINY, *SMALL, *on, f"run.dir={folder}") == 0
    (run,) = runs(store, folder)
    results = read(folder)
    assert run.info.status == "FINISHED"
    assert run.data.params["strategy.weight.ska"] == "0.25"
    assert run.data.params["timeline.rounds"] == "2"
    assert (run.data.tags["strategy"], run.data.tags["seed"]) == ("ted", "0")
    matrix = results["matrix"]
    assert steps(store, run.info.run_id, "score/A") == [(2, matrix[0][0]), (4, matrix[1][0])]
    assert steps(store, run.info.run_id, "avg") == [
        (2, matrix[0][0]),
        (4, results["metrics"]["avg"]),
    ]
    assert steps(store, run.info.run_id, "bwt") == [(4, results["metrics"]["bwt"])]
    lost = matrix[0][0] - matrix[1][0]
    assert steps(store, run.info.run_id, "forgetting/A") == [(4, pytest.approx(lost))]
    assert [step for step, _ in steps(store, run.info.run_id, "train/validation/B")] == [3, 4]
    assert [step for step, _ in steps(store, run.info.run_id, "train/loss/B/kd")] == [3, 4]
    inputs = {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs}
    assert inputs == {f"phantom/{s}": results["data_sha256"][s][:36] for s in "AB"}
    client = MlflowClient(store)
    names = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "results.json", "figures", "weights"} <= names
    weights = {a.path for a in client.list_artifacts(run.info.run_id, "weights")}
    assert weights == {"weights/stage-1.safetensors", "weights/stage-2.safetensors"}


def test_a_resumed_run_goes_on_in_its_mlflow_run_and_writes_nothing_twice(
    cli, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
):
    from fedcl.server.checkpoint import Checkpoint

    folder, save = tmp_path / "run", Checkpoint.save

    def power_cut(self: Checkpoint, state: object) -> None:
        if state.round == 3:  # MLflow has heard of the round, the disk has not
            raise KeyboardInterrupt
        save(self, state)

    monkeypatch.setattr(Checkpoint, "save", power_cut)
    on = ["tracking.enabled=true", f"tracking.uri={store}"]
    assert cli(*TINY, *SMALL, *on, f"run.dir={folder}") == 130
    (run,) = runs(store, folder)
    assert run.info.status == "KILLED"
    monkeypatch.setattr(Checkpoint, "save", save)
    assert cli(f"run.resume={folder}") == 0
    (run,) = runs(store, folder)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in steps(store, run.info.run_id, "round")] == [1, 2, 3, 4]
    assert [step for step, _ in steps(store, run.info.run_id, "avg")] == [2, 4]


def test_switched_off_it_leaves_no_trace(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert cli(*TINY, *SMALL, f"run.dir={tmp_path / 'run'}") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_server_that_does_not_answer_is_named_before_anything_is_written(
    cli, tmp_path: Path, capsys
):
    on = ["tracking.enabled=true", "tracking.uri=http://127.0.0.1:9"]
    assert cli(*TINY, *SMALL, *on, f"run.dir={tmp_path / 'run'}") == 2
    assert "tracking.uri: MLflow does not answer at http://127.0.0.1:9" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def ui(store: str, tmp_path: Path) -> Iterator[str]:
    """Serve MLflow's own page over the store; return its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    wait(lambda: answers(address))
    yield address
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=2).ok
    except requests.RequestException:
        return False


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.network
def test_its_page_opens_on_training_runs_with_scores_first(
    cli, tmp_path: Path, store: str, ui: str, browser: webdriver.Chrome, capsys
):
    folder = tmp_path / "run"
    on = ["tracking.enabled=true", f"tracking.uri={store}"]
    assert cli(*TINY, *SMALL, *on, f"run.dir={folder}") == 0
    (page,) = re.findall(r"http://127.0.0.1:5000/(\S+)", capsys.readouterr().out)
    (run,) = runs(store, folder)
    browser.delete_network_conditions()

    def shown() -> str:
        return str(browser.find_element(By.TAG_NAME, "body").text)

    browser.get(f"{ui}/{page}")
    wait(lambda: run.info.run_name in shown())
    assert f"/experiments/{run.info.experiment_id}/runs" in browser.current_url
    place = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics"
    browser.get(f"{ui}/{place}")
    wait(lambda: "train/validation" in shown())
    places = [shown().index(f"\n{name}\n") for name in ("forgetting", "score", "train/loss/A")]
    assert places == sorted(places)
