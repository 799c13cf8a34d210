"""Every method gives the same bits on any engine and after any interruption."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcl import arrays
from fedcl.app.simulation import APP, nodes_of
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.registry import AGGREGATION, STRATEGY
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Round, Watcher
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.wire.local_grid import InProcessGrid, LocalGrid
from fedcl.wire.ray_grid import RayGrid
from tests.conftest import NEEDS, TINY, base, read
from tests.images import nifti


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
    server.run(server.meet(), Clock())
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


FEW = ("contrastive", "ewc", "fedbn", "field_distillation", "individual", "replay", "ted", "tkrl")
"""Methods that between them keep all that is kept between rounds: at sites and at the server."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FEW else pytest.mark.exhaustive)
        for name in STRATEGY.available()
    ],
)
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


@pytest.mark.parametrize(
    "name",
    [
        "joint",
        "replay",
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("ewc", "tkrl", "souvenir")),
    ],
)
def test_a_centralised_run_can_be_interrupted_too(name: str, tmp_path: Path, grids: Any):
    overrides = [*TINY, f"strategy={name}", "timeline.centralised=true"]
    config, expected = reference(overrides, tmp_path / "whole", grids)
    grid = grids(config, tmp_path / "run", "inprocess")
    with pytest.raises(KeyboardInterrupt):
        run(config, grid, tmp_path / "run", 3)
    assert run(config, grid, tmp_path / "run")["weights_sha256"] == expected["weights_sha256"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "fedadam" else pytest.mark.exhaustive)
        for name in AGGREGATION.available()
    ],
)
def test_an_aggregation_goes_on_to_the_same_bits(name: str, tmp_path: Path, grids: Any):
    stages = "timeline.stages=[[A,B,C],[D,E,F]]"
    config, expected = reference([*TINY, f"aggregation={name}", stages], tmp_path / "whole", grids)
    grid = grids(config, tmp_path / "run", "inprocess")
    with pytest.raises(KeyboardInterrupt):
        run(config, grid, tmp_path / "run", 2)
    assert run(config, grid, tmp_path / "run")["weights_sha256"] == expected["weights_sha256"]
    hashes = {key: value["weights_sha256"] for key, value in SAID.items() if stages in key}
    assert len(set(hashes.values())) == len(hashes), "two rules gave the same weights"


GATHERING = [
    *TINY, "strategy=ted", "timeline.stages=[[A,B],[C]]", "timeline.participation=cumulative",
]  # fmt: skip
"""Sites A and B train in both stages, in the second beside a module of the strategy's own."""


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_what_an_optimiser_keeps_goes_on_to_the_same_bits(name: str, tmp_path: Path, grids: Any):
    overrides = [*GATHERING, f"optimiser={name}", "optimiser.keep=true"]
    config, expected = reference(overrides, tmp_path / "whole", grids)
    grid = grids(config, tmp_path / "run", "inprocess")
    for stop in (2, 4):  # at the end of the first stage, and of the second
        with pytest.raises(KeyboardInterrupt):
            run(config, grid, tmp_path / "run", stop)
    again = run(config, grid, tmp_path / "run")
    assert again["weights_sha256"] == expected["weights_sha256"]
    assert again["cases"] == expected["cases"]


@pytest.mark.parametrize("rounds", [1, 2])
def test_an_optimiser_keeps_what_it_has_gathered_within_a_stage(
    rounds: int, tmp_path: Path, grids: Any
):
    """Stages of one round are as if nothing were kept: each begins anew."""
    ends = []
    for keep in ("true", "false"):
        overrides = [*GATHERING, f"timeline.rounds={rounds}", f"optimiser.keep={keep}"]
        config = Config.parse(compose(overrides))
        run(config, grids(config, tmp_path / keep, "inprocess"), tmp_path / keep)
        folder = tmp_path / keep / "checkpoint"
        ends.append(arrays.digest(arrays.load_file(folder / "stage-2.safetensors")))
        kept = {
            part for file in (folder / "sites" / "A").glob(f"round-{2 * rounds:06d}.safetensors")
            for part in arrays.load_file(file) if part.startswith("optimiser/")
        }  # fmt: skip
        assert {key.split("/")[1] for key in kept} == ({"1"} if keep == "true" else set())
    assert (ends[0] == ends[1]) == (rounds == 1)


