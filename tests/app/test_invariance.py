"""Every method gives the same bits on any engine and after any interruption."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedcl.app.simulation import APP, nodes_of
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.registry import AGGREGATION, STRATEGY
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Round, Watcher
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.wire.local_grid import InProcessGrid, LocalGrid
from fedcl.wire.ray_grid import RayGrid
from tests.conftest import NEEDS, TINY, base


class Interrupt(Watcher):
    """A watcher that stops a run when a round is over, before it is saved."""

    def __init__(self, after: int | None) -> None:
        self.after = after

    def round_done(self, done: Round, state: State) -> None:
        if done.number == self.after:
            raise KeyboardInterrupt


def run(config: Config, grid: LocalGrid, folder: Path, stop: int | None = None) -> dict[str, Any]:
    """Go on from what `folder` holds; return what must not depend on how."""
    checkpoint = Checkpoint(folder / "checkpoint")
    server = Server(grid, config, checkpoint, checkpoint.load(), watchers=[Interrupt(stop)])
    server.run(server.meet(), started=0.0)
    keys = ("weights_sha256", "cases", "stages", "bytes", "stored", "rounds")
    found = outcome(config, server.state).values()
    return {key: found[key] for key in keys}


@pytest.fixture(scope="module")
def grids() -> Iterator[Callable[[Config, Path, str], LocalGrid]]:
    """Make grids whose hospitals keep their state under a folder."""
    opened: list[RayGrid] = []

    def make(config: Config, folder: Path, engine: str) -> LocalGrid:
        nodes = list(nodes_of(config, folder).values())
        if engine == "inprocess":
            return InProcessGrid(APP, nodes)
        for grid in opened:  # there is one Ray at a time
            grid.close()
        opened.clear()
        opened.append(RayGrid(APP, nodes, workers=2, num_cpus=0.5))
        return opened[-1]

    yield make
    for grid in opened:
        grid.close()


SAID: dict[str, dict[str, Any]] = {}
"""What an uninterrupted run in this process gave, per overrides."""


def reference(overrides: list[str], folder: Path, grids: Any) -> tuple[Config, dict[str, Any]]:
    config = Config.parse(compose(overrides))
    key = " ".join(overrides)
    if key not in SAID:
        SAID[key] = run(config, grids(config, folder, "inprocess"), folder)
    return config, SAID[key]


def method(name: str) -> list[str]:
    return [*base(name), f"strategy={name}", *NEEDS.get(name, [])]


@pytest.mark.parametrize("name", STRATEGY.available())
def test_an_interrupted_run_goes_on_to_the_same_bits(name: str, tmp_path: Path, grids: Any):
    config, expected = reference(method(name), tmp_path / "whole", grids)
    grid = grids(config, tmp_path / "run", "inprocess")
    for stop in (1, 3, 6):  # in the first stage, in the second, at the end of the last
        with pytest.raises(KeyboardInterrupt):
            run(config, grid, tmp_path / "run", stop)
    got = run(config, grid, tmp_path / "run")
    del got["bytes"]  # rounds repeated are bytes sent again
    assert got == {key: value for key, value in expected.items() if key != "bytes"}


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_give_the_bits_of_one_process_for_every_method(tmp_path: Path, grids: Any):
    grid, sites = None, None
    for name in sorted(STRATEGY.available(), key=base):
        config, expected = reference(method(name), tmp_path / f"{name}-whole", grids)
        shutil.rmtree(tmp_path / "checkpoint", ignore_errors=True)  # what the sites kept
        if grid is None or sites != config.timeline.sites:
            grid, sites = grids(config, tmp_path, "ray"), config.timeline.sites
        assert run(config, grid, tmp_path / name) == expected, name


FIELDS = {
    "rows": ["model=diner", "model.width=8"],
    "outputs": ["scenario=cine_signal", "model=finer"],
    "latents": [
        "scenario.shared=false", "model.latent=3", "timeline.stages=[[early,middle],[late]]",
        "strategy.weight=0",
    ],
    "bank": ["model=pe", "strategy.bank=true"],
    "average": ["strategy.teacher.refresh=ema"],
    "volume": ["scenario.slices=3"],
}  # fmt: skip


@pytest.mark.parametrize("overrides", FIELDS.values(), ids=FIELDS)
def test_fields_that_grow_go_on_to_the_same_bits(overrides: list[str], tmp_path: Path, grids: Any):
    overrides = [*base("field_distillation"), "strategy=field_distillation", *overrides]
    config, expected = reference(overrides, tmp_path / "whole", grids)
    grid = grids(config, tmp_path / "run", "inprocess")
    for stop in (2, 3):  # before and after it grew
        with pytest.raises(KeyboardInterrupt):
            run(config, grid, tmp_path / "run", stop)
    got = run(config, grid, tmp_path / "run")
    assert (got["weights_sha256"], got["cases"]) == (expected["weights_sha256"], expected["cases"])


@pytest.mark.parametrize("name", ["joint", "ewc", "replay", "tkrl", "souvenir"])
def test_a_centralised_run_can_be_interrupted_too(name: str, tmp_path: Path, grids: Any):
    overrides = [*TINY, f"strategy={name}", "timeline.centralised=true"]
    config, expected = reference(overrides, tmp_path / "whole", grids)
    grid = grids(config, tmp_path / "run", "inprocess")
    with pytest.raises(KeyboardInterrupt):
        run(config, grid, tmp_path / "run", 3)
    assert run(config, grid, tmp_path / "run")["weights_sha256"] == expected["weights_sha256"]


@pytest.mark.parametrize("name", AGGREGATION.available())
def test_an_aggregation_goes_on_to_the_same_bits(name: str, tmp_path: Path, grids: Any):
    stages = "timeline.stages=[[A,B,C],[D,E,F]]"
    config, expected = reference([*TINY, f"aggregation={name}", stages], tmp_path / "whole", grids)
    grid = grids(config, tmp_path / "run", "inprocess")
    with pytest.raises(KeyboardInterrupt):
        run(config, grid, tmp_path / "run", 2)
    assert run(config, grid, tmp_path / "run")["weights_sha256"] == expected["weights_sha256"]
    hashes = {key: value["weights_sha256"] for key, value in SAID.items() if stages in key}
    assert len(set(hashes.values())) == len(hashes), "two rules gave the same weights"
