"""Scores of one volume, over the whole stack of its slices, or of one picture.

Every score is taken of each foreground class, and is their mean. A class that is empty in
prediction and label counts as perfect (Dice 1, IoU 1, HD95 0), one that is empty in one of them as
the worst there is (Dice 0, IoU 0, HD95 the diagonal of the stack).
"""

import math
import re
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedcl.data.labels import IGNORED
from fedcl.tasks.base import Range

Spacing = tuple[float, float, float]
Array = NDArray[np.bool_]
Score = Callable[[Array, Array, Spacing], float]
Ranking = Callable[[NDArray[np.float32], Array], float]

TOLERANCE = 2.0
"""How far surfaces may lie apart that count as the same, in the unit of the spacing."""


def dice(found: Array, wanted: Array, spacing: Spacing) -> float:
    """Return 2|P n L| / (|P| + |L|) of a class; arguments as in every score of `SCORES`.

    Args:
        found: where the class is predicted, P, shape (D, H, W).
        wanted: where it is, L, likewise.
        spacing: distance between voxels (slice, row, column); plays no part here.
    """
    from monai.metrics import compute_dice  # takes seconds

    return float(compute_dice(_channel(found), _channel(wanted), ignore_empty=False))


def iou(found: Array, wanted: Array, spacing: Spacing) -> float:
    """Return |P n L| / |P u L|."""
    from monai.metrics import compute_iou  # takes seconds

    return float(compute_iou(_channel(found), _channel(wanted), ignore_empty=False))


def hd95(found: Array, wanted: Array, spacing: Spacing) -> float:
    """Return the larger of the two directed 95th percentiles of surface distances.

    In the unit of `spacing`. A surface are the voxels with a neighbour outside, along an axis.
    What lies beyond an image's edge is outside, as MONAI and medpy take it, but what lies beyond
    the first and the last slice is like them: a stack that ends within an organ does not cut it,
    and a stack of one slice has the distances of its outlines.
    """
    if found.any() and wanted.any():
        there, back = _apart(found, wanted, spacing)
        return float(max(np.percentile(there, 95), np.percentile(back, 95)))
    corner = [n * s for n, s in zip(wanted.shape, spacing, strict=True)]
    return math.hypot(*corner) if found.any() or wanted.any() else 0.0


def surface_dice(found: Array, wanted: Array, spacing: Spacing) -> float:
    """Return the share of both surfaces' voxels that lie within `TOLERANCE` of the other one.

    The normalised surface Dice (Nikolov et al., JMIR 2021), surfaces being those of `hd95`.
    """
    if found.any() and wanted.any():
        distances = np.concatenate(_apart(found, wanted, spacing))
        return float((distances <= TOLERANCE).mean())
    return 0.0 if found.any() or wanted.any() else 1.0


def sensitivity(found: Array, wanted: Array, spacing: Spacing) -> float:
    """Return |P n L| / |L|; 1 where there is none to be found."""
    return float((found & wanted).sum() / wanted.sum()) if wanted.any() else 1.0


def specificity(found: Array, wanted: Array, spacing: Spacing) -> float:
    """Return the share of voxels outside of L that are outside of P; 1 where there are none."""
    return float((~found & ~wanted).sum() / (~wanted).sum()) if not wanted.all() else 1.0


def cldice(found: Array, wanted: Array, spacing: Spacing) -> float:
    """Return the centreline Dice (Shit et al., CVPR 2021), for vessels and the like.

    The harmonic mean of two shares: of the prediction's centreline that lies in the label, and of
    the label's that lies in the prediction.
    """
    if not (found.any() and wanted.any()):
        return 0.0 if found.any() or wanted.any() else 1.0
    precise = wanted[_centreline(found)].mean()
    complete = found[_centreline(wanted)].mean()
    both = precise + complete
    return float(2 * precise * complete / both) if both else 0.0


def auc(answers: NDArray[np.float32], wanted: Array) -> float:
    """Return the area under the ROC curve of a class against the rest, voxel by voxel.

    That is the chance that a voxel of the class gets a higher probability of it than one that is
    not (ties count half); 1 where all voxels are of the class, or none: there is nothing to tell
    apart.

    Args:
        answers: the class's probabilities, shape (V,).
        wanted: where it is, likewise.
    """
    from scipy.stats import rankdata

    many, others = int(wanted.sum()), int((~wanted).sum())
    if not (many and others):
        return 1.0
    ranks = rankdata(answers)[wanted].sum()
    return float((ranks - many * (many + 1) / 2) / (many * others))


def _channel(mask: Array) -> Tensor:
    """Return a mask, (D, H, W), as MONAI takes it, (1, 1, D, H, W)."""
    return torch.from_numpy(mask)[None, None].float()