VARIED = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "scenario=folder",
    "scenario.patient='^(.+)$'", "scenario.labels=[0,1]", "scenario.spatial_dims=3",
    "scenario.patch=[8,8,8]", "augment=light", "strategy=ted", "model.channels=[4,8]",
    "timeline.rounds=2", "learner.steps=3", "learner.batch_size=2",
]  # fmt: skip
"""Patches of volumes, augmented, with a teacher that sees what the student sees."""


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of two sites of four volumes."""
    root, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    for site in "AB":
        for n in range(4):
            image = rng.normal(size=(13, 12, 11)).astype(np.float32)
            nifti(root / site / "images" / f"p{n}.nii", image)
            nifti(root / site / "masks" / f"p{n}.nii", (image > 1).astype(np.uint8))
    return root


def test_loaders_and_caches_change_no_bit(
    cli, tmp_path: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path / "cache"))
    ways = {
        "memory": ["learner.loaders=0"],
        "threads": ["learner.loaders=2"],
        "cold": ["learner.loaders=1", "scenario.cache=disk"],
        "warm": ["learner.loaders=2", "scenario.cache=disk"],
    }
    found = {}
    for name, way in ways.items():
        folder = tmp_path / name
        assert cli(*VARIED, *way, f"scenario.root={volumes}", f"run.dir={folder}") == 0
        results = read(folder)
        found[name] = {key: results[key] for key in ("weights_sha256", "matrix", "cases")}
        assert (tmp_path / "cache").exists() == (name in ("cold", "warm"))
    assert all(one == found["memory"] for one in found.values())
    plain = [part for part in VARIED if part != "augment=light"]
    assert cli(*plain, f"scenario.root={volumes}", f"run.dir={tmp_path / 'plain'}") == 0
    assert read(tmp_path / "plain")["weights_sha256"] != found["memory"]["weights_sha256"]


@pytest.mark.slow
def test_what_a_teacher_says_is_the_same_from_disk_and_from_memory(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of more slices than pass a network at once: parts are the same wherever samples lie."""
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path / "cache"))
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for site in "AB":
        for n in range(15):
            image = rng.normal(size=(16, 16, 12)).astype(np.float32)
            nifti(root / site / "images" / f"p{n}.nii", image)
            nifti(root / site / "masks" / f"p{n}.nii", (image > 1).astype(np.uint8))
    shas = []
    for cache in ("memory", "disk"):
        own = [f"scenario.root={root}", f"scenario.cache={cache}", f"run.dir={tmp_path / cache}"]
        slices = ["scenario.spatial_dims=2", "scenario.patch=null", "augment=none", "strategy=lwf"]
        assert cli(*VARIED, *slices, "timeline.stages=[[A],[B]]", *own) == 0
        shas.append(read(tmp_path / cache)["weights_sha256"])
    assert shas[0] == shas[1]


@pytest.mark.parametrize("size", ["null", "[10,8,8]"])
def test_whole_volumes_from_disk_are_those_from_memory(
    cli, tmp_path: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch, size: str
):
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path / "cache"))
    whole = [part for part in VARIED if not part.startswith(("augment", "scenario.patch"))]
    shas = []
    for cache in ("memory", "disk"):
        way = [f"scenario.cache={cache}", f"scenario.size={size}", f"run.dir={tmp_path / cache}"]
        assert cli(*whole, *way, f"scenario.root={volumes}") == 0
        shas.append(read(tmp_path / cache)["weights_sha256"])
    assert shas[0] == shas[1]
