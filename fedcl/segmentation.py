"""Segmentation: a class for every pixel of 2-D slices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from fedcl.models.base import ImageModel
from fedcl.scores import SEGMENTATION, case_scores
from fedcl.task import Picture, Task
from sites.base import Case, Samples, SiteData

segmentation_loss: Callable[[Tensor, Tensor], Tensor] = DiceCELoss(
    softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0
)


@dataclass(frozen=True)
class Segmentation(Task):
    """Samples are slices: inputs (N, C, H, W), targets class indices (N, 1, H, W).

    Outputs are logits (N, K, H, W), answers their softmax over K. The loss is Dice plus
    cross-entropy.

    Attributes:
        channels: of an image, C.
        classes: label values, background included, K.
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

    def build(self, model: ImageModel, sites: Sequence[str]) -> nn.Module:
        """Make the network, the same in every stage."""
        return model.build(self.channels, self.classes)

    def samples(self, cases: Sequence[Case], device: torch.device) -> Samples:
        """Stack the slices of `cases` in order."""
        images = torch.cat([case.images for case in cases])
        labels = torch.cat([case.labels for case in cases]).unsqueeze(1).long()
        return Samples(images.to(device), labels.to(device))

    def describe(self, data: SiteData) -> dict[str, str]:
        """Return numbers and sizes of slices, and the share of pixels of every class but 0."""
        cases = [*data.train, *data.val, *data.test]
        labels = torch.cat([case.labels.flatten() for case in cases])
        sizes = {"x".join(map(str, case.images.shape[-2:])) for case in cases}
        spacings = {"x".join(f"{s:.3g}" for s in case.spacing) for case in cases}
        shares = [f"{(labels == c).float().mean():.1%}" for c in range(1, self.classes)]
        return {
            "slices": str(sum(len(case.images) for case in cases)),
            "size": ", ".join(sorted(sizes)),
            "voxel": next(iter(spacings)) if len(spacings) == 1 else f"{len(spacings)} different",
            "labelled": ", ".join(shares),
        }

    def complaint(self, network: nn.Module, samples: Samples) -> str | None:
        """Return what is wrong where the network does not take images of this size."""
        height, width = samples.inputs.shape[-2:]
        problem = "it answers in another size"
        try:
            if self.answers(network, samples.inputs[:1]).shape[-2:] == (height, width):
                return None
        except (RuntimeError, ValueError) as error:
            problem = str(error).splitlines()[0]
        return (
            f"the model cannot take images of {height} x {width} pixels ({problem}); change "
            "scenario.size or model"
        )

    def batches(self, count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield batches, epoch by epoch: every slice once, in a new random order."""
        while True:
            yield from torch.randperm(count, generator=rng).split(size)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return Dice plus cross-entropy."""
        return segmentation_loss(outputs, targets)

    def answer(self, outputs: Tensor) -> Tensor:
        """Return class probabilities."""
        return torch.softmax(outputs.float(), dim=1)

    def predict(self, network: nn.Module, case: Case, device: torch.device, amp: bool) -> Tensor:
        """Return the class of every voxel, shape (D, H, W)."""
        return self.answers(network, case.images.to(device), amp).max(1).indices.cpu()

    def picture(self, case: Case, prediction: Tensor) -> Picture:
        """Return the middle slice."""
        middle = len(case.images) // 2
        return Picture(case.name, case.images[middle, 0], case.labels[middle], prediction[middle])

    def score(self, prediction: Tensor, case: Case, names: Sequence[str]) -> dict[str, float]:
        """Return the scores of a patient; see `fedcl.scores`."""
        return case_scores(prediction, case.labels, self.classes, case.spacing, names)
