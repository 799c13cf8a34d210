"""Souvenir, on pictures small enough to reckon by hand."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from torch import nn

from fedcl.data.samples import Stacked
from fedcl.tasks.losses import segmentation_loss
from strategies.parts.anatomy import SECTORS, grown, levels, places, quantiles, regions, reshape
from strategies.souvenir import repaint
from tests.small import ce, make, step


def disc(size: int = 32, cx: float = 0.0, cy: float = 0.0, r: float = 0.3) -> torch.Tensor:
    """Return a label with one disc, centre and radius in [-1, 1], shape (1, 1, H, W)."""
    axis = (torch.arange(size) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return ((x - cx).square() + (y - cy).square() < r**2).long()[None, None]


def test_places_are_centre_and_log_extent():
    place = places(disc(64, 0.25, -0.5, 0.4))[0]
    assert place[:2].tolist() == pytest.approx([0.25, -0.5], abs=0.01)
    # The coordinates of a disc have the standard deviation r / 2.
    assert place[2:].exp().tolist() == pytest.approx([0.2, 0.2], rel=0.05)
    assert places(torch.zeros(1, 1, 8, 8).long()).tolist() == [[0.0] * 4]


def test_regions_are_rings_times_sectors():
    label = disc(64, r=0.4)
    region = regions(label)[0]
    ring, sector = region // SECTORS, region % SECTORS
    middle = 32
    assert [ring[middle, middle + at].item() for at in (0, 11, 14, 18, 30)] == [0, 1, 2, 3, 4]
    assert (ring <= 1).equal(label[0, 0] > 0), "core and inner rim are the organ"
    right, below, left, above = (sector[at].item() for at in ((32, 60), (60, 32), (32, 3), (3, 32)))
    assert len({right, below, left, above}) == SECTORS


def test_quantiles_of_every_region_are_numpys():
    images = torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    region = regions(torch.cat([disc(), disc(r=0.5)]))
    found, pixels = quantiles(images, region, 5)
    for sample, number in ((0, 0), (0, 7), (1, 12), (1, 19)):
        values = images[sample, :, region[sample] == number].numpy()
        assert pixels[sample, number] == values.shape[1]
        expected = np.quantile(values, np.linspace(0, 1, 5), axis=1).T
        np.testing.assert_allclose(found[sample, :, number], expected, atol=1e-6)


def test_levels_are_ranks_within_the_region():
    image = torch.tensor([[3.0, 1.0], [2.0, 9.0]]).reshape(1, 1, 2, 2)
    region = torch.tensor([[[0, 0], [0, 5]]])
    assert levels(image, region).flatten().tolist() == pytest.approx([5 / 6, 1 / 6, 3 / 6, 0.5])


def souvenirs(images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    report = make("souvenir").look_around(nn.Identity(), Stacked(images, labels))
    assert sum(value.size for value in report.values()) <= 250, "some 200 numbers"
    return {name: torch.from_numpy(value)[None] for name, value in report.items()}


def test_repainting_gives_every_region_the_old_quantiles():
    rng = torch.Generator().manual_seed(0)
    labels = disc(r=0.5)
    old, new = (
        torch.randn(1, 1, 32, 32, generator=rng) * 3 + 1,
        torch.rand(1, 1, 32, 32, generator=rng),
    )
    left = souvenirs(old, labels)
    painted = repaint(new, labels, left, 0.0, rng)
    region = regions(labels)
    got, want = quantiles(painted, region, 9)[0], left["quantiles"]
    assert (got - want)[..., 2:7].abs().max() < 0.3, "up to the few pixels of a region"
    assert painted.mean().item() == pytest.approx(old.mean().item(), abs=0.2)
    for number in (0, 19):  # the order of pixels within a region stays
        inside = region[0] == number
        one, two = new[0, 0][inside].argsort(), painted[0, 0][inside].argsort()
        assert one.equal(two)


def test_a_region_the_old_hospital_never_saw_is_left_alone():
    labels, images = disc(r=0.5), torch.rand(1, 1, 32, 32)
    left = souvenirs(torch.randn(1, 1, 32, 32), torch.zeros_like(labels))
    painted = repaint(images, labels, left, 0.0, torch.Generator())
    organ = labels > 0
    assert painted[organ].equal(images[organ]) and not painted[~organ].equal(images[~organ])


@pytest.mark.parametrize(("lengths", "by"), [((20, 24), (2, 3)), ((10, 12, 14), (1, 2, 3))])
def test_an_organ_grows_as_scipy_dilates_it(lengths: tuple[int, ...], by: tuple[int, ...]):
    area = torch.rand(2, 1, *lengths, generator=torch.Generator().manual_seed(0)) > 0.97
    box = np.ones((1, 1, *(2 * n + 1 for n in by)))
    assert np.array_equal(grown(area.float(), by) > 0, binary_dilation(area.numpy(), box))


def test_half_precision_moves_nothing_elsewhere():
    label = disc(256, 0.2, -0.1)
    image = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    place = torch.tensor([[[0.2] * 4, [0.1, -0.2, -1.5, -1.6]]])

    def moved() -> tuple[torch.Tensor, torch.Tensor]:
        rng = torch.Generator().manual_seed(1)
        return reshape(image, label, place, torch.ones(1) > 0, rng)

    with torch.autocast("cpu", torch.bfloat16):
        half = moved()
    assert all(a.equal(b) for a, b in zip(half, moved(), strict=True))
    assert not half[0].equal(image)


def test_reshaping_moves_and_scales_the_organ_with_its_image():
    labels = disc(64, -0.3, 0.2, 0.2)
    images = labels.float() * 5
    wanted = places(disc(64, 0.25, -0.1, 0.4))
    place = torch.stack([torch.zeros_like(wanted), wanted], dim=1)
    known = torch.ones(1, dtype=torch.bool)
    moved, marks = reshape(images, labels, place, known, torch.Generator())
    torch.testing.assert_close(places(marks), wanted, atol=0.05, rtol=0.1)
    agree = ((moved > 2.5).long() == marks).float().mean()
    assert agree > 0.99, "image and label move together"
    stays = reshape(images, labels, place, ~known, torch.Generator())
    torch.testing.assert_close(stays, (images, labels))


def test_an_organ_made_smaller_leaves_no_unlabelled_image_of_itself():
    labels = disc(64, 0.5, 0.0, 0.45)
    small = places(disc(64, 0.5, 0.0, 0.2))
    place = torch.stack([torch.zeros_like(small), small], dim=1)
    known = torch.ones(1, dtype=torch.bool)
    moved, marks = reshape(labels.float(), labels, place, known, torch.Generator())
    assert (moved > 0.5).float().sum().item() == pytest.approx(marks.sum().item(), rel=0.05)


def test_souvenir_terms_and_switches():
    left = {
        f"0/A/{k}": v[0]
        for k, v in souvenirs(torch.randn(2, 1, 8, 8), disc(8).repeat(2, 1, 1, 1)).items()
    }
    p, q = torch.full((64,), 0.8), torch.full((64,), 0.9)
    given = dict(inputs=torch.rand(1, 1, 8, 8), targets=disc(8), memory=left)
    answers = [torch.stack([torch.log(1 - v), torch.log(v)]).reshape(1, 2, 8, 8) for v in (p, q)]
    here = step(*answers, **given)
    terms = make("souvenir", seg=2.0, kd=3.0, shape=False).objective(here)
    assert terms["kd"].item() == pytest.approx(3 * ce(0.9, 0.8), rel=1e-4)
    expected = 2 * segmentation_loss(answers[0], given["targets"]).item()
    assert terms["restaged"].item() == pytest.approx(expected, rel=1e-4)
    assert here.student.shown[-1].equal(here.teacher.shown[-1])
    assert not here.student.shown[-1].equal(here.inputs)
    plain = step(*answers, **given)
    make("souvenir", shape=False, look=False).objective(plain)
    assert plain.student.shown[-1].equal(plain.inputs)


@pytest.mark.parametrize("labels", [torch.zeros(2, 1, 8, 8).long(), torch.ones(2, 1, 8, 8).long()])
def test_souvenir_bears_slices_without_an_organ_or_full_of_it(labels: torch.Tensor):
    images = torch.zeros(2, 1, 8, 8)  # constant as well
    left = {f"0/A/{k}": v[0] for k, v in souvenirs(images, labels).items()}
    assert all(torch.isfinite(value).all() for value in left.values())
    answer = torch.zeros(1, 2, 8, 8)
    here = step(answer, answer, inputs=images, targets=labels, memory=left)
    terms = make("souvenir").objective(here)
    assert all(torch.isfinite(term) for term in terms.values())
