"""Scores of small stacks, reckoned by hand."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage
from skimage.morphology import skeletonize
from sklearn.metrics import roc_auc_score

from fedcl.data.cases import Case
from fedcl.data.labels import IGNORED
from fedcl.tasks.metrics import by_class, case_scores
from fedcl.tasks.segmentation import Segmentation

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


def test_several_classes_are_scored_each_and_in_the_mean():
    label = torch.zeros(1, 8, 8, dtype=torch.long)
    label[0, 1:4, 1:4], label[0, 5:7, 5:7] = 1, 2
    found = label.clone()
    found[0, 3, 1:4] = 0
    names = tuple(by_class(("dice", "hd95", "sensitivity", "specificity"), 3))
    assert names[4:] == (
        "dice_1", "dice_2", "hd95_1", "hd95_2", "sensitivity_1", "sensitivity_2",
        "specificity_1", "specificity_2",
    )  # fmt: skip
    scores = case_scores(found, label, 3, (1.0, 1.0, 1.0), names)
    assert scores["dice_1"] == pytest.approx(2 * 6 / 15) and scores["dice_2"] == 1
    assert scores["dice"] == pytest.approx((scores["dice_1"] + 1) / 2)
    assert scores["sensitivity_1"] == pytest.approx(6 / 9) and scores["specificity_1"] == 1
    assert scores["hd95_2"] == 0 and scores["hd95_1"] == pytest.approx(1.0)
    assert tuple(by_class(("dice",), 2)) == ("dice",)


def test_surface_dice_is_the_share_of_surfaces_within_the_tolerance():
    """Independently: all distances between surface voxels, pair by pair."""
    rng = np.random.default_rng(1)
    spacing = (3.0, 1.0, 1.5)
    masks = [ndimage.gaussian_filter(rng.normal(size=(6, 20, 18)), 2) > 0.02 for _ in range(2)]
    masks[1] = masks[0] ^ (ndimage.gaussian_filter(rng.normal(size=(6, 20, 18)), 1.5) > 0.12)
    surfaces = []
    for mask in masks:
        longer = np.pad(mask, [(1, 1), (0, 0), (0, 0)], mode="edge")
        surfaces.append(np.argwhere(mask & ~ndimage.binary_erosion(longer)[1:-1]) * spacing)
    apart = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=2)
    near = (apart.min(1) <= 2).sum() + (apart.min(0) <= 2).sum()
    wanted = near / (len(surfaces[0]) + len(surfaces[1]))
    one, other = (torch.from_numpy(mask.astype(np.int64)) for mask in masks)
    got = case_scores(one, other, 2, spacing, ("surface_dice",))["surface_dice"]
    assert 0.2 < wanted < 0.999 and got == pytest.approx(wanted)
    empty = torch.zeros_like(one)
    assert case_scores(empty, empty, 2, spacing, ("surface_dice",)) == {"surface_dice": 1.0}
    assert case_scores(one, empty, 2, spacing, ("surface_dice",)) == {"surface_dice": 0.0}
    nothing = case_scores(empty, empty, 2, spacing, ("sensitivity", "specificity"))
    assert nothing == {"sensitivity": 1.0, "specificity": 1.0}


# --- centrelines ----------------------------------------------------------------------------------


def cldice(prediction: np.ndarray, label: np.ndarray) -> float:
    pair = (torch.from_numpy(mask.astype(np.uint8)) for mask in (prediction, label))
    return case_scores(*pair, 2, (1.0, 1.0, 1.0), ("cldice",))["cldice"]


def drawn(*parts: tuple[slice | int, slice | int]) -> np.ndarray:
    """Return a slice of 11 x 11 with rectangles, as a stack of one."""
    mask = np.zeros((1, 11, 11), bool)
    for rows, columns in parts:
        mask[0, rows, columns] = True
    return mask


LINE = drawn((5, slice(1, 10)))
CROSS = drawn((5, slice(1, 10)), (slice(1, 10), 5))
BAR = drawn((slice(4, 7), slice(1, 10)))
"""Thinned by hand: seven voxels of its middle row, and one beside at its end."""
BESIDE = drawn((4, slice(1, 10)))
FAR = drawn((9, slice(1, 10)))


@pytest.mark.parametrize(
    ("prediction", "label", "wanted"),
    [
        (CROSS, CROSS, 1.0),
        (CROSS, LINE, 2 * (9 / 17) / (1 + 9 / 17)),  # of the cross' 17 voxels 9 are the line's
        (LINE, CROSS, 2 * (9 / 17) / (1 + 9 / 17)),
        (LINE, BAR, 2 * (7 / 8) / (1 + 7 / 8)),  # thinner, but where the bar's centre is
        (BAR, LINE, 2 * (7 / 8) / (1 + 7 / 8)),
        (BESIDE, BAR, 2 * (1 / 8) / (1 + 1 / 8)),  # within the bar, but off its centre
        (FAR, LINE, 0.0),
    ],
    ids=["same", "more", "less", "thinner", "thicker", "beside", "apart"],
)
def test_centreline_dice_by_hand(prediction: np.ndarray, label: np.ndarray, wanted: float):
    assert cldice(prediction, label) == pytest.approx(wanted)


def test_centreline_dice_of_a_volume_is_that_of_its_skeletons():
    """Tubes that wind; independently: sums over the skeletons of Lee's method."""
    z, y, x = np.mgrid[:12, :24, :24]
    found, wanted = (
        ((y - 12 - 6 * np.sin(x / 4 + turn)) ** 2 + (z - 5 - turn) ** 2 < width)
        for turn, width in ((0.0, 5), (0.8, 7))
    )
    lines = [skeletonize(mask, method="lee") > 0 for mask in (found, wanted)]
    precise = (lines[0] & wanted).sum() / lines[0].sum()
    complete = (lines[1] & found).sum() / lines[1].sum()
    assert 0.1 < precise < 1 and 0.1 < complete < 1
    expected = 2 / (1 / precise + 1 / complete)
    assert cldice(found, wanted) == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 4), (3, 3, 3), (6, 6, 6)]
)
def test_what_has_hardly_a_centreline_is_scored_all_the_same(shape: tuple[int, int, int]):
    """Thinning deletes a cube of even side altogether."""
    mask = np.pad(np.ones(shape, bool), [(0, 0) if shape[0] == 1 else (2, 2), (2, 2), (2, 2)])
    empty = np.zeros_like(mask)
    assert cldice(mask, mask) == 1.0
    assert cldice(mask, empty) == cldice(empty, mask) == 0.0 and cldice(empty, empty) == 1.0
    other = np.roll(mask, mask.shape[2] // 2, 2) & ~mask
    if other.any():
        assert 0 <= cldice(mask, other) <= 1 and 0 <= cldice(other, mask) <= 1


# --- probabilities --------------------------------------------------------------------------------


def auc(probabilities: list[float], labels: list[int]) -> float:
    foreground = torch.tensor(probabilities)[None, None]
    answers = torch.stack([1 - foreground, foreground])
    label = torch.tensor(labels)[None, None]
    found = case_scores((foreground > 0.5).long(), label, 2, (1, 1, 1), ("auc",), answers)
    return found["auc"]


def test_auc_is_the_share_of_pairs_in_order():
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 3 / 4  # 0.35 is below 0.4
    assert auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1]) == 3.5 / 4  # a tie is half a pair
    assert auc([0.2, 0.2, 0.2], [0, 1, 0]) == 0.5
    assert auc([0.9, 0.1], [0, 1]) == 0.0
    assert auc([0.9, 0.1], [0, 0]) == auc([0.9, 0.1], [1, 1]) == 1.0, "nothing to tell apart"


