"""Imaginary scanners: each part against what numpy or a formula gives, on a few voxels."""

from typing import Any

import numpy as np
import pytest
from numpy.polynomial.legendre import leggrid3d

from fedcl.data import scanners
from fedcl.data.scanners import REACH, SCANNERS, Scanner, scanned

RNG = np.random.default_rng(5)
SPACING = (1.0, 1.0, 1.0)


def passed(image: np.ndarray, scanner: Scanner, **others: Any) -> np.ndarray:
    rngs = np.random.default_rng(0), np.random.default_rng(1)
    return scanned(image, others.pop("spacing", SPACING), scanner, *rngs, **others)


def grey(*shape: int) -> np.ndarray:
    return RNG.normal(300, 40, shape).astype(np.float32)


def test_what_changes_nothing_returns_the_very_image():
    image = grey(1, 3, 4, 5)
    assert passed(image, Scanner()) is image
    assert SCANNERS["reference"] == Scanner() == next(iter(SCANNERS.values()))


def test_strength_moves_every_parameter_from_no_change_to_the_table():
    one = Scanner(
        peak=0.0, gamma=4.0, bias=0.4, coil=3.0, blur=1.0, thick=2.0, noise=0.1, ghost=0.2
    )
    assert one.at([0.0] * 8) == Scanner() and one.at([1.0] * 8) == one
    half = Scanner(
        peak=0.5, gamma=2.0, bias=0.2, coil=1.5, blur=0.5, thick=1.0, noise=0.05, ghost=0.1
    )
    assert one.at([0.5] * 8) == half
    assert one.at([2.0] * 8).peak == 0.0, "nothing is darker than inverted"
    assert one.at([2.0] * 8).gamma == 16.0


def test_brightness_is_the_distance_from_the_brightest():
    share = np.array([0, 0.25, 0.5, 1], np.float32)
    np.testing.assert_allclose(scanners.curve(share, 1.0, 1.0), share)
    np.testing.assert_allclose(scanners.curve(share, 0.0, 1.0), 1 - share)
    np.testing.assert_allclose(scanners.curve(share, 0.25, 1.0), [0.75, 1, 0.75, 0.25])
    np.testing.assert_allclose(scanners.curve(share, 0.25, 2.0), [0.5625, 1, 0.5625, 0.0625])


def test_inversion_inverts_ranks_in_the_images_own_range():
    image = RNG.permutation(1001).reshape(1, 7, 11, 13).astype(np.float32) * 3 - 200
    found = passed(image, Scanner(peak=0.0))
    low, high = np.percentile(image, (0.5, 99.5))
    assert (low, high) == (5 * 3 - 200, 995 * 3 - 200)
    np.testing.assert_allclose(found, (low + high - image).clip(low, high), atol=1e-3)
    inside = (image >= low) & (image <= high)
    assert np.array_equal(np.argsort(image[inside]), np.argsort(found[inside])[::-1])


def test_blur_is_in_mm():
    image = np.zeros((1, 9, 17, 33), np.float32)
    image[0, 4, 8, 16] = 100.0
    found = passed(image, Scanner(blur=2.0), spacing=(4.0, 2.0, 1.0))
    wanted = np.float32(100.0)
    for axis, (length, step) in enumerate(((9, 4), (17, 2), (33, 1))):
        place = np.arange(length) - length // 2
        kernel = np.exp(-((place * step) ** 2) / 8.0) * (abs(place * step) <= 8)
        wanted = np.multiply.outer(wanted, kernel / kernel.sum()) if axis else kernel / kernel.sum()
    np.testing.assert_allclose(found[0], 100 * wanted, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_thick_slices_or_rows_are_means_brought_back(axis: int):
    image = grey(6, 1, 4) if axis == 0 else grey(1, 6, 4)
    found = scanners.thickened(image, (1.5, 1.5, 1.0), 4.5)
    lines = np.moveaxis(image, axis, 0).reshape(6, 4)
    means = lines.reshape(2, 3, 4).mean(1)
    wanted = [np.interp(np.arange(6), [1, 4], means[:, n]) for n in range(4)]
    np.testing.assert_allclose(
        np.moveaxis(found, axis, 0).reshape(6, 4), np.array(wanted).T, rtol=1e-6
    )


def test_slices_thicker_already_stay():
    image = grey(6, 5, 4)
    assert np.array_equal(scanners.thickened(image, (8.0, 1.0, 1.0), 3.0), image)


def test_ghosts_are_lines_of_k_space_scaled_in_turn():
    image = grey(2, 12, 5)
    lines = 1 + 0.3 * np.cos(2 * np.pi * np.arange(12) / 3)
    spectrum = np.fft.fft(image.astype(float), axis=1) * lines[:, None]
    found = scanners.with_ghosts(image, 0.3)
    np.testing.assert_allclose(found, np.fft.ifft(spectrum, axis=1).real, rtol=1e-5)


def test_noise_is_rician():
    bright, dark = (np.full((1, 300, 300), value, np.float32) for value in (1.0, 0.0))
    found = scanners.with_noise(bright, 0.05, np.random.default_rng(0))
    assert found.std() == pytest.approx(0.05, rel=0.02)
    assert found.mean() == pytest.approx(1 + 0.05**2 / 2, abs=1e-3)
    found = scanners.with_noise(dark, 0.05, np.random.default_rng(0))
    assert found.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.01), "Rayleigh's mean"
    assert found.var() == pytest.approx(0.05**2 * (2 - np.pi / 2), rel=0.02)


