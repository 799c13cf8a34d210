"""Resampling of volumes, against weights per axis that are computed here, voxel by voxel."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage

from fedcl.data.labels import IGNORED
from fedcl.data.resampling import reduced, restored, scaled

RNG = np.random.default_rng(5)
SHAPE = (6, 9, 10)
SIZES = [
    (6, 9, 10), (3, 9, 10), (6, 4, 10), (6, 9, 7), (12, 9, 10), (6, 18, 13), (2, 3, 5),
    (11, 17, 23), (4, 20, 3), (1, 1, 1), (7, 2, 10),
]  # fmt: skip


def covered(old: int, new: int) -> np.ndarray:
    """Return which share of a new voxel every old one covers, (new, old)."""
    weights = np.zeros((new, old))
    for i in range(new):
        low, high = i * old / new, (i + 1) * old / new
        for j in range(old):
            weights[i, j] = max(0.0, min(high, j + 1) - max(low, j)) / (high - low)
    return weights


def interpolated(old: int, new: int) -> np.ndarray:
    """Return the weights of linear interpolation, outer edge on outer edge, (new, old)."""
    weights = np.zeros((new, old))
    for i in range(new):
        at = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
        for j in range(old):
            weights[i, j] = max(0.0, 1 - abs(at - j))
    return weights


def tents(old: int, new: int) -> np.ndarray:
    """Return the weights of a tent as wide as the coarser of the two grids, (new, old)."""
    width = max(old / new, 1.0)
    away = ((np.arange(new) + 0.5) * old / new)[:, None] - (np.arange(old) + 0.5)
    weights = (1 - np.abs(away) / width).clip(0)
    return weights / weights.sum(1, keepdims=True)


def along_all(image: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Return weighted sums along the last three axes."""
    return np.einsum("ai,bj,ck,...ijk->...abc", *weights, image.astype(np.float64))


def means_or_between(before: Sequence[int], after: Sequence[int]) -> list[np.ndarray]:
    return [
        (interpolated if new > old else covered)(old, new)
        for old, new in zip(before, after, strict=True)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_volumes_are_scaled_by_means_and_between_voxels(size: tuple[int, int, int]):
    image = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
    found = scaled(image, size)
    assert found.dtype == torch.float32 and found.shape == (2, *size)
    expected = along_all(image, means_or_between(SHAPE, size))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if size == SHAPE:
        assert np.array_equal(found, image)


@pytest.mark.parametrize("size", [(3, 4, 5), (12, 20, 23), (6, 4, 20)])
def test_what_is_constant_stays_so(size: tuple[int, int, int]):
    image = np.full((1, *SHAPE), 2.7, np.float32)
    assert scaled(image, size).unique().tolist() == [np.float32(2.7)]


@pytest.mark.parametrize("size", SIZES)
def test_a_voxel_gets_the_class_that_covers_most_of_it(size: tuple[int, int, int]):
    smooth = ndimage.gaussian_filter(RNG.normal(size=SHAPE), 1.5)
    labels = np.digitize(smooth, np.quantile(smooth, [0.3, 0.6, 0.8])).astype(np.uint8)
    labels[:, :2, :3] = IGNORED
    classes = np.unique(labels)
    weights = [covered(old, new) for old, new in zip(SHAPE, size, strict=True)]
    shares = np.stack([along_all(labels == value, weights) for value in classes])
    np.testing.assert_allclose(shares.sum(0), 1)
    best = np.sort(shares, 0)
    clear = best[-1] - best[-2] > 1e-3
    found = reduced(labels, size)
    assert found.dtype == torch.uint8 and found.shape == size
    assert np.array_equal(found.numpy()[clear], classes[shares.argmax(0)][clear])
    assert (shares[np.searchsorted(classes, found), *np.indices(size)] > best[-1] - 2e-3).all()
    if size == SHAPE:
        assert np.array_equal(found, labels)


def test_of_classes_with_even_shares_the_later_one_stays_in_volumes_too():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[::2] = 1
    assert reduced(labels, (2, 4, 4)).eq(1).all() and reduced(labels, (2, 2, 2)).eq(1).all()
    assert torch.equal(reduced(labels, (4, 2, 2)), torch.from_numpy(labels[:, ::2, ::2].copy()))
    thirds = np.array([0, 2, IGNORED], np.uint8).reshape(3, 1, 1)
    assert reduced(thirds, (1, 1, 1)).item() == IGNORED


@pytest.mark.parametrize("before", [SHAPE, (3, 5, 20), (12, 4, 4)])
@pytest.mark.parametrize("size", SIZES)
def test_answers_are_brought_back_linearly_along_all_axes(before, size: tuple[int, int, int]):
    answers = torch.from_numpy(RNG.dirichlet([1.0] * 3, before).astype(np.float32)).movedim(-1, 0)
    found = restored(answers, size)
    assert found.shape == (3, *size)
    weights = [tents(old, new) for old, new in zip(before, size, strict=True)]
    np.testing.assert_allclose(found, along_all(answers.numpy(), weights), atol=1e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    if size == before:
        assert torch.equal(found, answers)


@pytest.mark.parametrize("size", [(12, 9, 10), (11, 17, 23), (6, 18, 30)])
def test_where_axes_get_longer_all_three_agree_on_the_grid(size: tuple[int, int, int]):
    """Images and answers are interpolated alike, and labels as the nearest voxel has them."""
    image = RNG.random((1, *SHAPE)).astype(np.float32)
    torch.testing.assert_close(scaled(image, size), restored(torch.from_numpy(image), size))
    labels = RNG.integers(0, 200, SHAPE).astype(np.uint8)
    whole = [n % m == 0 for n, m in zip(size, SHAPE, strict=True)]
    if all(whole):
        times = [n // m for n, m in zip(size, SHAPE, strict=True)]
        assert np.array_equal(reduced(labels, size), np.kron(labels, np.ones(times, np.uint8)))


def test_a_shift_by_part_of_a_voxel_does_not_come_about():
    """The middle of a ball stays where it is, in mm, there and back."""
    z, y, x = np.indices((12, 24, 20))
    ball = ((z - 5.5) / 2) ** 2 + ((y - 14.5) / 5) ** 2 + ((x - 8.5) / 4) ** 2 < 1
    there = scaled(ball[None].astype(np.float32), (6, 12, 20))
    middle = ndimage.center_of_mass(there[0].numpy())
    assert middle == pytest.approx((2.5, 7.0, 8.5), abs=0.02)
    back = restored(torch.stack([1 - there[0], there[0]]), (12, 24, 20))
    assert ndimage.center_of_mass(back[1].numpy()) == pytest.approx((5.5, 14.5, 8.5), abs=0.05)
    assert np.array_equal(
        scaled(ball[None], (6, 12, 20))[0] >= 0.5, reduced(ball.view(np.uint8), (6, 12, 20))
    )
