"""What the tests share: a tiny experiment, and the command line as a function."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

import simulate
from fedcl.registry import STRATEGY
from fedcl.tasks.field import Field

ROOT = Path(__file__).parents[1]
SUNNYBROOK = ROOT.parent / "shared" / "data" / "sunnybrook"

TINY = [
    "engine=inprocess",
    "tracking.enabled=false",
    "run.figures=false",
    "scenario.size=32",
    "scenario.patients=6",
    "scenario.slices=2",
    "scenario.strength=1.0",
    "model.channels=[4,8]",
    "timeline.rounds=2",
    "learner.epochs=1",
]
"""Six hospitals, three stages of two rounds: the real thing in about a second."""

TINY_FIELD = [
    "scenario=cine_domain",
    "model=siren",
    "engine=inprocess",
    "tracking.enabled=false",
    "run.figures=false",
    "scenario.size=16",
    "model.width=24",
    "timeline.rounds=2",
    "learner.batch_size=128",
    "learner.steps=40",
]
"""The same for neural fields: twelve frames of 16 x 16 pixels, in three stages."""

MIXED = [
    "models.large.name=multitask_unet",
    "models.large.channels=[8,16]",
    "models.large.convolutions=1",
    "models.small.name=plain_unet",
    "models.small.channels=[4,8]",
    "models.large.norm=instance",
    "models.small.norm=instance",
    *(f"sites.{site}.model={'large' if site in 'ACE' else 'small'}" for site in "ABCDEF"),
    "sites.D.data_fraction=0.5",
]
"""Of the six hospitals, half have a large model and half a small one."""

NEEDS = {
    "fedbn": ["model.norm=batch"],
    "field_server_distillation": ["strategy.steps=20"],
    "contrastive": MIXED,
}
"""What a method cannot do without, or is too slow without."""


def base(strategy: str) -> list[str]:
    """Return the smallest experiment for a strategy, by what its formulas are about."""
    return TINY_FIELD if STRATEGY.make({"name": strategy}).requirements.task is Field else TINY


@pytest.fixture
def cli() -> Callable[..., int]:
    """Run simulate.py in this process; returns its exit status."""

    def run(*overrides: str) -> int:
        return simulate.main(overrides)

    return run


@pytest.fixture
def tiny(cli: Callable[..., int], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the tiny experiment with overrides; returns its results."""
    count = iter(range(1000))

    def run(*overrides: str) -> dict[str, Any]:
        folder = tmp_path / f"run{next(count)}"
        assert cli(*TINY, f"run.dir={folder}", *overrides) == 0
        return read(folder)

    return run


def read(folder: Path) -> dict[str, Any]:
    """Return the results of a run."""
    return json.loads((folder / "results.json").read_text())


def start(*overrides: str) -> subprocess.Popen[str]:
    """Start simulate.py as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "simulate.py"), *overrides],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_heed_signals,
    )


def _heed_signals() -> None:
    """Undo what shells do to background jobs (Ctrl-C) and `nohup` (SIGHUP): children inherit it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Return a headless Chromium without a network."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.skip("no chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    driver.set_network_conditions(offline=True, latency=0, throughput=0)
    yield driver
    driver.quit()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what opens a page."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