def three_classes(shape: tuple[int, ...] = (3, 9, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities with many ties, and labels of which some are ignored."""
    rng = torch.Generator().manual_seed(3)
    answers = (torch.rand(3, *shape, generator=rng) * 8).round() / 8
    label = torch.randint(0, 3, shape, generator=rng)
    label[torch.rand(shape, generator=rng) < 0.3] = IGNORED
    return answers, label


def test_auc_is_that_of_scikit_learn_class_by_class_where_voxels_count():
    answers, label = three_classes()
    counts = (label != IGNORED).numpy()
    areas = [roc_auc_score(label.numpy()[counts] == c, answers[c].numpy()[counts]) for c in (1, 2)]
    names = tuple(by_class(("auc",), 3))
    assert names == ("auc", "auc_1", "auc_2")
    found = case_scores(answers.max(0).indices, label, 3, (1, 1, 1), names, answers)
    assert [found["auc_1"], found["auc_2"]] == pytest.approx(areas)
    assert found["auc"] == pytest.approx(sum(areas) / 2) and abs(areas[0] - areas[1]) > 1e-3
    answers[:, ~torch.from_numpy(counts)] = 0.99  # what is ignored may be anything
    assert case_scores(answers.max(0).indices, label, 3, (1, 1, 1), names, answers) == found
    label[label == 2] = 0
    absent = case_scores(answers.max(0).indices, label, 3, (1, 1, 1), names, answers)
    assert absent["auc_2"] == 1.0 and absent["auc_1"] != 1.0


def test_a_case_is_scored_by_the_probabilities_behind_its_segmentation():
    """Those of two photographs, one by one, and their mean."""
    task = Segmentation(1, 2, further=("auc", "cldice"))
    assert task.scores == ("dice", "iou", "hd95", "auc", "cldice")
    chances = torch.tensor([[0.1, 0.4, 0.35, 0.8], [0.9, 0.2, 0.3, 0.1]])
    labels = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]], dtype=torch.uint8)
    both = [Case.of("p", torch.zeros(1, 1, 2, 2), one.reshape(1, 2, 2)).scans[0] for one in labels]
    case = Case("p", tuple(both))
    answers = [torch.stack([1 - one, one]).reshape(2, 1, 2, 2) for one in chances]
    assert task.score(answers, case, ("auc",)) == {"auc": pytest.approx((3 / 4 + 3 / 4) / 2)}