def test_coils_gain_is_as_the_formula_says():
    shape = (3, 8, 6)
    found = scanners.sensitivity(shape, 0.4, 2.0, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    weights, centre = rng.standard_normal((3, 3, 3)), rng.normal((0.0, 1.0, 0.0), 0.15)
    for i, j, k in np.ndindex(3, 3, 3):
        weights[i, j, k] *= 1 <= i + j + k <= 2
    axes = [np.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in shape]
    field = leggrid3d(*axes, weights)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    near = np.exp(-((grid - centre) ** 2).sum(-1) / (2 * REACH**2))
    wanted = np.exp(0.4 * field / np.abs(field).max()) * (1 + 2.0 * near)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    alone = scanners.sensitivity(shape, 0.4, 0.0, np.random.default_rng(7))
    assert np.abs(np.log(alone)).max() == pytest.approx(0.4, rel=1e-5)


def test_what_does_not_count_stays_and_has_no_say():
    image, counts = grey(1, 5, 8, 8), np.zeros((1, 5, 8, 8), bool)
    counts[:, 1:4, 2:7, 1:6] = True
    other = np.where(counts, image, 9e3).astype(np.float32)
    for scanner in SCANNERS.values():
        one, two = (passed(array, scanner, counts=counts) for array in (image, other))
        assert np.array_equal(one[counts], two[counts])
        assert np.array_equal(one[~counts], image[~counts])
    nothing = passed(image, SCANNERS["restless"], counts=np.zeros_like(counts))
    assert np.array_equal(nothing, image)


@pytest.mark.parametrize("name", [name for name in SCANNERS if name != "reference"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 2), (2, 1, 3, 2), (1, 2, 1, 1), (1, 1, 24, 20), (1, 7, 5, 6)]
)
def test_any_size_and_any_spacing(name: str, shape: tuple[int, ...]):
    image = grey(*shape)
    for spacing in (SPACING, (8.0, 0.4, 0.3)):
        found = passed(image, SCANNERS[name].at([2.0] * 8), spacing=spacing)
        assert found.shape == shape and found.dtype == np.float32
        assert np.isfinite(found).all() and not np.array_equal(found, image)


def test_constant_images_stay_and_sparse_ones_are_not_lost():
    constant = np.full((1, 2, 3, 4), 7, np.float32)
    sparse = np.zeros((1, 1, 40, 40), np.float32)
    sparse[0, 0, 20, 20] = 5.0
    for scanner in SCANNERS.values():
        assert np.array_equal(passed(constant, scanner), constant)
    assert np.array_equal(passed(sparse, Scanner(peak=0.0)), 5 - sparse)


def test_every_channel_has_its_own_range_and_all_have_the_same_coils():
    first = grey(1, 3, 6, 5)
    both = np.concatenate([first, 100 * first + 7])
    found = passed(both, Scanner(bias=0.5, coil=2.0, gamma=1.5))
    np.testing.assert_allclose(found[1], 100 * found[0] + 7, rtol=1e-4)
