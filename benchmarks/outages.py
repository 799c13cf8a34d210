"""Kill MLflow's server and lock its database in mid-run: are runs and metrics whole at the end?

`python -m benchmarks.outages [--runs 20] [--out FOLDER]` trains tiny runs against a server of its
own on this machine. In half of them the server is killed at a random moment and started again some
seconds later, in the others another process holds the database's lock for that time. At the end
every run must be completed and every metric of every round and stage in the store.
"""

import argparse
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from mlflow.tracking import MlflowClient

TINY = [
    "engine=inprocess", "run.figures=false", "scenario.size=32", "scenario.patients=6",
    "scenario.slices=2", "model.channels=[4,8]", "strategy=finetune", "timeline.rounds=60",
    "learner.steps=5",
]  # fmt: skip
ROUNDS = 180
STAGES = 3


def serve(store: Path, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server and wait until it answers."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{store}",
    ]
    command += ["--artifacts-destination", str(store.parent / "artifacts")]
    command += ["--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    for _ in range(600):
        try:
            requests.get(f"http://127.0.0.1:{port}/health", timeout=1).raise_for_status()
            return server
        except requests.RequestException:
            time.sleep(0.2)
    raise TimeoutError("MLflow's server does not start")


def kill(server: subprocess.Popen[bytes]) -> None:
    """Kill a server and the workers it has started."""
    os.killpg(server.pid, 9)
    server.wait()


def begun(run: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a run has finished its second round."""
    while run.poll() is None and not (log.exists() and "round 2:" in log.read_text()):
        time.sleep(0.05)


def main() -> None:
    """Do the runs and print what is left of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    chance = random.Random(0)
    folder = Path(tempfile.mkdtemp())
    store, locked = folder / "server" / "mlflow.db", folder / "file" / "mlflow.db"
    store.parent.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server, uri = serve(store, port), f"http://127.0.0.1:{port}"
    try:
        whole = 0
        for number in range(given.runs):
            killed = number % 2 == 0
            place = folder / f"run-{number}"
            told = uri if killed else f"sqlite:///{locked}"
            run = subprocess.Popen(
                [sys.executable, "simulate.py", *TINY, f"run.dir={place}", f"tracking.uri={told}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            begun(run, place / "log.txt")
            moment, gone = chance.uniform(0, 4), chance.uniform(0.5, 6)
            time.sleep(moment)
            if killed:
                kill(server)
                time.sleep(gone)
                server = serve(store, port)
            else:
                lock = sqlite3.connect(locked, isolation_level=None, timeout=60)
                lock.execute("BEGIN EXCLUSIVE")
                time.sleep(gone)
                lock.execute("ROLLBACK")
                lock.close()
            code = run.wait()
            results = json.loads((place / "results.json").read_text())
            client = MlflowClient(told)
            experiment = client.get_experiment_by_name("phantom")
            assert experiment is not None
            (logged,) = [
                one
                for one in client.search_runs([experiment.experiment_id])
                if one.data.tags["folder"] == str(place)
            ]
            rounds = [m.step for m in client.get_metric_history(logged.info.run_id, "round")]
            stages = [m.step for m in client.get_metric_history(logged.info.run_id, "avg")]
            fine = (
                code == 0
                and results["status"] == "completed"
                and logged.info.status == "FINISHED"
                and rounds == list(range(1, ROUNDS + 1))
                and len(stages) == STAGES
                and not (place / "tracking.jsonl").exists()
            )
            whole += fine
            what = "server killed" if killed else "database locked"
            print(
                f"run {number}: {what} after {moment:.1f} s for {gone:.1f} s: exit {code}, "
                f"{results['status']}, MLflow {logged.info.status}, {len(rounds)} of {ROUNDS} "
                f"rounds, {len(stages)} of {STAGES} stages{'' if fine else '  <-- not whole'}",
                flush=True,
            )
        print(f"{whole} of {given.runs} runs completed with all metrics in the store")
    finally:
        kill(server)


if __name__ == "__main__":
    main()
