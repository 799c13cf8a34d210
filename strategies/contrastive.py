"""MTMS: what a large network sees at several scales, told to a small one by contrast."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedcl.learning.step import Activations, Step
from fedcl.learning.strategy import Requirements
from fedcl.settings import setting
from strategies.parts.contrast import SCALES, Projections, contrast, softened
from strategies.parts.distillation import check_terms, used
from strategies.parts.large_teacher import DistillingLarge

TERMS = (*SCALES, "maps")


@dataclass
class Weight:
    """The weight of each part of the loss, where there is a teacher."""

    seg: float = setting(0.4, low=0)
    bottleneck: float = setting(0.2, low=0)
    encoder: float = setting(0.1, low=0)
    decoder: float = setting(0.1, low=0)
    maps: float = setting(0.2, low=0)


@dataclass
class Contrastive(DistillingLarge):
    """MTMS (Biswas, arXiv 2406.03173) in a federation of large and small networks.

    L = seg * L_seg + encoder * L_e + bottleneck * L_b + decoder * L_d + maps * L_maps, where

    - L_e, L_b, L_d, mean over the levels of the student: InfoNCE between its feature maps and
      the teacher's of the same level, counted from the finest,
      -1/B sum_i log(exp(s_ii / t) / sum_j exp(s_ij / t)), s_ij the cosine between the student's
      map of image i and the teacher's of image j: the same image is the positive, the other
      images of the batch are the negatives. The teacher's map is brought to the student's
      shape by bilinear resizing and a 1 x 1 convolution.
    - L_maps = T^2 KL(q_T || p_T), mean over pixels, of class probabilities softened by T.

    The convolutions are made once per site, from the run's seed, stay there and are in no
    average. A batch of one image has no negatives: such a rest of an epoch is left out of the
    terms of contrast.

    Attributes:
        terms: the parts in use, joined by "+".
        weight: the weight of each part.
        temperature: t of the contrast.
        softening: T of the maps.
        projection: whether the convolutions are "trained" with the student or "frozen".
    """

    losses = ("bottleneck", "encoder", "decoder", "maps")

    terms: str = "+".join(TERMS)
    weight: Weight = setting(factory=Weight)
    temperature: float = setting(0.4, low=0.01, high=100)
    softening: float = setting(4.0, low=0.01, high=100)
    projection: str = setting("trained", choices=("trained", "frozen"))

    def __post_init__(self) -> None:
        """Check the terms."""
        check_terms(self.terms, TERMS)

    def uses(self, term: str) -> bool:
        """Return whether `term` is switched on and has a weight."""
        return used(term, self.terms, self.weight)

    @property
    def scales(self) -> list[str]:
        """The scales in use."""
        return [scale for scale in SCALES if self.uses(scale)]

    @property
    def requirements(self) -> Requirements:
        """Two samples in a batch, where there is contrast."""
        return replace(super().requirements, batch=2 if self.scales else 1)

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return the loss terms of a site that has a teacher, or the task's own."""
        if step.teacher is None:
            return step.loss()
        own = {name: self.weight.seg * value for name, value in step.loss().items()}
        return own | self.distil(step)

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the terms in use, weighted."""
        losses = {}
        if self.scales and len(step.inputs) > 1:
            assert isinstance(step.auxiliary, Projections)
            student, teacher = step.activations, step.teacher_activations
            for scale in self.scales:
                maps = getattr(student, scale), getattr(teacher, scale)
                pairs = step.auxiliary(scale, *maps)
                terms = [contrast(ours, theirs, self.temperature) for ours, theirs in pairs]
                losses[scale] = getattr(self.weight, scale) * torch.stack(terms).mean()
        if self.uses("maps"):
            losses["maps"] = self.weight.maps * softened(
                step.outputs, step.teacher_answers, self.softening
            )
        return losses

    def auxiliary(
        self, student: Activations, teacher: Activations, inputs: Tensor
    ) -> nn.Module | None:
        """Make the projections of the scales in use.

        Raises:
            ConfigError: the teacher has fewer levels at a scale, or the student none.
        """
        if not self.scales:
            return None
        made = Projections(self.scales, student, teacher)
        return made.requires_grad_(self.projection == "trained")
