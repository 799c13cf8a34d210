"""Bookkeeping never ends a run: MLflow locked, gone, deleted, new; full disks; file systems."""

import errno
import fcntl
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from fedcl import files
from fedcl.app.run_folder import claimed_new
from fedcl.errors import ConfigError
from fedcl.files import lock, sync, write_atomically
from fedcl.reporting.spool import Spool
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.state import State
from fedcl.tracking.client import connect
from tests.conftest import ROOT, TINY, read, start

pytestmark = pytest.mark.network

SMALL = [option for option in TINY if option != "tracking.enabled=false"]
SMALL += ["timeline.stages=[[A],[B]]", "strategy=finetune", "learner.steps=2"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a store with its tables, which take seconds to make."""
    file = tmp_path_factory.mktemp("outages") / "mlflow.db"
    connect(f"sqlite:///{file}", "tracking.uri")
    return file


def recorded(store: Path, folder: Path) -> Any:
    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("phantom")
    (run,) = [
        one
        for one in client.search_runs([experiment.experiment_id])
        if one.data.tags["folder"] == str(folder)
    ]
    return run


def steps(store: Path, folder: Path, key: str) -> list[int]:
    run = recorded(store, folder).info.run_id
    history = MlflowClient(f"sqlite:///{store}").get_metric_history(run, key)
    return sorted(one.step for one in history)


def wait_for(happened: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_locked_store_costs_a_run_nothing(cli, tmp_path: Path, store: Path):
    """What `mlflow gc`, a backup or a hung lock on NFS does to a run that is under way.

    `benchmarks/outages.py` kills servers and lets stores come back in mid-run.
    """
    folder = tmp_path / "run"
    on = [f"tracking.uri=sqlite:///{store}", "tracking.wait=1", f"run.dir={folder}"]
    process = start(*SMALL, "timeline.rounds=10", *on)
    log = folder / "log.txt"
    wait_for(lambda: log.exists() and "round 2:" in log.read_text())
    blocked = sqlite3.connect(store, isolation_level=None, timeout=60)
    blocked.execute("BEGIN EXCLUSIVE")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert read(folder)["status"] == "completed"
    spool = folder / "tracking.jsonl"
    assert spool.exists() and "run.resume=" in "".join(said.split())
    assert cli(f"run.resume={folder}", "tracking.enabled=false") == 0, "it can be shown meanwhile"
    blocked.execute("ROLLBACK")
    blocked.close()
    assert cli(f"run.resume={folder}", "tracking.wait=60") == 0
    assert not spool.exists()
    assert recorded(store, folder).info.status == "FINISHED"
    assert steps(store, folder, "round") == list(range(1, 21))
    assert steps(store, folder, "avg") == [10, 20]


def test_a_deleted_experiment_is_one_line_and_leaves_nothing(cli, tmp_path: Path, capsys):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = connect(uri, "tracking.uri")
    client.delete_experiment(client.create_experiment("phantom"))
    assert cli(*SMALL, f"tracking.uri={uri}", f"run.dir={tmp_path / 'run'}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    assert "'phantom'" in line and "mlflow experiments restore -x" in line
    assert not (tmp_path / "run").exists()


def test_a_run_deleted_from_the_store_goes_on_in_a_new_one(
    cli, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, save = tmp_path / "run", Checkpoint.save

    def interrupted(self: Checkpoint, state: State) -> None:
        save(self, state)
        if state.round == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", interrupted)
    on = f"tracking.uri=sqlite:///{store}"
    assert cli(*SMALL, on, f"run.dir={folder}") == 130
    monkeypatch.setattr(Checkpoint, "save", save)
    first = recorded(store, folder).info.run_id
    MlflowClient(f"sqlite:///{store}").delete_run(first)
    waiting = [{"run": first, "metrics": [["late", 1.0, 0, 1]]}, {"run": first, "end": "KILLED"}]
    (folder / "tracking.jsonl").write_text("".join(json.dumps(one) + "\n" for one in waiting))
    assert cli(f"run.resume={folder}") == 0
    again = recorded(store, folder)
    assert again.info.run_id != first and again.info.status == "FINISHED"
    assert again.data.metrics["late"] == 1.0, "what waited is this run's"
    assert steps(store, folder, "round") == [2, 3, 4]


def test_runs_that_begin_at_once_make_one_usable_store(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = (
        "import sys; from fedcl.tracking.client import connect; "
        "c = connect(sys.argv[1], 'tracking.uri'); "
        "print(c.search_experiments()[0].name)"
    )
    several = [
        subprocess.Popen([sys.executable, "-c", code, uri], stdout=subprocess.PIPE, cwd=ROOT)
        for _ in range(2)
    ]
    assert [one.communicate()[0] for one in several] == [b"Default\n"] * 2
    assert connect(uri, "tracking.uri").search_experiments()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_spool_delivers_what_was_left_and_tries_again(tmp_path: Path):
    file, got, broken = tmp_path / "spool.jsonl", [], [True]
    file.write_text('{"n": 1}\n{"n": 2}\n{"n": 3, "ha')  # half a line: a crash in mid-word

    def deliver(entry: dict[str, Any]) -> None:
        if broken[0]:
            raise OSError("away")
        got.append(entry["n"])

    spool = Spool(file, deliver, "the store")
    spool.put({"n": 4})
    assert spool.drain(0.2) == 3 and got == []
    assert [json.loads(line)["n"] for line in file.read_text().splitlines() if line[-1] == "}"][
        -1
    ] == 4
    broken[0] = False
    assert spool.close(30) == 0 and sorted(got) == [1, 2, 4]
    assert not file.exists()


def test_figures_on_a_full_disk_leave_a_completed_run(tmp_path: Path):
    """A limit on the size of a file stands in for the disk."""
    folder = tmp_path / "run"
    small = ["strategy=finetune", *(o for o in TINY if o != "run.figures=false")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "simulate.py"), *small, f"run.dir={folder}"],
        capture_output=True, text=True, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read(folder)["status"] == "completed"
    assert "not all figures could be drawn" in " ".join(done.stderr.split())
    assert not list(folder.rglob("*.part"))


# --- file systems ------------------------------------------------------------------------------


def failing(number: int) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_flush_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, number: int
):
    monkeypatch.setattr(os, "fsync", failing(number))
    for _ in range(3):
        write_atomically(tmp_path / "x", b"content")
        sync(tmp_path)
    assert (tmp_path / "x").read_bytes() == b"content"
    assert caplog.text.count("cannot flush to disk") == 1


def test_a_disk_that_fails_is_no_such_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "x", b"content")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_of(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    warned: list[str] = []
    monkeypatch.setattr(files, "_warn", warned.append)
    assert cli(*TINY, "strategy=finetune", f"run.dir={tmp_path / 'run'}") == 0
    assert "knows no locks" in warned[0] and "no other process" in warned[0]


def test_a_lock_is_on_the_file_that_is_there(tmp_path: Path):
    """One that leaves without a trace takes its lock's file along."""
    with lock(tmp_path / "run") as first:
        (tmp_path / "run" / ".lock").unlink()
        second = lock(tmp_path / "run")
        assert os.fstat(second.fileno()).st_ino != os.fstat(first.fileno()).st_ino
        second.close()


def test_two_jobs_of_the_same_second_have_two_folders(tmp_path: Path):
    wanted = tmp_path / "outputs" / "12-00-00"
    with claimed_new(wanted, exact=False) as first, claimed_new(wanted, exact=False) as second:
        (first / "config.yaml").touch()
        with claimed_new(wanted, exact=False) as third:  # and when the first is over
            names = [one.name for one in (first, second, third)]
        with pytest.raises(ConfigError, match="another process is running"), claimed_new(wanted):
            pass
    assert names == ["12-00-00", "12-00-00-2", "12-00-00-3"]
    with pytest.raises(ConfigError, match="already holds a run"), claimed_new(wanted):
        pass
    assert [path.name for path in wanted.parent.iterdir()] == ["12-00-00"], "no trace of others"
