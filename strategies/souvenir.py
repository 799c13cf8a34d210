"""Souvenir: each hospital leaves behind how its images look around the organ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedcl.arrays import Arrays
from fedcl.data.samples import Samples
from fedcl.errors import ConfigError
from fedcl.learning.step import Step
from fedcl.learning.strategy import Form, Reporting
from fedcl.models.base import Model
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from strategies.parts.anatomy import REGIONS, levels, places, quantiles, regions, reshape
from strategies.parts.distillation import Archiving, drawn, soft_cross_entropy

QUANTILES = 9  # from 0 to 1, per region


@dataclass
class Souvenir(Archiving):
    """Rehearse earlier hospitals on one's own images, restaged to look like theirs. Ours.

    L = L_seg(p(x), y) + seg * L_seg(p(R(x)), R(y)) + kd * CE(q(R(x)), p(R(x)))

    A hospital leaves some 200 numbers: for every region around the organ (4 sectors, 5 rings) mean
    and deviation of nine quantiles of the intensity, and those of the organ's centre and extent. R
    draws a hospital for every image, moves and scales image and label as that one's might lie, and
    gives every region its quantiles: old looks are learned with true labels, without any old image.

    Attributes:
        seg: weight of the segmentation of restaged images.
        kd: weight of the teacher's answers on them.
        shape: whether the organ is moved and scaled.
        look: whether the regions' intensities are changed.
        vary: how much of the deviation between images is drawn anew for every region.
    """

    losses = ("restaged", "kd")
    leaves = "quantiles of its images in 20 regions around the organ, and where that lies"
    seg: float = setting(1.0, low=0)
    kd: float = setting(0.5, low=0)
    shape: bool = True
    look: bool = True
    vary: float = setting(0.5, low=0)

    def check(self, task: Segmentation, model: Model) -> None:
        """Raise `ConfigError` where voxels may have no class: regions are told by them."""
        if key := "ignore" if task.ignores else "unmarked" if task.candidates else "":
            raise ConfigError(f"scenario.{key}: souvenir needs the class of every voxel")

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return both terms on restaged images."""
        images, labels = step.inputs, step.targets
        old = drawn(step.memory, len(images), step.rng)
        if self.shape:
            images, labels = reshape(images, labels, old["place"], old["organ"][:, 0] > 0, step.rng)
        if self.look:
            images = repaint(images, labels, old, self.vary, step.rng)
        logits = step.probe(images)
        return {
            "restaged": self.seg * step.task.loss(logits, labels),
            "kd": self.kd * soft_cross_entropy(logits, step.ask_teacher(images)),
        }

    def reporting(self, network: nn.Module, task: Segmentation, shape: Sequence[int]) -> Reporting:
        """See `Strategy.reporting`."""
        whole = {"quantiles": (shape[0], REGIONS, QUANTILES), "between": (shape[0], REGIONS)}
        whole |= {"seen": (REGIONS,), "organ": (1,), "place": (2, 2 * (len(shape) - 1))}
        return Reporting({name: Form(size) for name, size in whole.items()}, self.look_around)

    def seen(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return quantiles and voxels of every region, places, and whether there is an organ."""
        organ = (labels > 0).flatten(1).any(dim=1)
        return *quantiles(images, regions(labels), QUANTILES), places(labels), organ

    def look_around(self, network: nn.Module, samples: Samples) -> Arrays:
        """Return what is left behind.

        "quantiles" (C, REGIONS, K), their mean over images; "between" (C, REGIONS), the deviation
        between them; "seen" (REGIONS), the share of images that have the region; "organ" (1,), the
        share that shows it; "place" (2, 2 * axes), deviation and mean of `places`.
        """
        parts = [self.seen(part.inputs, part.targets) for part in samples.parts()]
        values, pixels, spots, organ = (torch.cat(one) for one in zip(*parts, strict=True))
        there = (pixels > 0).float()
        share = (there / there.sum(dim=0).clamp_min(1))[:, None, :]
        mean = (values * share[..., None]).sum(dim=0)
        apart = (values.mean(dim=3) - mean.mean(dim=2)).square()
        record = {
            "quantiles": mean,
            "between": (apart * share).sum(dim=0).sqrt(),
            "seen": there.mean(dim=0),
            "organ": organ.float().mean(dim=0, keepdim=True),
            "place": torch.stack(torch.std_mean(spots[organ | ~organ.any()], dim=0, correction=0)),
        }
        return {name: value.float().cpu().numpy() for name, value in record.items()}


def repaint(
    images: Tensor, labels: Tensor, old: Mapping[str, Tensor], vary: float, rng: torch.Generator
) -> Tensor:
    """Give every region of every image the distribution of intensities it has in `old`."""
    region = regions(labels)
    chance = torch.randn(old["between"].shape, generator=rng).to(images.device)
    wanted = old["quantiles"] + (vary * old["between"] * chance)[..., None]
    steps = wanted.shape[-1] - 1
    exact = levels(images, region) * steps
    below = exact.floor().clamp(max=steps - 1)
    place = region[:, None] * (steps + 1) + below.long()

    def at(index: Tensor) -> Tensor:
        return wanted.flatten(2).gather(2, index.flatten(2)).view_as(images)

    painted = torch.lerp(at(place), at(place + 1), exact - below)
    known = old["seen"].gather(1, region.flatten(1)).view_as(region)[:, None] > 0
    return torch.where(known, painted, images)
