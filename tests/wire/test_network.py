"""A run over Flower's SuperLink and SuperNodes, with TLS and known hospitals: real processes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import read
from tests.federation import SMALL, Federation

pytestmark = [pytest.mark.network, pytest.mark.slow]

SITES = ["A", "B", "C", "D"]


def test_over_the_network_it_is_the_run_of_one_process(
    cli: Callable[..., int], tmp_path: Path, federation: Callable[[list[str]], Federation]
):
    """Four hospitals with keys that the server knows, and one without."""
    fed = federation([*SITES, "stranger"])
    fed.open(registered=SITES, started=[*SITES, "stranger"])
    fed.until(lambda: fed.online() == len(SITES))
    folder = fed.run([*SMALL, "timeline.rounds=1"])
    here = tmp_path / "here"
    common = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
    assert cli(*SMALL, "timeline.rounds=1", *common, f"run.dir={here}") == 0
    fed.until((folder / "results.json").exists)
    there, expected = read(folder), read(here)
    assert (there["status"], there["engine"]) == ("completed", "superlink")
    for key in ("weights_sha256", "matrix", "cases", "stages", "bytes", "failures"):
        assert there[key] == expected[key], key
    assert there["bytes_by_stage"][1]["teacher"] > 0
    assert "2004" in fed.said("stranger")
    assert not any((fed.folder / "sites" / "stranger" / "state").iterdir())
    if fed.gated:  # hospitals come through, whoever wants to start runs does not
        closed = ("control/list-runs", "runtime/get-nodes", "fleet/../control/list-runs",
                  "fleet/%2e%2e/control/list-runs", "fleet/..%2fcontrol/list-runs")  # fmt: skip
        assert {fed.status(f"/v1/{path}", fed.port) for path in closed} == {403}


@pytest.mark.skipif("FEDCL_NETWORK" not in os.environ, reason="minutes: set FEDCL_NETWORK=1")
def test_a_run_outlives_its_hospitals_and_its_server(
    federation: Callable[[list[str]], Federation],
):
    """B is killed in round 1, the server in round 2; C comes while the run is on, D never."""
    fed = federation(SITES)
    fed.open(registered=SITES, started=["A", "B"])
    fed.until(lambda: fed.online() == 2)
    folder = fed.run([*SMALL, "timeline.rounds=2", "timeline.wait=90", "engine.timeout=300"])
    snapshots = folder / "checkpoint"
    fed.until(lambda: fed.said("B").count(": train, "))
    fed.kill("B")
    fed.start("B")
    fed.until((snapshots / "round-000001-stage-000").exists)
    fed.start("C")
    fed.until(lambda: fed.said("A").count(": train, stage 1, round 2") == 1)
    fed.kill_application()
    fed.run([f"run.resume={folder.name}"])
    fed.until((folder / "results.json").exists)
    found = read(folder)
    assert found["status"] == "completed" and found["stages"] == [["A", "B"], ["C"]]
    assert found["reputation"]["B"]["again"] == 1 and found["reputation"]["B"]["delivered"] == 2
    lost = {(one["site"], one["what"]) for one in found["failures"]}
    assert lost == {("D", "arrival"), ("D", "test")}
    assert all(row[:3].count(None) == 0 for row in found["matrix"][1:])
