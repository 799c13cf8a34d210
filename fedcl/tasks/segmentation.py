"""Segmentation: a class for every pixel of 2-D slices."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.data.cases import Case, Samples, SiteData
from fedcl.data.labels import IGNORED
from fedcl.data.resampling import restored
from fedcl.models.base import ImageModel
from fedcl.seeding import seeded
from fedcl.tasks.base import Drawing, Picture, Task
from fedcl.tasks.metrics import SEGMENTATION, case_scores


@dataclass(frozen=True)
class Segmentation(Task):
    """Samples are slices: inputs (N, C, H, W), targets class indices (N, 1, H, W).

    Outputs are logits (N, K, H, W), answers their softmax over K. The loss is Dice plus
    cross-entropy.

    Attributes:
        channels: of an image, C.
        classes: label values, background included, K.
        ignores: whether targets may be `IGNORED`.
    """

    words: ClassVar[str] = "images with label maps"
    models: ClassVar[type] = ImageModel
    term: ClassVar[str] = "seg"
    scores: ClassVar[tuple[str, ...]] = tuple(SEGMENTATION)
    chunk: ClassVar[int] = 64
    case: ClassVar[str] = "patient"
    legend: ClassVar[str] = "test cases: label (blue, solid) and prediction (orange, dashed)"
    leaves: ClassVar[str] = (
        "no image leaves a site; weights, case names, scores and what the strategy reports do"
    )

    channels: int
    classes: int
    ignores: bool = False

    def build(self, model: ImageModel, sites: Sequence[str]) -> nn.Module:
        """Make the network, the same in every stage."""
        return model.build(self.channels, self.classes)

    def samples(self, cases: Sequence[Case], device: torch.device) -> Samples:
        """Stack the slices of `cases` in order."""
        images = torch.cat([case.images for case in cases])
        labels = torch.cat([case.labels for case in cases]).unsqueeze(1).long()
        return Samples(images.to(device), labels.to(device))

    def describe(self, data: SiteData) -> dict[str, str]:
        """Return what the slices are like, and the share of pixels of every class but 0.

        Sizes, voxels and shares are those of the images as they came.
        """
        cases = [*data.train, *data.val, *data.test]
        maps = [label for case in cases for label in case.truth]
        pixels = sum(int((label != IGNORED).sum()) for label in maps)
        counts = [sum(int((label == c).sum()) for label in maps) for c in range(1, self.classes)]
        ignored = sum(int((label == IGNORED).sum()) for label in maps)
        planes = Counter(case.plane for case in cases if case.plane)
        told = {
            "slices": str(sum(len(case.images) for case in cases)),
            "size": _several({"x".join(map(str, label.shape[1:])) for label in maps}),
            "voxel": _several({_size(case) for case in cases}),
            "labelled": ", ".join(_share(count / max(pixels, 1)) for count in counts),
        }
        if self.ignores:
            told["ignored"] = _share(ignored / max(pixels + ignored, 1))
        if planes:
            told["plane"] = ", ".join(planes if len(planes) == 1 else map(_counted, planes.items()))
        return told

    def problem(self, network: nn.Module, samples: Samples, least: int = 0) -> str | None:
        """Return what is wrong where the network does not take images, or batches, of this size."""
        height, width = samples.inputs.shape[-2:]
        problem = self._refused(network, samples.inputs[:1])
        if problem is not None:
            multiple = self._multiple(network, samples.inputs[:1])
            advice = (
                f"give a multiple of {multiple}" if multiple else "change scenario.size or model"
            )
            return (
                f"the model cannot take images of {height} x {width} pixels ({problem}); "
                f"scenario.size: {advice}"
            )
        if not least:
            return None
        trained = copy.deepcopy(network).train()
        try:
            with torch.no_grad(), seeded("check"):
                trained(samples.inputs[:1].expand(least, -1, -1, -1))
        except (RuntimeError, ValueError) as error:
            problem = str(error).splitlines()[0]
            return (
                f"the model cannot be trained on a batch of {least}, which comes up here "
                f"({problem}); change learner.batch_size, scenario.size or model.norm"
            )
        return None

    def _refused(self, network: nn.Module, image: Tensor) -> str | None:
        """Return why a network does not answer an image in its size, or None."""
        try:
            if self.answers(network, image).shape[-2:] == image.shape[-2:]:
                return None
        except (RuntimeError, ValueError) as error:
            return str(error).splitlines()[0]
        return "it answers in another size"

    def _multiple(self, network: nn.Module, image: Tensor) -> int | None:
        """Return the least power of 2 of which sizes must be multiples, up to 64; None if none."""
        for multiple in (2, 4, 8, 16, 32, 64):
            # An odd multiple is no multiple of the next power.
            size = [multiple * (2 * max(1, n // (2 * multiple)) + 1) for n in image.shape[-2:]]
            if self._refused(network, image.new_zeros(1, image.shape[1], *size)) is None:
                return multiple
        return None

    def batches(self, count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield batches, epoch by epoch: every slice once, in a new random order."""
        while True:
            yield from torch.randperm(count, generator=rng).split(size)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return Dice plus cross-entropy."""
        loss = ignoring_loss if self.ignores else segmentation_loss
        return loss(outputs, targets)

    def answer(self, outputs: Tensor) -> Tensor:
        """Return class probabilities."""
        return torch.softmax(outputs.float(), dim=1)

    def predict(self, network: nn.Module, case: Case, device: torch.device, amp: bool) -> Tensor:
        """Return the class probabilities of every voxel, shape (D, K, H, W)."""
        return self.answers(network, case.images.to(device), amp).cpu()

    @property
    def drawing(self) -> Drawing:
        """See `Drawing`: the first test case of every site."""
        return self

    def drawn(self, cases: Sequence[Case]) -> Sequence[Case]:
        """Return the first case."""
        return cases[:1]

    def picture(self, case: Case, prediction: Tensor) -> Picture:
        """Return the middle slice."""
        middle = len(case.images) // 2
        found, label = prediction[middle].max(0).indices, case.labels[middle]
        return Picture(case.name, case.images[middle, 0], label.where(label != IGNORED, 0), found)

    def score(self, prediction: Tensor, case: Case, names: Sequence[str]) -> dict[str, float]:
        """Return the scores of a patient, the mean over its files; see `fedcl.tasks.metrics`.

        They are taken on the images' own grids: the prediction is brought there.
        """
        answers = prediction.split([len(label) for label in case.truth])
        found = [
            case_scores(
                restored(answer, (label.shape[1], label.shape[2])), label, self.classes,
                case.spacing, names,
            )
            for answer, label in zip(answers, case.truth, strict=True)
        ]  # fmt: skip
        return {name: fmean(one[name] for one in found) for name in names}


@lru_cache(maxsize=1)
def _dice_and_cross_entropy() -> Callable[[Tensor, Tensor], Tensor]:
    from monai.losses import DiceCELoss  # takes seconds

    loss: Callable[[Tensor, Tensor], Tensor] = DiceCELoss(
        softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0
    )
    return loss


def segmentation_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Dice plus cross-entropy.

    Args:
        outputs: logits, shape (N, K, H, W).
        targets: classes, shape (N, 1, H, W).
    """
    return _dice_and_cross_entropy()(outputs, targets)


