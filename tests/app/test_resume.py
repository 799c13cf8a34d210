"""Killed runs go on where they were and end as if nothing had happened. Real processes."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import TINY, read, start
from tests.processes import PATIENCE, kill, snapshot, wait_for

RUN = [*TINY, "strategy=ted", "learner.steps=15", "model.channels=[16,32,64]", "model.norm=batch"]


def writing(folder: Path) -> Callable[[], bool]:
    """Tell whether a snapshot of round 3 is being written right now."""
    return snapshot(folder, ".round-000003-stage-001.part")


@pytest.fixture
def uninterrupted(cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the same run, never stopped; made once."""
    folder = tmp_path_factory.getbasetemp() / "uninterrupted"
    if not folder.exists():
        assert cli(*RUN, f"run.dir={folder}") == 0
    return folder


SAME = ("status", "weights_sha256", "matrix", "cases", "stages", "rounds")


def assert_same(folder: Path, reference: Path) -> None:
    one, two = read(folder), read(reference)
    for key in (*SAME, "bytes"):
        assert one[key] == two[key], key


@pytest.mark.parametrize(
    "moment",
    [
        "in a round",
        pytest.param("between stages", marks=pytest.mark.slow),
        pytest.param("while a checkpoint is written", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed(cli, tmp_path: Path, uninterrupted: Path, moment: str):
    folder = tmp_path / "run"
    process = start(*RUN, f"run.dir={folder}")
    if moment == "in a round":
        wait_for(snapshot(folder, "round-000001-stage-000"), process)
        time.sleep(0.1)
    elif moment == "between stages":
        wait_for(snapshot(folder, "round-000002-stage-000"), process)
    else:
        wait_for(writing(folder), process)
    kill(process)
    assert not (folder / "results.json").exists()
    assert cli(f"run.resume={folder}") == 0
    assert_same(folder, uninterrupted)


@pytest.mark.slow
def test_individual_models_survive_too(cli, tmp_path: Path):
    """What the hospitals keep is versioned, so a repeated round starts from the right one."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    overrides = [*RUN, "strategy=individual"]
    assert cli(*overrides, f"run.dir={whole}") == 0
    process = start(*overrides, f"run.dir={folder}")
    wait_for(lambda: (folder / "checkpoint/sites/C/round-000004.safetensors").exists(), process)
    kill(process)
    assert cli(f"run.resume={folder}") == 0
    assert_same(folder, whole)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_dies_with_its_run_and_another_engine_goes_on(cli, tmp_path: Path, uninterrupted: Path):
    folder = tmp_path / "run"
    process = start(*RUN, "engine=ray", f"run.dir={folder}")
    wait_for(snapshot(folder, "round-000003-stage-001"), process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("ray::" in " ".join(child.cmdline()) for child in family)
    kill(process)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, "no process outlives the run"
    assert cli(f"run.resume={folder}", "engine=inprocess") == 0
    assert_same(folder, uninterrupted)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("inprocess", marks=pytest.mark.slow),
        pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.exhaustive]),
    ],
)
def test_ctrl_c_ends_everything_at_once_and_can_be_resumed(
    cli, tmp_path: Path, uninterrupted: Path, engine: str
):
    """On Ray a worker has been killed before, which costs nothing."""
    folder = tmp_path / "run"
    process = start(*RUN, f"engine={engine}", f"run.dir={folder}")
    wait_for(snapshot(folder, "round-000001-stage-000"), process)
    family = psutil.Process(process.pid).children(recursive=True)
    if engine == "ray":
        next(c for c in family if "ray::Worker" in " ".join(c.cmdline())).kill()
        wait_for(snapshot(folder, "round-000002-stage-000"), process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=PATIENCE)
    took = time.monotonic() - began
    assert process.returncode == 130, said
    assert "interrupted" in said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert took < 30, "five seconds are promised, on a machine that is not shared"
    assert read(folder)["status"] == "interrupted"
    assert cli(f"run.resume={folder}", "engine=inprocess") == 0
    if engine == "inprocess":
        assert_same(folder, uninterrupted)
        return
    one, two = read(folder), read(uninterrupted)
    assert {key: one[key] for key in SAME} == {key: two[key] for key in SAME}
    assert one["failures"] == []
    assert one["bytes"]["down"] > two["bytes"]["down"], "what was sent again is counted"


def test_a_complete_run_is_only_shown_again(cli, uninterrupted: Path):
    before = (uninterrupted / "results.json").stat().st_mtime_ns
    assert cli(f"run.resume={uninterrupted}") == 0
    assert (uninterrupted / "results.json").stat().st_mtime_ns == before
