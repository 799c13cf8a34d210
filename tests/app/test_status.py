"""`fedcl status`: how far runs have got, by what they have written down, and who is there."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedcl.app.cli import main
from fedcl.app.provision.federation import prepare
from fedcl.files import lock, locked
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.state import State


def begun(folder: Path) -> Path:
    """Write a run of two stages that was lost in the second."""
    weights = {"w": np.zeros(1, np.float32)}
    state = State(
        weights, {"timeline.stages": [["A"], ["B"], ["C"]], "timeline.rounds": 4}, round=6
    )
    state.rows = [{"A": {"dice": {"p": 0.5}}}]
    state.trained, state.digests = [["A"], ["B"]], {"A": "1", "B": "2"}
    state.ended, state.chosen, state.elsewhere, state.sent = [{}], [4], [{}], [{}]
    state.ledger.weigh({"A": 0.75, "B": 0.25})
    state.ledger.bytes |= {"down": 12_340_000, "up": 1}
    for number in range(7):
        state.ledger.judge("B", "refused")
        state.ledger.fail("B", 1, number, "update", f"[bold]reason {number}")
    Checkpoint(folder / "checkpoint").save(state)
    return folder


def test_a_run_is_told_by_its_latest_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", str(begun(tmp_path / "run-7")), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["run"], run["state"], run["stage"], run["round"]) == ("run-7", "stopped", 2, 6)
    assert (run["stages"], run["rounds"], run["failed"]) == (3, 12, 7)
    assert run["sites"].keys() == {"A", "B"}, "C is still to come"
    assert run["sites"]["B"] == {
        "trained": True, "left_out": False, "share": 0.25,
        "delivered": 0, "lost": 0, "refused": 7, "again": 0,
    }  # fmt: skip
    assert [one["round"] for one in run["failures"]] == [2, 3, 4, 5, 6]
    assert main(["status", str(tmp_path / "run-7")]) == 0
    said = capsys.readouterr().out
    assert "run-7: stopped, stage 2 of 3, round 6 of 12 done" in said and "12.3 MB down" in said
    assert "the last of 7 failures" in said and "[bold]reason 6" in said


def test_a_run_in_progress_is_not_disturbed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = begun(tmp_path / "run-7")
    with lock(folder):
        assert locked(folder)
        main(["status", str(folder), "--json"])
        assert json.loads(capsys.readouterr().out)["runs"][0]["state"] == "running"
    assert not locked(folder)
    lock(folder).close()


def test_what_cannot_be_told_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The SuperLink of this federation does not run, and one of its runs is damaged."""
    prepare(tmp_path / "federation", ["A"], "127.0.0.1", 20001, "correct horse")
    runs = tmp_path / "federation" / "server" / "runs"
    begun(runs / "run-1")
    (begun(runs / "run-2") / "checkpoint" / "round-000006-stage-001" / "state.json").write_text("{")
    for place in ("federation", "federation/server"):
        assert main(["status", str(tmp_path / place), "--json"]) == 1
        told = json.loads(capsys.readouterr().out)
        assert "SuperLink at 127.0.0.1:20001 does not answer" in told["problem"]
        assert {one["run"]: one["problem"] is None for one in told["runs"]} == {
            "run-1": True, "run-2": False,
        }  # fmt: skip
    assert main(["status", str(tmp_path)]) == 2
    assert "is no run's folder" in capsys.readouterr().err