def ignoring_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `segmentation_loss` over the pixels that count.

    Args:
        outputs: logits, shape (N, K, H, W).
        targets: classes or `IGNORED`, shape (N, 1, H, W).
    """
    from monai.losses import MaskedDiceLoss  # takes seconds
    from monai.networks import one_hot

    counts = targets != IGNORED
    known = targets.where(counts, 0)
    wanted = one_hot(known, outputs.shape[1])
    overlap = MaskedDiceLoss(smooth_nr=1.0, smooth_dr=1.0)(outputs.softmax(1), wanted, counts)
    apart = F.cross_entropy(outputs, known[:, 0], reduction="none")[:, None]
    return overlap + (apart * counts).sum() / counts.sum().clamp(min=1)


def _share(share: float) -> str:
    """Return a share as a percentage that does not hide what is small."""
    return "0%" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}"


def _size(case: Case) -> str:
    """Return the size of a voxel, in mm but where the files do not say."""
    told = "x".join(f"{size:.3g}" for size in case.spacing)
    return "in pixels" if told == "1x1x1" and case.plane == "as stored" else told


def _several(values: set[str]) -> str:
    return ", ".join(sorted(values)) if len(values) <= 2 else f"{len(values)} different"


def _counted(item: tuple[str, int]) -> str:
    return f"{item[0]} {item[1]}"