def _centreline(mask: Array) -> Array:
    """Return the skeleton of a mask, (D, H, W), not empty, one voxel thin.

    Of a single slice it is that of Zhang and Suen, of a stack that of Lee et al. Theirs may leave
    nothing of a small part, which then is its own.
    """
    from scipy.ndimage import label
    from skimage.morphology import skeletonize  # of an extra

    thin: Array = skeletonize(mask[0])[None] if len(mask) == 1 else skeletonize(mask) > 0
    parts, count = label(mask, np.ones((3, 3, 3)))
    lost = np.setdiff1d(np.arange(1, count + 1), parts[thin])
    return thin | np.isin(parts, lost)


def _apart(one: Array, other: Array, spacing: Spacing) -> list[NDArray[np.float64]]:
    """Return how far each voxel of a mask's surface lies from the other's, and the reverse.

    Args:
        one: shape (D, H, W), not empty.
        other: likewise.
        spacing: between voxels.
    """
    from scipy.ndimage import distance_transform_edt

    slices, *plane = (
        slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(one | other)
    )
    # One slice more on each side, where there is one: whole end slices are no surface.
    box = (slice(max(slices.start - 1, 0), slices.stop + 1), *plane)
    surfaces = [_surface(mask[box]) for mask in (one, other)]
    away = [distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    return [away[1][surfaces[0]], away[0][surfaces[1]]]


def _surface(mask: Array) -> Array:
    """Return the voxels of a mask, (D, H, W), with a neighbour outside; see `hd95`."""
    from scipy.ndimage import binary_erosion

    longer = np.pad(mask, ((1, 1), (0, 0), (0, 0)), mode="edge")
    inner: Array = mask & ~binary_erosion(longer)[1:-1]
    return inner


SCORES: dict[str, Score] = {
    "dice": dice,
    "iou": iou,
    "hd95": hd95,
    "surface_dice": surface_dice,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "cldice": cldice,
}
"""Scores of a segmentation."""
BY_VOXEL = ("sensitivity", "specificity")
"""Those of them that take voxels one by one, wherever they lie."""
RANKINGS: dict[str, Ranking] = {"auc": auc}
"""Scores of the probabilities behind it."""
SHARE = Range(0.0, 1.0)
FARTHEST = 1e5
"""Longer than any image's diagonal, in the unit of the spacing."""
RANGES = dict.fromkeys((*SCORES, *RANKINGS), SHARE) | {"hd95": Range(0.0, FARTHEST)}
"""What each of them can be: all are shares, but for distances."""
SEGMENTATION = ("dice", "iou", "hd95")
"""The scores that every case has."""
FURTHER = tuple(name for name in (*SCORES, *RANKINGS) if name not in SEGMENTATION)


def by_class(names: Sequence[str], classes: int) -> dict[str, Range]:
    """Return scores and, of several foreground classes, the same of each: "dice_1", ..."""
    every = {name: RANGES[name] for name in names}
    if classes <= 2:
        return every
    return every | {f"{name}_{c}": RANGES[name] for name in names for c in range(1, classes)}


def class_of(name: str) -> int:
    """Return of which class a score is; 0 where it is the mean over several."""
    found = re.fullmatch(r".+?_(\d+)", name)
    return int(found[1]) if found else 0


def case_scores(
    prediction: Tensor,
    label: Tensor,
    classes: int,
    spacing: Spacing,
    names: Sequence[str] = SEGMENTATION,
    answers: Tensor | None = None,
    unmarked: Sequence[int] = (),
) -> dict[str, float]:
    """Return the scores `names` of one case.

    Args:
        prediction: class indices, shape (D, H, W).
        label: likewise, or `IGNORED` where the prediction is not looked at either.
        classes: number of classes, background included.
        spacing: distance between voxels (slice, row, column).
        names: some of `SCORES` and `RANKINGS`, the mean over classes, or of one class; see
            `by_class`.
        answers: the probabilities of the classes, shape (K, D, H, W); needed for `RANKINGS`.
        unmarked: classes that have no part in the mean.
    """
    shown = (label != IGNORED).numpy()
    parts: dict[str, tuple[str, list[int]]] = {}
    for name in names:
        number = class_of(name)
        every = [c for c in range(1, classes) if c not in unmarked]
        parts[name] = name.removesuffix(f"_{number}"), [number] if number else every
    values: dict[tuple[str, int], float] = {}
    for c in range(1, classes):  # one at a time: a mask of all of them is large
        found, there = ((x.numpy() == c) & shown for x in (prediction, label))
        for score in dict.fromkeys(score for score, of in parts.values() if c in of):
            if score in RANKINGS:
                assert answers is not None, f"{score} is taken of probabilities"
                chances = answers[c].float().numpy()[shown]
                values[score, c] = RANKINGS[score](chances, there[shown])
            elif score in BY_VOXEL:  # of what is ignored not even that nothing was found there
                values[score, c] = SCORES[score](found[shown], there[shown], spacing)
            else:
                values[score, c] = SCORES[score](found, there, spacing)
    return {name: fmean(values[score, c] for c in of) for name, (score, of) in parts.items()}
