"""Scores of small stacks, reckoned by hand."""

import math

import pytest
import torch

from fedcl.scores import case_scores

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
