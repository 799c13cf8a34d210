"""Neural fields: definitions, initial weights, growth, loss and scores."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedcl import arrays
from fedcl.data.space import Part, Room, Space
from fedcl.errors import RunError
from fedcl.reporting.terminal import extremes
from fedcl.server.results import Results, ScoreResults
from fedcl.tasks.base import Labeller
from fedcl.tasks.field import Frame, psnr, ssim
from tests.fields import SPACE, WHOLE, build, field

RELU = ("layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias")


MODELS = ("pe", "siren", "finer", "diner")


def weights(network: nn.Module, *names: str) -> list[torch.Tensor]:
    return [network.get_parameter(name).detach() for name in names]


# --- space -----------------------------------------------------------------------------------


def test_coordinates_span_the_planned_extent_and_single_axes_have_none():
    found = SPACE.coordinates(torch.tensor([0, 4, 14, 59]))
    assert found.tolist() == [[-1, -1, -1], [-1, -1, 1], [-1, 1, 1], [1, 1, 1]]
    assert SPACE.axes == [0, 2, 3]


def test_positions_and_coordinates_are_inverse():
    every = torch.arange(SPACE.size)
    assert torch.equal(SPACE.positions(SPACE.coordinates(every)), every)


@pytest.mark.parametrize(
    ("at", "said"), [([1.5, 0, 0], "outside of the planned extent"), ([-1, 0.1, 0], "between")]
)
def test_coordinates_off_the_grid_are_refused(at: list[float], said: str):
    with pytest.raises(RunError, match=said):
        SPACE.positions(torch.tensor([at]))


def test_positions_come_in_order_of_arrival_each_once():
    late, early = Part((2, 4), (0, 1), (0,)), Part((1, 3), (0, 1), (0,))
    found = Room(SPACE, (late, early)).positions().tolist()
    assert found == [*range(30, 60), *range(15, 30)]


# --- definitions -----------------------------------------------------------------------------


def test_pe_is_a_relu_network_on_waves():
    network = build("pe", waves=2, width=3, hidden=0)
    x = torch.tensor([[0.5, -1.0, 0.25]])
    seen = [0.5, -1.0, 0.25]
    seen += [
        f(math.pi * 2**i * v) for f in (math.sin, math.cos) for v in x[0].tolist() for i in (0, 1)
    ]
    w, b, v, c = weights(
        network, "layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"
    )
    expected = torch.relu(torch.tensor([seen]) @ w.T + b) @ v.T + c
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("name", ["siren", "finer"])
def test_sines(name: str):
    network = build(name, width=3, hidden=1, omega=2.0)
    x = torch.tensor([[0.5, -1.0, 0.25], [0.1, 0.2, 0.3]])
    z = x
    for layer in (0, 1):
        w, b = weights(network, f"layers.{layer}.weight", f"layers.{layer}.bias")
        z = z @ w.T + b
        z = torch.sin(2.0 * ((z.abs() + 1) if name == "finer" else 1) * z)
    w, b = weights(network, "last.weight", "last.bias")
    torch.testing.assert_close(network(x), z @ w.T + b)


def test_the_factor_of_finer_takes_no_gradient():
    network = build("finer", width=1, hidden=0, omega=2.0)
    x = torch.tensor([[0.5, -1.0, 0.25]])
    (z,) = network.layers[0](x).flatten().tolist()
    (slope,) = torch.autograd.grad(network(x).sum(), network.layers[0].bias)
    out = network.last.weight.item()
    factor = 2.0 * (abs(z) + 1)
    assert slope.item() == pytest.approx(out * factor * math.cos(factor * z), rel=1e-4)


def test_diner_looks_up_the_row_of_a_coordinate():
    network = build("diner", width=4, layers=1).eval()
    position = torch.tensor([17])
    w, b, v, c = weights(
        network, "layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"
    )
    expected = torch.relu(network.table[17:18] @ w.T + b) @ v.T + c
    at = SPACE.coordinates(position)
    torch.testing.assert_close(network(at), expected)
    torch.testing.assert_close(network.train()(at), expected)


def test_diner_refuses_what_it_never_saw():
    network = build("diner", Part((0, 2), (0, 1), (0,))).eval()
    with pytest.raises(RunError, match="never seen"):
        network(torch.tensor([[1.0, 0.0, 0.0]]))
    with pytest.raises(RunError, match="between the points"):
        network(torch.tensor([[-1.0, 0.1, 0.0]]))


# --- initial weights -------------------------------------------------------------------------


def spread(values: torch.Tensor, bound: float) -> None:
    """Check that values are uniform in ±bound, as far as many of them can tell."""
    assert values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(values.mean().item()) < 0.05 * bound


@pytest.mark.parametrize("name", ["siren", "finer"])
def test_initial_weights_of_sines(name: str):
    network = build(name, width=256, omega=30.0)
    first, second, last = weights(network, "layers.0.weight", "layers.1.weight", "last.weight")
    spread(first, 1 / 3)
    spread(second, math.sqrt(6 / 256) / 30)
    assert last.abs().max() <= math.sqrt(6 / 256) / 30


def test_initial_biases_of_finer():
    assert build("finer", bias=5.0, width=256).layers[0].bias.abs().max() > 4
    assert build("finer", width=256).layers[0].bias.abs().max() <= 1 / math.sqrt(3)


def test_initial_table_of_diner():
    whole = Part((0, 8), (0, 4), (0,))
    spread(build("diner", whole, space=Space((8, 4, 16, 16))).table, 1e-4)


# --- growth ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_new_outputs_leave_old_ones_as_they_were_bit_for_bit(name: str):
    old = build(name).eval()
    new = build(name, WHOLE, Part((0, 4), (0, 1), (1,))).eval()
    before, room = arrays.of_network(old), arrays.of_network(new)
    arrays.into_network(new, arrays.grown(before, room))
    at = SPACE.coordinates(torch.arange(SPACE.size))
    answers = new(at)
    assert torch.equal(answers[:, :1], old(at)) and not answers[:, 1].any()


def test_new_rows_leave_old_ones_as_they_were_bit_for_bit():
    early, late = Part((0, 2), (0, 1), (0,)), Part((2, 4), (0, 1), (0,))
    old, new = build("diner", early).eval(), build("diner", early, late).eval()
    arrays.into_network(new, arrays.grown(arrays.of_network(old), arrays.of_network(new)))
    at = SPACE.coordinates(early.positions(SPACE))
    assert torch.equal(new(at), old(at))
    assert len(new.table) == SPACE.size and len(old.table) == SPACE.size // 2
    spread_of_new = new.table[len(old.table) :].abs().max().item()
    assert 0 < spread_of_new <= 1e-4


def test_arrays_that_cannot_grow_are_refused():
    with pytest.raises(RunError, match="cannot grow"):
        arrays.grown({"w": np.zeros((2, 3))}, {"w": np.zeros((2, 4))})
    with pytest.raises(RunError, match="cannot grow"):
        arrays.grown({"w": np.zeros((3, 3))}, {"w": np.zeros((2, 3))})


# --- task ------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_square_of_what_is_known():
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    targets = torch.tensor([[0.0, math.nan], [math.nan, 1.0]])
    found = field("signal", "mask").loss(outputs.requires_grad_(), targets)
    assert found.item() == pytest.approx((1 + 9) / 2)
    (slope,) = torch.autograd.grad(found, outputs)
    assert slope.tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert field().loss(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)).item() == 5.0


def test_psnr_and_ssim():
    truth = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-4)
    assert psnr(truth, truth) == 100.0
    assert ssim(truth, truth) == pytest.approx(1.0)
    assert ssim(1 - truth, truth) < 0


def test_a_teacher_is_asked_on_the_grid_of_others_for_what_they_know():
    parts = {"A": Part((0, 2), (0, 1), (0,)), "B": Part((1, 2), (0, 1), (1,))}
    task = field("signal", "mask", **parts)
    cpu = torch.device("cpu")

    def answers(at: torch.Tensor) -> torch.Tensor:
        return at[:, :2]

    told = task.past([Labeller(answers, ["A", "B"])], cpu)
    assert torch.equal(told.inputs, SPACE.coordinates(torch.arange(30)))
    assert torch.equal(told.targets[:, 0], told.inputs[:, 0])
    assert told.targets[:15, 1].isnan().all()
    assert torch.equal(told.targets[15:, 1], told.inputs[15:, 1])
    # What a site knows itself is not asked of others; a point has one row, whoever answers.
    assert torch.equal(task.past([Labeller(answers, ["A"])], cpu, own=["B"]).inputs, told.inputs)
    assert task.past([Labeller(answers, ["A"])], cpu, own=["A"]) is None
    each = task.past([Labeller(answers, ["A"]), Labeller(lambda at: at[:, :2] + 5, ["B"])], cpu)
    assert torch.equal(each.inputs, told.inputs)
    assert torch.equal(each.targets[:, 0], told.targets[:, 0])
    assert torch.equal(each.targets[15:, 1], told.targets[15:, 1] + 5)


def test_a_mask_is_scored_by_dice_and_a_signal_by_psnr_and_ssim():
    task = field("signal", "mask", A=Part((0, 4), (0, 1), (0, 1)), B=Part((0, 4), (0, 1), (1,)))
    assert (task.scored("A"), task.scored("B")) == (("psnr", "ssim", "dice"), ("dice",))
    true = torch.zeros(1, 1, 3, 5)
    true[..., :2] = 1
    frame = Frame("f", (1,), true, torch.arange(15).view(1, 3, 5))
    got = true.clone()
    got[..., 1:3] = torch.tensor([0.4, 0.6])
    said = torch.cat([torch.full_like(got, 0.3), got])  # whatever the field says of the signal
    assert task.score(said, frame, ["dice"]) == pytest.approx({"dice": 2 * 3 / (6 + 6)})


def test_a_picture_has_truth_field_and_error_and_masks_where_they_belong():
    task = field("signal", "mask", A=Part((0, 4), (0, 1), (0, 1)), B=Part((0, 4), (0, 1), (1,)))
    values = torch.stack([torch.full((1, 8, 8), 0.5), torch.zeros(1, 8, 8)])
    values[1, :, :4] = 1
    said = torch.stack([torch.full((1, 8, 8), 0.6), torch.ones(1, 8, 8)])
    both = task.picture(Frame("f", (0, 1), values, torch.arange(64).view(1, 8, 8)), said)
    assert both.title.startswith("f: 20.0 dB, SSIM ") and both.title.endswith("Dice 0.667")
    expected = torch.tensor([0.5] * 8 + [0.6] * 8 + [0.5] * 8)  # 5 x 0.1 in the last panel
    assert torch.allclose(both.image, expected.expand(8, 24))
    assert both.label[:4, 8:16].all() and both.label.sum() == 32
    assert both.prediction[:, 8:16].all() and both.prediction.sum() == 64
    mask = task.picture(Frame("g", (1,), values[1:], torch.arange(64).view(1, 8, 8)), said)
    assert mask.title == "g: Dice 0.667"
    assert torch.equal(mask.image, said[0, 0])  # the field's own signal: nothing else is known
    assert mask.label.sum() == 32 and mask.prediction.all()


def test_the_first_the_last_and_the_worst_frame_are_told():
    cases = {"A": {"f0": [50.0, 40.0], "f1": [51.0, 30.0]}, "mask": {}, "B": {"f2": [None, 45.0]}}
    ssims = {"A": {"f0": [1.0, 0.9], "f1": [1.0, 0.8]}, "mask": {}, "B": {"f2": [None, 0.95]}}
    results = Results(
        strategy="finetune", seed=0, sites=list(cases), matrix=[], cases=cases, metrics={},
        seconds={}, bytes={}, secondary={"ssim": ScoreResults([], ssims)},
    )  # fmt: skip
    assert extremes(results) == {
        "first": ("A/f0", 40.0, 0.9),
        "last": ("B/f2", 45.0, 0.95),
        "worst": ("A/f1", 30.0, 0.8),
    }
    assert extremes(replace(results, cases={"A": {}, "mask": {}, "B": {}})) == {}
