"""Whatever is killed, and whenever: the run goes on, and is the run that would have been.

`FEDCL_KILLS=50 pytest -m exhaustive tests/wire/test_kills.py -s` tells each kill.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fedcl.files import locked
from tests.conftest import read
from tests.federation import SMALL, Federation

pytestmark = [pytest.mark.network, pytest.mark.exhaustive]

KILLS = int(os.environ.get("FEDCL_KILLS", "6"))
SEED = int(os.environ.get("FEDCL_SEED", "0"))
SITES = ["A", "B", "C"]
KNOWN = "the hospitals are known"
RUN = [
    *SMALL[:-2], "timeline.stages=[[A,B],[C]]", "strategy=replay", "engine.quorum=1.0",
    "timeline.rounds=5", "timeline.wait=240", "engine.timeout=600",
]  # fmt: skip
"""A round counts only when all have delivered: whoever is away is waited for."""


class Run:
    """A run that its operator goes on with whenever it has stopped."""

    def __init__(self, federation: Federation) -> None:
        self.federation, self.resumed = federation, 0
        self.folder = federation.run(RUN)
        federation.until(self.begun)

    def begun(self) -> bool:
        return any((self.folder / "checkpoint").glob("round-*"))

    @property
    def finished(self) -> bool:
        there = (self.folder / "results.json").exists()
        return there and read(self.folder)["status"] == "completed"

    def tend(self) -> None:
        """Go on with the run where nobody does, as often as it takes."""
        while not self.finished and not locked(self.folder):
            self.federation.run([f"run.resume={self.folder.name}"])
            self.resumed += 1
            until = time.monotonic() + 120  # the application has to start
            while not (self.finished or locked(self.folder)) and time.monotonic() < until:
                time.sleep(0.5)


def answering(fed: Federation, site: str) -> psutil.Process:
    """Return a hospital's process that computes."""
    fed.until(lambda: _answering(fed, site))
    return _answering(fed, site)[0]


def _answering(fed: Federation, site: str) -> list[psutil.Process]:
    """Return it, in a list, or none where it is just being started again."""
    every = psutil.Process(fed.processes[site].pid).children(recursive=True)
    try:
        return [one for one in every if "spawn_main" in " ".join(one.cmdline())]
    except psutil.NoSuchProcess:  # it ends while one looks; a zombie is one as well
        return []


def kill(fed: Federation, victim: str, chance: random.Random) -> None:
    """Kill something, and start it again as systemd would, or its parent does."""
    if victim == "application":
        fed.kill_application()
    elif victim == "answering":
        answering(fed, chance.choice(SITES)).kill()
    else:
        known = fed.said("server").count(KNOWN)
        fed.kill(victim)
        time.sleep(chance.uniform(0.0, 5.0))
        fed.start(victim)
        if victim == "server":
            fed.until(lambda: fed.said("server").count(KNOWN) > known)


def test_runs_survive_being_killed_anywhere_at_any_moment(
    cli: Callable[..., int], tmp_path: Path, federation: Callable[[list[str]], Federation]
):
    here = tmp_path / "here"
    common = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
    assert cli(*RUN, *common, f"run.dir={here}") == 0
    expected, chance = read(here), random.Random(SEED)
    killed, runs, resumed = Counter[str](), 0, 0
    fed = federation(SITES)
    fed.open(registered=SITES, started=SITES)
    fed.until(lambda: fed.online() == len(SITES))
    while killed.total() < KILLS:
        run = Run(fed)
        while not run.finished:
            time.sleep(chance.uniform(0.5, 25.0))
            victim = chance.choice(["server", "application", "answering", *SITES])
            if killed.total() < KILLS and locked(run.folder) and not run.finished:
                kill(fed, victim, chance)
                killed[victim] += 1
                print(f"{time.strftime('%H:%M:%S')} killed {victim}, {killed.total()} of {KILLS}")
            time.sleep(3.0)
            run.tend()
        runs, resumed = runs + 1, resumed + run.resumed
        print(f"{time.strftime('%H:%M:%S')} run {runs} is complete, resumed {run.resumed} times")
        found = read(run.folder)
        for key in ("weights_sha256", "matrix", "cases", "stages"):
            assert found[key] == expected[key], key
    print(f"{dict(killed)}: {runs} runs, resumed {resumed} times, none lost")
    assert killed.total() == KILLS
