"""A Ray cluster of several nodes: the weights of one process, also where a node is lost."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from fedcl.errors import ConfigError, RunError
from fedcl.wire.local_grid import NodeConfig
from fedcl.wire.ray_grid import RayGrid
from fedcl.wire.ray_worker import Worker
from tests.conftest import ROOT, TINY, read
from tests.wire.test_grids import APP, answers, calls

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SITES = [f"S{n}" for n in range(12)]
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


@pytest.fixture
def ray_with_gpus() -> Iterator[str]:
    """Start a cluster that believes to have GPUs."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "num_gpus": 2, "include_dashboard": False},
    )
    yield cluster.address
    cluster.shutdown()


class Measured(Worker):
    """Says that it takes three tenths of a GPU, which is none."""

    def taken(self) -> float:
        return 0.3


class OnGpus(RayGrid):
    WORKER = Measured


@pytest.mark.exhaustive
def test_a_gpu_is_shared_by_as_many_workers_as_it_has_room_for(ray_with_gpus: str):
    """Two GPUs of fake resources: three workers fit on each, with a tenth to spare, once known."""
    nodes: list[NodeConfig] = [{"site": site} for site in SITES]
    shared = {"num_cpus": 0.1, "num_gpus": None, "address": ray_with_gpus}
    with closing(OnGpus(APP, nodes, **shared)) as grid:
        assert grid.lanes == 2, "nothing is known yet"
        for lanes in (2, 6, 6):
            replies = answers(grid, calls(grid, SITES))
            assert sorted(replies) == sorted(SITES) and grid.lanes == lanes
    with closing(OnGpus(APP, nodes, workers=4, **shared)) as grid:
        for lanes in (2, 4):
            answers(grid, calls(grid, SITES))
            assert grid.lanes == lanes
    with pytest.raises(ConfigError, match="do not fit on 4 CPUs and 2 GPUs"):
        RayGrid(APP, nodes, num_cpus=0.1, num_gpus=0.5, workers=5, address=ray_with_gpus)


def test_a_node_that_does_not_see_the_data_says_so_in_one_line():
    here = f"/proc/self/task/{os.getpid()}"  # that of this process alone
    with (
        closing(RayGrid(APP, [{"site": "S0", "data-path": here}], workers=1)) as grid,
        pytest.raises(RunError, match=rf"engine: .*does not see {here}, where data lie") as said,
    ):
        answers(grid, calls(grid, ["S0"]))
    assert "\n" not in str(said.value)
