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
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedcl.data.labels import IGNORED
from fedcl.tasks.base import Range

Spacing = tuple[float, float, float]
Array = NDArray[np.bool_]
Score = Callable[[Tensor, Tensor, Spacing], list[float]]
Ranking = Callable[[Tensor, Tensor], list[float]]

TOLERANCE = 2.0
"""How far surfaces may lie apart that count as the same, in the unit of the spacing."""


def dice(prediction: Tensor, label: Tensor, spacing: Spacing) -> list[float]:
    """Return 2|P n L| / (|P| + |L|) of every class; arguments as in every score of `SCORES`.

    Args:
        prediction: one-hot, shape (1, K, D, H, W), class 0 the background.
        label: likewise.
        spacing: distance between voxels (slice, row, column); plays no part here.
    """
    from monai.metrics import compute_dice  # takes seconds

    found = compute_dice(prediction, label, include_background=False, ignore_empty=False)[0]
    return list(map(float, found))


def iou(prediction: Tensor, label: Tensor, spacing: Spacing) -> list[float]:
    """Return |P n L| / |P u L| of every class."""
    from monai.metrics import compute_iou  # takes seconds

    found = compute_iou(prediction, label, include_background=False, ignore_empty=False)[0]
    return list(map(float, found))


def hd95(prediction: Tensor, label: Tensor, spacing: Spacing) -> list[float]:
    """Return the larger of the two directed 95th percentiles of surface distances, by class.

    In the unit of `spacing`. A surface are the voxels with a neighbour outside, along an axis.
    What lies beyond an image's edge is outside, as MONAI and medpy take it, but what lies beyond
    the first and the last slice is like them: a stack that ends within an organ does not cut it,
    and a stack of one slice has the distances of its outlines.
    """
    corner = [n * s for n, s in zip(label.shape[2:], spacing, strict=True)]
    distances = []
    for found, wanted in _classes(prediction, label):
        if found.any() and wanted.any():
            there, back = _apart(found, wanted, spacing)
            distances.append(float(max(np.percentile(there, 95), np.percentile(back, 95))))
        else:
            distances.append(math.hypot(*corner) if found.any() or wanted.any() else 0.0)
    return distances


def surface_dice(prediction: Tensor, label: Tensor, spacing: Spacing) -> list[float]:
    """Return the share of both surfaces' voxels that lie within `TOLERANCE` of the other one.

    The normalised surface Dice (Nikolov et al., JMIR 2021), surfaces being those of `hd95`.
    """
    shares = []
    for found, wanted in _classes(prediction, label):
        if found.any() and wanted.any():
            distances = np.concatenate(_apart(found, wanted, spacing))
            shares.append(float((distances <= TOLERANCE).mean()))
        else:
            shares.append(0.0 if found.any() or wanted.any() else 1.0)
    return shares


def sensitivity(prediction: Tensor, label: Tensor, spacing: Spacing) -> list[float]:
    """Return |P n L| / |L| of every class; 1 where there is none to be found."""
    return [
        float((found & wanted).sum() / wanted.sum()) if wanted.any() else 1.0
        for found, wanted in _classes(prediction, label)
    ]


def specificity(prediction: Tensor, label: Tensor, spacing: Spacing) -> list[float]:
    """Return the share of voxels outside of L that are outside of P; 1 where there are none."""
    return [
        float((~found & ~wanted).sum() / (~wanted).sum()) if not wanted.all() else 1.0
        for found, wanted in _classes(prediction, label)
    ]


def cldice(prediction: Tensor, label: Tensor, spacing: Spacing) -> list[float]:
    """Return the centreline Dice of every class (Shit et al., CVPR 2021), for vessels and the like.

    The harmonic mean of two shares: of the prediction's centreline that lies in the label, and of
    the label's that lies in the prediction.
    """
    shares = []
    for found, wanted in _classes(prediction, label):
        if found.any() and wanted.any():
            precise = wanted[_centreline(found)].mean()
            complete = found[_centreline(wanted)].mean()
            both = precise + complete
            shares.append(float(2 * precise * complete / both) if both else 0.0)
        else:
            shares.append(0.0 if found.any() or wanted.any() else 1.0)
    return shares


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


def auc(answers: Tensor, label: Tensor) -> list[float]:
    """Return the area under the ROC curve of every class against the rest, voxel by voxel.

    That is the chance that a voxel of the class gets a higher probability of it than one that is
    not (ties count half); 1 where all voxels are of the class, or none: there is nothing to tell
    apart.

    Args:
        answers: probabilities, shape (K, V), class 0 the background.
        label: classes, shape (V,).
    """
    from scipy.stats import rankdata

    areas = []
    for number in range(1, len(answers)):
        wanted = label.numpy() == number
        many, others = int(wanted.sum()), int((~wanted).sum())
        if many and others:
            ranks = rankdata(answers[number].numpy())[wanted].sum()
            areas.append(float((ranks - many * (many + 1) / 2) / (many * others)))
        else:
            areas.append(1.0)
    return areas


def _classes(prediction: Tensor, label: Tensor) -> list[tuple[Array, Array]]:
    """Return prediction and label of every class but 0, (D, H, W)."""
    every = range(1, label.shape[1])
    return [(prediction[0, c].numpy() > 0, label[0, c].numpy() > 0) for c in every]


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
    counts = label != IGNORED
    known = label[counts]
    shown = counts.flatten()
    prediction, label = (x.where(counts, 0) for x in (prediction, label))
    p, l = (F.one_hot(x.long(), classes).movedim(-1, 0)[None].float() for x in (prediction, label))
    wanted = {name: re.fullmatch(r"(.+?)(?:_(\d+))?", name) for name in names}
    values: dict[str, list[float]] = {}
    found = {}
    for name, match in wanted.items():
        assert match is not None
        score, number = match.groups()
        if score in RANKINGS and score not in values:
            assert answers is not None, f"{score} is taken of probabilities"
            values[score] = RANKINGS[score](answers[:, counts].float(), known)
        elif score not in values:
            one, other = p, l
            if score in BY_VOXEL:  # of what is ignored not even that nothing was found there
                one, other = (x.flatten(2)[:, :, shown][:, :, None, None] for x in (p, l))
            values[score] = SCORES[score](one, other, spacing)
        by_number = dict(enumerate(values[score], start=1))
        taken = [int(number)] if number else [c for c in by_number if c not in unmarked]
        found[name] = fmean(by_number[c] for c in taken)
    return found
