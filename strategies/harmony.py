"""Harmony: one's own images as the scanners of earlier hospitals would have shown them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fedcl.arrays import Arrays
from fedcl.data.samples import Samples
from fedcl.learning.step import Step
from fedcl.learning.strategy import Form, Reporting, SiteSummary
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from strategies.parts import appearance
from strategies.parts.anatomy import organs, places, reshape
from strategies.parts.distillation import Archiving, drawn, hospitals, unbiased_cross_entropy


@dataclass
class Harmony(Archiving):
    """Rehearse earlier hospitals on one's own images, harmonised to theirs. Ours.

    L = L_seg(p(x), y) + kd * CE(q(H(x)), p(H(x))) + seg * L_seg(p(H(x)), H(y))

    A hospital leaves the mean intensity of every cell of a coarse grid, of two bands around what
    is labelled and of every class. H draws an earlier hospital for every image and maps
    intensities so that, over all of one's images, each of these regions has the mean it has there:
    one smooth curve, inversions included, that may change slowly with position, as coils have it
    (`strategies.parts.appearance.curves`). It sees no label, so none shows in H(x). Image and label
    are moved and scaled as organs lie there. Gradient descent can correct the curve where the
    teacher q is wrong about it: no gain. What q was never taught counts as background (MiB).

    Attributes:
        kd: weight of the teacher's answers on harmonised images.
        seg: weight of their segmentation: worth it where patients are few.
        correct: steps of gradient descent on the maps, per stage; 0 for none.
        look: whether intensities are mapped.
        shape: whether the organ is moved and scaled, where all sites mark the same classes.
    """

    losses = ("kd", "harmonised")
    leaves = (
        "mean intensity and share of each cell of a coarse grid, of bands around the organ and of "
        "each class, between what intensities lie, and where the organ lies"
    )

    kd: float = setting(2.0, low=0)
    seg: float = setting(0.0, low=0)
    correct: int = setting(0, low=0)
    look: bool = True
    shape: bool = True

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return both terms on harmonised images."""
        assert isinstance(step.task, Segmentation)
        images, labels = step.inputs, step.targets
        old = drawn(step.memory, len(images), step.rng)
        if self.look:
            images = appearance.mapped(images, old["theta"], old["own"][0], old["ends"])
        if self.shape and not step.task.candidates:  # of sites that mark other organs, no place
            images, labels = reshape(images, labels, old["place"], old["organ"][:, 0] > 0, step.rng)
        logits = step.probe(images)
        unknown, answers = step.task.unknown(step.taught), step.ask_teacher(images)
        terms = {"kd": self.kd * unbiased_cross_entropy(logits, answers, unknown)}
        if self.seg:
            terms["harmonised"] = self.seg * step.task.loss(logits, labels)
        return terms

    def reporting(self, network: nn.Module, task: Segmentation, shape: Sequence[int]) -> Reporting:
        """See `Strategy.reporting`."""
        channels, axes = shape[0], len(shape) - 1
        size = appearance.count(axes, task.classes)
        forms = {
            "level": Form((channels, size)),
            "share": Form((size,), low=0.0, high=1.0),
            "ends": Form((2, channels)),
            "organ": Form((1,), low=0.0, high=1.0),
            "place": Form((2, 2 * axes), low=-5.0, high=5.0),
        }
        return Reporting(forms, partial(self.describe, classes=task.classes))

    def describe(self, network: nn.Module, samples: Samples, classes: int) -> Arrays:
        """Return what is left behind.

        "level" (C, R), mean intensity of every region; "share" (R,), of all voxels; "ends" (2, C),
        between what intensities lie; "organ" (1,), the share of images that show one; "place"
        (2, 2 * axes), deviation and mean of `places`.
        """
        ends = appearance.ends(samples)
        shares, share = appearance.distributions(samples, classes, ends)
        found = [(places(y), organs(y).flatten(1).any(dim=1)) for _, y in appearance.parts(samples)]
        spots, organ = (torch.cat(one) for one in zip(*found, strict=True))
        record = {
            "level": appearance.means(shares, ends),
            "share": share,
            "ends": ends,
            "organ": organ.float().mean(dim=0, keepdim=True),
            "place": torch.stack(torch.std_mean(spots[organ | ~organ.any()], dim=0, correction=0)),
        }
        return {name: value.float().numpy() for name, value in record.items()}

    def recall(self, summary: SiteSummary) -> Mapping[str, Tensor]:
        """Return the archive with the map to every hospital in it, (C, K, M), and its ends."""
        memory, device = summary.memory, summary.samples.device
        if not memory or not self.look:
            return memory
        ends = appearance.ends(summary.samples)
        own, share = appearance.distributions(summary.samples, summary.task.classes, ends)
        every = hospitals(memory)
        left = ([memory[f"{one}/{name}"].cpu() for name in ("level", "share")] for one in every)
        maps = [appearance.fitted(own, share, ends, *one) for one in left]
        theta, ends = torch.stack(maps).to(device), ends.to(device)
        bounds = torch.stack([memory[f"{one}/ends"] for one in every])
        theta = appearance.corrected(theta, ends, bounds, self.correct, summary)
        for one, found in zip(every, theta, strict=True):
            memory = {**memory, f"{one}/theta": found, f"{one}/own": ends}
        return memory
