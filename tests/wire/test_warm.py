"""Hospitals that run their own code in a process that stays, over the network: real processes."""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fedcl.app.status import status
from tests.conftest import TINY, read
from tests.federation import Federation, other_version

pytestmark = [pytest.mark.network, pytest.mark.slow]

SMALL = [
    *(one for one in TINY if one.partition("=")[0] in ("scenario.size", "scenario.patients",
      "scenario.slices", "scenario.strength", "model.channels")),
    "scenario=phantom", "strategy=fedbn", "model.norm=batch", "timeline.stages=[[A,B]]",
    "timeline.rounds=2", "learner.epochs=200",
]  # fmt: skip


def process(fed: Federation, name: str, words: str) -> psutil.Process:
    """Return a process of a hospital by what its command line says."""
    every = psutil.Process(fed.processes[name].pid).children(recursive=True)
    (found,) = (one for one in every if words in " ".join(one.cmdline()))
    return found


def worker(fed: Federation, name: str) -> psutil.Process:
    """Return a hospital's process that answers."""
    return process(fed, name, "spawn_main")


def test_other_code_is_refused_and_a_process_that_dies_costs_nothing_but_time(
    cli: Callable[..., int], tmp_path: Path, federation: Callable[[list[str]], Federation]
):
    fed = federation(["A", "B"])
    fed.open(registered=["A", "B"], started=["A"])
    fed.start("B", PYTHONPATH=str(other_version(tmp_path / "other")))
    fed.until(lambda: fed.online() == 2)
    refused = fed.run([*SMALL, "timeline.wait=20"])
    fed.until(lambda: "refused: the run's code" in fed.said("B"))
    assert "strategies/lwf.py" in fed.said("B")
    number = refused.name.removeprefix("run-")
    reason = "B did not start: refused: the run's code"
    fed.until(lambda: reason in fed.flwr("log", number, "federation", "--show"), 60)
    fed.until(lambda: status(fed.folder)["refused"])
    (told,) = status(fed.folder)["refused"]
    assert told["run"] == refused.name and reason in told["reason"]

    gone = worker(fed, "B")
    fed.processes["B"].send_signal(signal.SIGTERM)  # in order, with all that belongs to it
    fed.processes["B"].wait(60)
    gone.wait(60)
    fed.start("B")
    fed.until(lambda: fed.online() == 2)
    folder = fed.run(SMALL)
    fed.until(lambda: f"{folder.name}: train, stage 1, round 2" in fed.said("A"))
    worker(fed, "A").kill()
    here = tmp_path / "here"
    common = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
    assert cli(*SMALL, *common, f"run.dir={here}") == 0
    fed.until((folder / "results.json").exists)
    there, expected = read(folder), read(here)
    for key in ("status", "weights_sha256", "matrix", "cases", "failures"):
        assert there[key] == expected[key], key
    assert there["reputation"]["A"]["again"] == 1
    assert "has ended (SIGKILL); it is started again" in fed.said("A")
    log = fed.folder / "sites" / "A" / "hospital.log"
    assert log.stat().st_mode & 0o777 == 0o600 and "; loss seg " in log.read_text()

    gone = worker(fed, "A")
    process(fed, "A", "fedcl hospital").kill()  # and its process ends as well
    gone.wait(60)
