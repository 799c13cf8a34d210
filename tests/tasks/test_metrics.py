"""Scores of small stacks, reckoned by hand."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage

from fedcl.tasks.metrics import case_scores

EMPTY = torch.zeros(2, 8, 8, dtype=torch.uint8)


def block(rows: slice, columns: slice) -> torch.Tensor:
    stack = EMPTY.clone()
    stack[:, rows, columns] = 1
    return stack


def test_overlap_of_two_blocks():
    label, prediction = block(slice(0, 4), slice(0, 4)), block(slice(2, 6), slice(0, 4))
    scores = case_scores(prediction, label, 2, (1.0, 1.0, 1.0))
    assert scores["dice"] == pytest.approx(2 * 16 / (32 + 32))
    assert scores["iou"] == pytest.approx(16 / 48)
    assert scores["hd95"] == pytest.approx(2.0)


def test_distances_are_in_the_unit_of_the_spacing():
    label, prediction = block(slice(0, 4), slice(0, 4)), block(slice(2, 6), slice(0, 4))
    assert case_scores(prediction, label, 2, (9.0, 2.5, 1.0))["hd95"] == pytest.approx(5.0)


def test_both_empty_is_perfect():
    assert case_scores(EMPTY, EMPTY, 2, (1.0, 1.0, 1.0)) == {"dice": 1.0, "iou": 1.0, "hd95": 0.0}


@pytest.mark.parametrize("missing", ["prediction", "label"])
def test_one_empty_is_as_bad_as_can_be(missing: str):
    full = block(slice(0, 4), slice(0, 4))
    pair = (EMPTY, full) if missing == "prediction" else (full, EMPTY)
    scores = case_scores(*pair, 2, (3.0, 1.0, 2.0))
    assert scores["dice"] == scores["iou"] == 0.0
    assert scores["hd95"] == pytest.approx(math.sqrt(6**2 + 8**2 + 16**2))


def test_classes_count_equally():
    label = block(slice(0, 4), slice(0, 4))
    label[:, 6:, 6:] = 2
    prediction = block(slice(0, 4), slice(0, 4))
    scores = case_scores(prediction, label, 3, (1.0, 1.0, 1.0), ["dice"])
    assert scores == {"dice": pytest.approx(0.5)}, "class 1 perfect, class 2 missed"


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_distances_do_not_depend_on_how_many_alike_slices_there_are(depth: int):
    label, prediction = torch.zeros(2, depth, 32, 32, dtype=torch.uint8)
    label[:, 8:16, 8:16], prediction[:, 14:22, 8:16] = 1, 1
    assert case_scores(prediction, label, 2, (1.0, 1.0, 1.0))["hd95"] == pytest.approx(6.0)


# --- distances, against independent computations -------------------------------------------------


def disc(row: int, column: int, radius: int, size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def hd95(prediction: np.ndarray, label: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> float:
    pair = (torch.from_numpy(mask.astype(np.uint8)) for mask in (prediction, label))
    return case_scores(*pair, 2, spacing, ("hd95",))["hd95"]


def by_hand(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> float:
    """All distances between all surface voxels: no distance transform, no erosion.

    Of a volume, what lies beyond its first and last slice is like them.
    """

    def surface(mask: np.ndarray) -> np.ndarray:
        ends = "edge" if mask.ndim == 3 else "constant"
        padded = np.pad(
            np.pad(mask, [(1, 1)] + [(0, 0)] * (mask.ndim - 1), mode=ends),
            [(0, 0)] + [(1, 1)] * (mask.ndim - 1),
        )
        inner = padded.copy()
        for axis in range(mask.ndim):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)
        there = padded & ~inner
        return np.argwhere(there[1:-1]) * np.array(spacing)

    a, b = surface(one), surface(other)
    apart = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return float(max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95)))


PAIRS = {
    "shifted discs": (disc(30, 32, 20), disc(35, 32, 20)),
    "one within the other": (disc(32, 32, 20), disc(32, 32, 23)),
    "a far spot": (disc(28, 32, 15) | disc(58, 58, 2), disc(28, 32, 15)),
    "at the border": (disc(2, 32, 10), disc(5, 30, 12)),
    "a ring and its disc": (disc(32, 32, 20) & ~disc(32, 32, 12), disc(32, 32, 20)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_single_slice_has_the_distances_of_its_outlines(name: str):
    one, other = PAIRS[name]
    assert hd95(one[None], other[None]) == pytest.approx(by_hand(one, other, (1, 1)))
    assert hd95(one[None], other[None], (9, 0.5, 2)) == pytest.approx(by_hand(one, other, (0.5, 2)))


def test_overlap_does_not_hide_a_far_spot():
    one, other = PAIRS["a far spot"]
    assert hd95(one[None], other[None]) == pytest.approx(24.028, abs=1e-3)


def volumes() -> list[tuple[str, np.ndarray, np.ndarray]]:
    z, y, x = np.mgrid[:8, :24, :20]
    away = lambda a, b, c: np.sqrt((2 * (z - a)) ** 2 + (y - b) ** 2 + (x - c) ** 2)  # noqa: E731
    ball, shell = away(4, 12, 10) < 7, (away(4, 12, 10) < 7) & (away(4, 12, 10) > 4)
    rng = np.random.default_rng(1)
    inside = away(4, 12, 10) < 5
    smooth = [ndimage.gaussian_filter(rng.normal(size=z.shape), 1.5) > 0.02 for _ in range(2)]
    return [
        ("balls", ball, away(4, 14, 10) < 7),
        ("a shell", shell, ball),
        ("within the stack", inside, np.roll(inside, 2, 1)),
        ("cut by the ends of the stack", away(0, 12, 10) < 7, away(1, 12, 10) < 7),
        ("anything", *smooth),
    ]


@pytest.mark.parametrize("name", [name for name, *_ in volumes()])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9)])
def test_a_volume_has_the_distances_of_its_surface(name: str, spacing):
    one, other = next((a, b) for known, a, b in volumes() if known == name)
    found = hd95(one, other, spacing)
    assert found == pytest.approx(by_hand(one, other, spacing))
    if not (one | other)[[0, -1]].any():
        pair = (torch.from_numpy(mask)[None, None].float() for mask in (one, other))
        monai = compute_hausdorff_distance(*pair, True, percentile=95, spacing=list(spacing))
        assert found == pytest.approx(float(monai), rel=1e-5), "as the field's libraries take it"


def test_a_stack_that_ends_within_an_organ_does_not_cut_it():
    """Whole end slices would otherwise be surface, and where they overlap 0 mm away."""
    one, other = PAIRS["a far spot"]
    for depth in (2, 3, 6):
        stacks = [np.repeat(mask[None], depth, 0) for mask in (one, other)]
        found = hd95(*stacks, (3.0, 1.0, 1.0))
        assert found > 24 and found == pytest.approx(by_hand(*stacks, (3.0, 1.0, 1.0)))
