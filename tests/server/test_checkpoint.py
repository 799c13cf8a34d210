"""Snapshots: whole or absent, the last good one is found."""

import errno
from pathlib import Path

import numpy as np
import pytest

from fedcl.errors import ConfigError, RunError
from fedcl.files import lock
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.state import State


def state(round_: int) -> State:
    there = State({"w": np.full(1000, round_, np.float32)}, round=round_)
    there.rows = [{"A": {"dice": {"p": 0.1 + 0.2}}}] * (round_ // 2)
    there.ledger.fail("A", 0, 1, "update", "line one\nline two")
    return there


def test_a_snapshot_comes_back_exactly(tmp_path: Path):
    written = state(3)
    written.teacher = {"w": np.float32([1e-45, -0.0])}
    written.best, written.best_score, written.best_round = {"w": np.float32([0.1, np.pi])}, 0.1, 2
    written.chosen, written.settled = [2], {"spacing": [0.1 + 0.2, 1e-3]}
    written.versions, written.digests, written.tracking_run = {"A": 3}, {"A": "ff"}, "run"
    Checkpoint(tmp_path).save(written)
    read = Checkpoint(tmp_path).load()
    for name in ("weights", "teacher", "best"):
        one, two = getattr(written, name), getattr(read, name)
        assert all(one[key].tobytes() == two[key].tobytes() for key in one)
    same = ("round", "initial", "rows", "trained", "versions", "digests", "ledger")
    for name in (*same, "best_score", "best_round", "chosen", "settled"):
        assert getattr(read, name) == getattr(written, name), name
    assert read.tracking_run == "run"


def test_the_latest_two_rounds_are_kept_the_beginning_and_the_end_of_every_stage(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path)
    for round_ in (0, 1, 2, 3, 10, 11):
        checkpoint.save(state(round_))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "round-000000-stage-000", "round-000002-stage-001", "round-000010-stage-005",
        "round-000011-stage-005",
    ]  # fmt: skip
    assert checkpoint.load().round == 11
    assert checkpoint.ended(1).round == 2
    assert checkpoint.ended(5).round == 10, "as it was when the stage ended"
    assert checkpoint.ended(2) is None
    (tmp_path / "round-000002-stage-001" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="round-000002-stage-001 is damaged"):
        checkpoint.ended(1)


def test_the_last_two_rounds_are_kept_and_not_one_of_them_twice(tmp_path: Path):
    """A round that turns out to be spoilt is taken back to what was before it."""
    checkpoint, again = Checkpoint(tmp_path), state(5)
    for round_ in (0, 1, 2, 3, 4, 5):
        checkpoint.save(state(round_))
    for again.tries in (1, 2, 3):
        checkpoint.save(again)
    assert checkpoint.load().tries == 3
    assert [checkpoint.before(round_).round for round_ in (6, 5, 4, 3, 1)] == [5, 4, 2, 2, 0]
    assert checkpoint.before(0) is None
    (tmp_path / "round-000004-stage-002" / "weights.safetensors").write_bytes(b"")
    assert checkpoint.before(5).round == 2, "the one before it that is whole"
    checkpoint.drop_after(4)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "round-000000-stage-000", "round-000002-stage-001", "round-000004-stage-002"
    ]  # fmt: skip


def test_rounds_are_counted_and_not_spelt(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path)
    for round_ in (0, 999_998, 999_999, 1_000_000, 1_000_001):
        there = state(round_)
        there.rows = []
        checkpoint.save(there)
    latest = Checkpoint(tmp_path).load()
    assert latest is not None and latest.round == 1_000_001


def test_an_old_snapshot_that_cannot_be_removed_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    checkpoint, rename = Checkpoint(tmp_path), Path.rename

    def held(path: Path, target: Path) -> Path:
        if target.name.endswith(".old"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", held)
    for round_ in range(4):
        checkpoint.save(state(round_))
    assert "an old checkpoint cannot be removed" in caplog.text
    with pytest.raises(RunError, match="Device or resource busy"):
        checkpoint.drop_after(1)
    monkeypatch.undo()
    checkpoint.drop_after(2)
    checkpoint.save(state(3))
    assert checkpoint.load().round == 3
    assert len([*tmp_path.iterdir()]) <= 4, "what was held is removed when it can be"


@pytest.mark.parametrize("victim", ["weights.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, victim: str, damage: str):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    path = tmp_path / "round-000002-stage-001" / victim
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        content[middle] ^= 0xFF
        path.write_bytes(content[:middle] if damage == "cut" else content)
    assert checkpoint.load().round == 1
    checkpoint.save(state(2))
    assert checkpoint.load().round == 2, "the next one of that moment counts"


def test_of_one_moment_the_latest_counts(tmp_path: Path):
    """None is replaced, so that there is a whole one at every instant."""
    checkpoint, again = Checkpoint(tmp_path), state(2)
    for again.tries in range(12):
        before = {path.name for path in tmp_path.iterdir()}
        checkpoint.save(again)
        assert checkpoint.load().tries == again.tries
        new = {path.name for path in tmp_path.iterdir()} - before
        assert len(new) == 1 and len(list(tmp_path.iterdir())) <= 3


def test_an_unfinished_snapshot_does_not_count(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(state(1))
    (tmp_path / ".round-000002-stage-001.part").mkdir()
    assert checkpoint.load().round == 1
    checkpoint.save(state(2))
    assert checkpoint.load().round == 2


def test_a_run_killed_before_its_first_snapshot_has_none(tmp_path: Path):
    assert Checkpoint(tmp_path).load() is None


@pytest.mark.parametrize("content", ["null", "{}", "[1"])
def test_only_damaged_snapshots_are_said_plainly(tmp_path: Path, content: str):
    Checkpoint(tmp_path).save(state(1))
    (tmp_path / "round-000001-stage-000" / "state.json").write_text(content)
    with pytest.raises(RunError, match="no usable checkpoint"):
        Checkpoint(tmp_path).load()


def test_a_folder_is_claimed_once(tmp_path: Path):
    with lock(tmp_path), pytest.raises(ConfigError, match="another process"):
        lock(tmp_path)
    lock(tmp_path).close()


def test_a_stage_whose_snapshot_was_damaged_and_that_ended_once_more_is_found(tmp_path: Path):
    """A run that goes on from before the damage, as `load` does, can be taken back to it later."""
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    (tmp_path / "round-000002-stage-001" / "weights.safetensors").write_bytes(b"")
    again = checkpoint.load()
    assert again is not None and again.round == 1
    for round_ in (2, 3, 4, 5):
        checkpoint.save(state(round_))
    found = checkpoint.ended(1)
    assert found is not None and found.round == 2
