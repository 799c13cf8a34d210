"""What old fields teach new ones, at hospitals and at the server."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedcl import arrays
from fedcl.app.simulation import nodes_of
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.data.samples import Stacked
from fedcl.hospital.site import Hospital
from fedcl.hospital.teacher import rehearsal
from fedcl.learning import bank, loop
from fedcl.learning.learner import Learner
from fedcl.learning.step import Lesson, Rehearsal, Step
from fedcl.learning.strategy import RoundSummary, Strategy
from fedcl.registry import MODEL, STRATEGY
from fedcl.seeding import seeded
from fedcl.wire import records
from fedcl.wire.requests import TrainRequest
from tests.conftest import TINY_FIELD
from tests.fields import SPACE, build, field


def lesson(aligned: bool, ratio: float | None = 2.0) -> Step:
    at = SPACE.coordinates(torch.arange(8))
    past = Stacked(at, torch.full((8, 1), 3.0))
    index = torch.tensor([1, 5])
    return Step(
        task=field(),
        student=build("siren", width=4),
        teacher=nn.Identity(),
        past=Rehearsal(past, aligned, ratio),
        inputs=at[index],
        targets=torch.ones(2, 1),
        index=index,
        rng=torch.Generator().manual_seed(0),
    )


def test_distillation_asks_for_the_old_values_on_the_old_grid():
    here = lesson(aligned=False)
    terms = STRATEGY.make({"name": "field_distillation"}).objective(here)
    drawn = torch.randint(8, (2,), generator=torch.Generator().manual_seed(0))
    wrong = here.student(here.past.samples.inputs[drawn]) - 3.0
    assert terms["old"].item() == pytest.approx(2.0 * wrong.square().mean().item(), rel=1e-5)
    assert terms["fit"].item() == pytest.approx((here.outputs - 1.0).square().mean().item())


def test_where_coordinates_coincide_one_pass_serves_both_terms():
    here = lesson(aligned=True, ratio=None)
    passes = []
    here.student.register_forward_hook(lambda *_: passes.append(1))
    terms = STRATEGY.make({"name": "field_distillation"}).objective(here)
    assert len(passes) == 1
    wrong = (here.outputs - 3.0).square().mean().item()
    assert terms["old"].item() == pytest.approx(10 * wrong, rel=1e-5)
    heavier = STRATEGY.make({"name": "field_distillation", "weight": 0.5}).distil(here)
    assert heavier["old"].item() == pytest.approx(0.5 * wrong, rel=1e-5)


def test_the_weight_of_old_outputs_is_10_wherever_no_coordinate_is_new():
    distillation = STRATEGY.make({"name": "field_distillation"})
    split, known = lesson(aligned=False, ratio=None), lesson(aligned=False, ratio=1.0)
    heavy, light = (distillation.distil(one)["old"].item() for one in (split, known))
    assert heavy == pytest.approx(10 * light, rel=1e-5)
    assert STRATEGY.make({"name": "field_distillation", "weight": 0}).distil(known) == {}


def constant(config: Config, sites: list[str], value: float) -> dict[str, np.ndarray]:
    """Return the weights of a field that says the same everywhere."""
    network = config.job.network("siren", sites)
    nn.init.zeros_(network.last.weight)
    nn.init.constant_(network.last.bias, value)
    return arrays.of_network(network)


def taught(overrides: list[str], arrivals: list[list[str]], site: str) -> Rehearsal | None:
    """Return what `site` rehearses, where the bank has fields of 1, 2, ... and the teacher 9."""
    config = Config.parse(compose([*TINY_FIELD, "strategy=field_distillation", *overrides]))
    here = Hospital.of(nodes_of(config, Path("none"))[site], config.job.to_json())
    memory = {
        f"bank/{stage}/{key}": value
        for stage in range(len(arrivals) - 1)
        for key, value in constant(config, config.timeline.seen(stage), stage + 1.0).items()
    }
    every = [name for stage in arrivals for name in stage]
    teacher = config.job.network("siren", every)
    arrays.into_network(teacher, constant(config, every, 9.0))
    call = TrainRequest(
        job="", model="siren", arrays=records.to_record({}), memory=records.to_record(memory),
        arrivals=arrivals, shares={site: 1.0},
    )  # fmt: skip
    return rehearsal(here, call, teacher, here.samples({site: 1.0}))


FRAMES = [["early"], ["middle"], ["late"]]


def test_every_field_of_the_bank_answers_for_its_own_stage():
    past = taught(["strategy.bank=true"], FRAMES, "late")
    assert past.samples.targets.flatten().tolist() == [1.0] * 4 * 256 + [2.0] * 4 * 256
    assert past.ratio == 2.0 and not past.aligned


def test_without_a_bank_the_last_field_answers_for_all():
    past = taught([], FRAMES, "late")
    assert past.samples.targets.flatten().tolist() == [9.0] * 8 * 256
    at = past.samples.inputs[:, 0].unique()
    assert torch.allclose(at, torch.linspace(-1, 1, 12)[:8], atol=1e-6), "old frames alone"


def test_a_mask_brings_no_coordinates_of_its_own():
    past = taught(["scenario=cine_signal"], [["image"], ["mask"]], "mask")
    assert past.ratio is None and past.aligned
    assert past.samples.targets[:, 0].eq(9).all() and past.samples.targets[:, 1].isnan().all()
    split = [
        "scenario=cine_signal", "scenario.slices=2", "scenario.parts.mask.slices=[0,1]",
        "+scenario.parts.other={frames: [], slices: [1, 2], outputs: [pool]}",
    ]  # fmt: skip
    past = taught(split, [["image"], ["mask", "other"]], "mask")
    assert past.ratio is None and not past.aligned


def test_patients_of_their_own_are_not_asked_about():
    assert taught(["scenario.shared=false", "strategy.weight=0"], FRAMES, "late") is None


def test_the_server_fits_hospitals_on_their_coordinates_and_the_teacher_on_earlier_ones():
    overrides = [*TINY_FIELD, "strategy=field_server_distillation", "strategy.steps=300"]
    config = Config.parse(compose([*overrides, "strategy.lr=0.002"]))
    sites = ["early", "middle"]
    voices = {"middle": constant(config, sites, 0.2)}

    def refined(
        updates: dict[str, dict[str, np.ndarray]], heard: tuple[str, ...] = (), lost: Any = ()
    ) -> tuple[float, float]:
        network = config.job.network("siren", sites)
        gathered = RoundSummary(
            task=config.job.scenario.task, network=network, joined=constant(config, sites, 0.5),
            updates=updates, teacher=constant(config, sites, 0.8), earlier=["early"], lost=lost,
            before=constant(config, sites, 0.3), heard=heard, model=config.job.models["siren"],
            keys=("round", 0),
        )  # fmt: skip
        arrays.into_network(network, config.job.strategy.refine(gathered))
        frames = torch.arange(8 * 256)
        at = config.job.scenario.task.space.coordinates(frames)
        said = network(at).detach().flatten()
        return float(said[: 4 * 256].mean()), float(said[4 * 256 :].mean())

    assert refined(voices) == pytest.approx((0.8, 0.2), abs=0.1)
    both = {"early": constant(config, sites, 0.4), **voices}
    assert refined(both) == pytest.approx((0.4, 0.2), abs=0.1), "who has trained speaks itself"
    assert refined({}, heard=("middle",)) == pytest.approx((0.8, 0.3), abs=0.1)
    returned = refined({}, heard=("early", "middle"))  # the early one trains again, and is ill now
    assert returned == pytest.approx((0.3, 0.3), abs=0.1)
    assert refined(voices, lost=["early"])[0] < 0.6, "nobody speaks for who never delivered"


def test_the_table_of_diner_learns_faster_than_the_network():
    task, model = field(), MODEL.make({"name": "diner", "width": 4, "table_rate": 20.0})
    with seeded("rate"):
        network = task.build(model, ["A"])
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    samples = Stacked(SPACE.coordinates(torch.arange(SPACE.size)), torch.ones(SPACE.size, 1))
    lesson = Lesson(task=task, student=network, model=model)
    settings = Learner(steps=1, batch_size=64, amp=False)
    loop.train(lesson, samples, settings, Strategy(), lambda share: 1e-3, ("round", 0))
    moved = {n: (v.detach() - before[n]).abs().max().item() for n, v in network.named_parameters()}
    assert moved["table"] == pytest.approx(0.02, rel=0.01)  # Adam's first step is its rate
    assert moved["layers.4.bias"] == pytest.approx(0.001, rel=0.01)


def test_a_bank_keeps_the_field_of_every_stage():
    assert STRATEGY.make({"name": "field_distillation", "bank": True}).teaching.bank
    assert not STRATEGY.make({"name": "field_distillation"}).teaching.bank
    network = nn.Linear(1, 1)
    memory = {"of the method": np.float32([0.0])}
    for stage, value in enumerate((1.0, 2.0)):
        nn.init.constant_(network.bias, value)
        memory |= bank.kept(memory, stage, network)
    assert [float(one["bias"][0]) for one in bank.read(memory, 2)] == [1.0, 2.0]
    names = {f"bank/{stage}/{name}" for stage in (0, 1) for name in ("weight", "bias")}
    assert set(bank.kept(memory, 1, network)) == names


def test_frozen_leaves_only_the_table():
    frozen = STRATEGY.make({"name": "field_distillation", "frozen": True})
    network = build("diner")
    assert frozen.partition(network, 0).frozen == set()
    names = {name for name, _ in network.named_parameters()}
    assert names - frozen.partition(network, 1).frozen == {"table"}
