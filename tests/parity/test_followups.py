"""CauAug's and TKRL's terms against values reckoned from their formulas without torch (record.py).

The published code has the width where `kd/value/width` is, and a total variation, a deviation and a
rounding that the papers do not name; the defaults follow it.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedcl.data.samples import Stacked
from strategies.cauaug import restyle
from strategies.parts.distillation import drawn, soft_cross_entropy
from strategies.parts.probes import rough
from strategies.parts.random_network import convolved, seen_through, standard
from tests.parity import record
from tests.small import make
from tests.summaries import past

RECORDED = np.load(record.FILE)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32 against float64


def recorded(name: str) -> Tensor:
    return torch.from_numpy(RECORDED[name]).float()


@pytest.fixture
def layers() -> list[tuple[Tensor, Tensor]]:
    return [(recorded(f"ana/weight/{n}"), recorded(f"ana/bias/{n}")) for n in range(4)]


def test_what_is_recorded_is_what_the_formulas_give(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(record, "FILE", tmp_path / "again.npz")
    record.main()
    again = np.load(tmp_path / "again.npz")
    assert set(again) == set(RECORDED)
    for name in again:
        np.testing.assert_allclose(again[name], RECORDED[name], rtol=1e-10, err_msg=name)


def test_ana_aug(layers: list[tuple[Tensor, Tensor]]):
    images, wanted = recorded("ana/images"), recorded("ana/value")
    found = convolved(images, layers)
    low, high = found.amin((2, 3), keepdim=True), found.amax((2, 3), keepdim=True)
    torch.testing.assert_close((found - low) / (high - low), wanted, rtol=1e-3, atol=1e-4)


def test_ana_aug_as_it_is_used_differs_by_mean_and_deviation_alone(
    layers: list[tuple[Tensor, Tensor]],
):
    images = recorded("ana/images")
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    filled = (images - low) / (high - low)
    weights = [RECORDED[f"ana/weight/{n}"] for n in range(4)]
    biases = [RECORDED[f"ana/bias/{n}"] for n in range(4)]
    wanted = torch.from_numpy(record.analytic(filled.double().numpy(), weights, biases)).float()
    found = seen_through(layers, images * 7 - 3)
    torch.testing.assert_close(standard(found), standard(wanted), rtol=1e-3, atol=1e-3)


def test_dom_aug():
    old, cauaug = recorded("dom/old"), make("cauaug")
    told = cauaug.style(nn.Identity(), Stacked(old, old.long()))
    memory = cauaug.remember(past(nn.Identity(), reports={"A": told}))
    archive = {key: torch.from_numpy(value) for key, value in memory.items()}
    found = restyle(recorded("dom/images"), drawn(archive, 1, torch.Generator()))
    torch.testing.assert_close(found, recorded("dom/value"), **TOLERANCE)


def test_kd_and_how_much_larger_its_sum_over_the_width_is():
    value = soft_cross_entropy(recorded("kd/student"), recorded("kd/teacher").softmax(1)).item()
    assert value == pytest.approx(RECORDED["kd/value/classes"].item(), rel=1e-5)
    classes, _, width = recorded("kd/student").shape[1:]
    assert value * width / classes == pytest.approx(RECORDED["kd/value/width"].item(), rel=1e-5)


def test_probes():
    images = recorded("pcd/images")
    found = rough(images, make("tkrl").probes.variation) - torch.sigmoid(images).mean()
    assert found.item() == pytest.approx(RECORDED["pcd/value"].item(), rel=1e-5)


def test_masks_of_the_scales_of_a_segformer():
    student, teacher = (
        [recorded(f"vma/{who}/{n}") for n in range(4)] for who in ("student", "teacher")
    )
    found = make("tkrl").mask(student, teacher, (64, 64))
    assert found[:, 0].equal(torch.from_numpy(RECORDED["vma/value"]))


@pytest.mark.parametrize(
    ("size", "rounding", "share"),
    [(64, "down", 0.23), (64, "up", 0.49), (192, "down", 0.332), (192, "up", 0.357)],
)
def test_the_share_that_is_masked(size: int, rounding: str, share: float):
    """Shares measured of the published code ("down") and of what rounds up."""
    rng = torch.Generator().manual_seed(size)
    shapes = [(16, 3, size // scale, size // scale) for scale in record.SCALES]
    student, teacher = ([torch.randn(s, generator=rng) for s in shapes] for _ in range(2))
    found = make("tkrl", rounding=rounding).mask(student, teacher, (size, size))
    assert found.float().mean().item() == pytest.approx(share, abs=0.02)
