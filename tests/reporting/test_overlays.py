"""What is drawn of an image and its mask: which slices, which way up, how wide."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedcl.data.alone import Alone
from fedcl.data.cases import Case
from fedcl.data.grid import Grid, cut_of
from fedcl.data.labels import Labels
from fedcl.reporting.overlays import chosen, overlay
from tests.images import folder, nifti, reoriented

LABELS = Labels(((0,), (1,), (2,)))


def alone(shape: tuple[int, int, int], spacing: tuple[float, float, float], dims: int = 2) -> Alone:
    """Return noise of (slices, rows, columns), with no orientation."""
    grid = Grid((shape[2], shape[1], shape[0]), (spacing[2], spacing[1], spacing[0]))
    image = np.random.default_rng(0).normal(100, 9, (1, *shape)).astype(np.float32)
    return Alone(Case("c", ()), Path("c.nii"), image, cut_of(grid, dims), LABELS, spacing, ())


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as drawn:
        return np.asarray(drawn.convert("RGB")).astype(int)


def blue(png: bytes) -> np.ndarray:
    """Return where the outline of the first class is, less the legend's."""
    found = np.abs(pixels(png) - (0x00, 0x72, 0xB2)).sum(-1) < 40
    return found[: int(0.95 * len(found)) - 20]


def test_the_slice_with_most_of_a_mask_is_shown_and_some_around():
    areas = np.zeros(40, int)
    areas[10:31] = 5
    areas[29] = 9
    places = chosen(areas, 4)
    assert 29 in places and len(places) == 4 and min(places) >= 10 and max(places) <= 30
    assert chosen(areas, 1) == [29]
    assert chosen(np.zeros(9, int), 2) == [3, 5], "with no mask, slices spread over all"
    assert chosen(np.zeros(1, int), 6) == [0]
    assert chosen(np.array([0, 2]), 6) == [1]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_volume_is_drawn_alike_however_it_is_stored(tmp_path: Path, dims: int):
    image = np.random.default_rng(1).normal(100, 9, (14, 12, 6)).astype(np.float32)
    image[8:12, 7:10, 2:4] += 200
    drawn = []
    for axes in ("RAS", "LPS", "PIR", "SLA"):
        file = nifti(tmp_path / f"{axes}.nii", *reoriented(image, np.diag([1.5, 1.2, 4, 1]), axes))
        scenario = folder(spatial_dims=dims, resize=None)
        one = scenario.alone("c", [file], "")
        drawn.append(overlay(one, (one.image[0] > 200).astype(np.int64), dims))
    assert all(png == drawn[0] for png in drawn[1:])


def test_the_patients_right_is_at_the_left_and_the_front_at_the_top(tmp_path: Path):
    """A block at the right, in front: RAS counts towards both."""
    image = np.random.default_rng(1).normal(100, 9, (20, 20, 1)).astype(np.float32)
    image[13:18, 14:19] += 200
    file = nifti(tmp_path / "c.nii", image, np.diag([1.0, 1.0, 5.0, 1.0]))
    one = folder(resize=None).alone("c", [file], "")
    found = blue(overlay(one, (one.image[0] > 200).astype(np.int64), 2))
    down, across = np.nonzero(found)
    assert len(down) > 50
    assert across.max() < 0.5 * found.shape[1] and down.max() < 0.5 * found.shape[0]


def test_what_has_no_orientation_lies_as_it_is_stored():
    one = alone((1, 20, 20), (1, 1, 1))
    classes = np.zeros((1, 20, 20), np.int64)
    classes[0, 1:6, 2:7] = 1
    down, across = np.nonzero(blue(overlay(one, classes, 2)))
    assert len(down) > 50 and across.max() < 250 and down.max() < 250


def test_pixels_are_as_wide_as_in_the_patient():
    """A class of 10 x 10 pixels of 1 x 3 mm is three times as wide as high."""
    classes = np.zeros((1, 30, 20), np.int64)
    classes[0, 10:20, 5:15] = 1
    down, across = np.nonzero(blue(overlay(alone((1, 30, 20), (5, 1, 3)), classes, 2)))
    assert np.ptp(across) / np.ptp(down) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 5, 7), (40, 1, 1), (3, 1, 9), (2, 2000, 3), (9, 4, 4)]
)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_nothing_is_too_odd_to_be_drawn(shape: tuple[int, int, int], dims: int, label: int):
    """Single pixels, strips, and classes that are everywhere."""
    png = overlay(alone(shape, (1, 1, 1), dims), np.full(shape, label, np.int64), dims)
    assert pixels(png).size > 0 and len(png) < 2_000_000


def test_an_image_of_one_value_is_drawn():
    one = alone((1, 8, 8), (1, 1, 1))
    one.image[:] = 7
    assert overlay(one, np.zeros((1, 8, 8), np.int64), 2)
