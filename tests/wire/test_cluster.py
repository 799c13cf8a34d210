"""A Ray cluster of several nodes: the weights of one process, also where a node is lost."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.conftest import ROOT, TINY, read

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MORE = ["timeline.rounds=4", "scenario.patients=10", "learner.epochs=4"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Open a cluster of two nodes with a CPU each."""
    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield two
    finally:
        two.shutdown()


def simulated(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Begin a run in a process of its own."""
    given = [*TINY, *MORE, f"run.dir={folder}", *more]
    return subprocess.Popen(
        [sys.executable, "simulate.py", *given], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def finished(run: subprocess.Popen[str]) -> None:
    _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said


def test_on_two_nodes_of_which_one_is_lost_it_is_the_run_of_one_process(
    cluster: Cluster, tmp_path: Path
):
    finished(simulated(tmp_path / "here"))
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    run = simulated(
        tmp_path / "there", "engine=ray", f"engine.address={cluster.address}", "engine.workers=2"
    )
    while not list((tmp_path / "there").glob("checkpoint/round-000003-*")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    cluster.remove_node(second, allow_graceful=False)
    finished(run)
    here, there = read(tmp_path / "here"), read(tmp_path / "there")
    for key in ("weights_sha256", "matrix", "cases"):
        assert there[key] == here[key], key
    assert sum(one.get("again", 0) for one in there["reputation"].values()) > 0, "one was lost"
