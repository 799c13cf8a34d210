"""HD95 against what TED's published code takes for it: medpy's, of single slices, in pixels.

Written out here as medpy documents it: surfaces are what erosion takes away, along axes alone, and
the 95th percentile is that of the distances in both directions, pooled.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from fedcl.tasks.metrics import case_scores

RECORDED = np.load(Path(__file__).parent / "ted.npz")
SIZE = 64


def directed(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each mask's outline, shape (H, W), lies from the other's."""
    cross = ndimage.generate_binary_structure(2, 1)
    outlines = [mask ^ ndimage.binary_erosion(mask, cross) for mask in (one, other)]
    away = [ndimage.distance_transform_edt(~outline) for outline in outlines]
    return away[1][outlines[0]], away[0][outlines[1]]


def published(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.percentile(np.hstack(directed(one, other)), 95))


def ours(one: np.ndarray, other: np.ndarray) -> float:
    pair = (torch.from_numpy(mask[None].astype(np.uint8)) for mask in (one, other))
    return case_scores(*pair, 2, (1.0, 1.0, 1.0), ("hd95",))["hd95"]


def disc(row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def square(row: int, column: int, side: int = 8) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[row : row + side, column : column + side] = True
    return mask


def bent(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an organ of odd shape, and what a network may make of it."""
    rng = np.random.default_rng(seed)
    rough = [ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 6) * 60 for _ in range(2)]
    y, x = np.mgrid[:SIZE, :SIZE]
    away = np.hypot(y - 30, x - 34)
    return away < 16 + rough[0], away < 16 + rough[0] + rough[1]


def recorded() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every class of every recorded slice, as answered and as labelled."""
    pairs = []
    for classes in (2, 3):
        found = RECORDED[f"k{classes}/student"].argmax(axis=1)
        labels = RECORDED[f"k{classes}/labels"]
        for number in range(1, classes):
            pairs += zip(found == number, labels == number, strict=True)
    return pairs


ALIKE = {
    "the same": (disc(30, 30, 9), disc(30, 30, 9)),
    "one moved": (square(20, 20), square(20, 26)),
    "one moved aslant": (disc(30, 30, 9), disc(34, 33, 9)),
    "cut by the edge": (square(0, 20), square(4, 20)),
}
OTHERS = {
    "of another size": (disc(30, 30, 7), disc(30, 31, 12)),
    "with a far spot": (disc(30, 20, 9) | disc(50, 55, 2), disc(30, 20, 9)),
    **{f"bent {seed}": bent(seed) for seed in range(4)},
}


@pytest.mark.parametrize("name", ALIKE)
def test_hd95_is_the_published_one_where_both_directions_are_alike(name: str):
    assert ours(*ALIKE[name]) == pytest.approx(published(*ALIKE[name]))


def test_hd95_of_two_squares_by_hand():
    """28 outline pixels each; of either 8 lie 6 away, and 95 % of 28 end among these."""
    assert ours(*ALIKE["one moved"]) == published(*ALIKE["one moved"]) == 6.0


@pytest.mark.parametrize("name", OTHERS)
def test_hd95_is_the_larger_direction_and_so_no_smaller_than_the_published_one(name: str):
    there, back = (float(np.percentile(one, 95)) for one in directed(*OTHERS[name]))
    assert ours(*OTHERS[name]) == pytest.approx(max(there, back))
    assert min(there, back) <= published(*OTHERS[name]) <= ours(*OTHERS[name])


def test_hd95_of_the_recorded_masks_is_a_little_more_than_the_published_one():
    """As docs/explanation/measures.md tells."""
    both = np.array([[ours(*pair), published(*pair)] for pair in recorded()])
    assert len(both) == 9 and (both[:, 0] >= both[:, 1]).all()
    assert both.mean(axis=0) == pytest.approx([8.058, 7.886], abs=1e-3)
