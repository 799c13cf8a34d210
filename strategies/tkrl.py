"""TKRL: targeted knowledge rectification, by probes and by masked reconstruction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.arrays import Arrays
from fedcl.learning.step import Activations, Step
from fedcl.learning.strategy import Requirements, StageSummary
from fedcl.settings import setting
from strategies.lwf import LwF
from strategies.parts.decoder import Decoder
from strategies.parts.probes import Probes, optimised


@dataclass
class TKRL(LwF):
    """TKRL (IEEE JBHI 2026), the follow-up of CauAug: L = L_seg + kd * L_kd + L_x.

    L_x is pcd * L_pcd and vma * L_vma in turns, or the one whose weight is not 0:

    - PCD: for every foreground class, probe images n minimise -mean(q_c(n)) + TV(n) from
      0.1 * Normal; L_pcd = CE(c, p(n)). The hospitals receive the probes.
    - VMA: at every scale, the tenth of the positions (rounded down, as published) where student
      and teacher differ with most variance over channels; their union is replaced by a learned
      number, a light decoder rebuilds the image from the student's features; L_vma is its mean
      squared error.

    The decoder and the number stay at the hospital: they are no part of the model.

    Attributes:
        pcd: weight of the probes' term.
        vma: weight of the reconstruction.
        masked: share of the positions masked per scale.
        rounding: of their number, "down" or "up": at coarse scales it decides how much is masked.
        probes: how they are made.
    """

    losses = ("kd", "pcd", "vma")

    pcd: float = setting(0.01, low=0)
    vma: float = setting(0.01, low=0)
    masked: float = setting(0.1, above=0, high=0.9)
    rounding: str = setting("down", choices=("down", "up"))
    probes: Probes = setting(factory=Probes)

    @property
    def requirements(self) -> Requirements:
        """Features, where the image is rebuilt from them."""
        return replace(super().requirements, features=self.vma > 0)

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return L_kd and the term whose turn it is."""
        terms = super().distil(step)
        if self.pcd and ((step.round + step.number) % 2 == 0 or not self.vma):
            terms["pcd"] = self.pcd * self.probing(step)
        elif self.vma:
            terms["vma"] = self.vma * self.rebuilding(step)
        return terms

    def probing(self, step: Step) -> Tensor:
        """Return L_pcd, the mean over the foreground classes."""
        losses = []
        for key, images in sorted(step.memory.items()):
            logits = step.probe(images)
            target = torch.full_like(logits[:, 0], int(key), dtype=torch.int64)
            losses.append(F.cross_entropy(logits, target))
        return torch.stack(losses).mean()

    def rebuilding(self, step: Step) -> Tensor:
        """Return L_vma."""
        assert isinstance(step.auxiliary, Decoder)
        mask = self.mask(
            step.activations.features, step.teacher_activations.features, step.inputs.shape[2:]
        )
        hidden = torch.where(mask, step.auxiliary.token, step.inputs)
        return F.mse_loss(step.auxiliary(step.probe_features(hidden), step.inputs), step.inputs)

    def mask(self, student: list[Tensor], teacher: list[Tensor], size: Sequence[int]) -> Tensor:
        """Return where they differ with most variance, boolean, shape (B, 1, ...)."""
        whole = math.floor if self.rounding == "down" else math.ceil
        union = torch.zeros(len(student[0]), 1, *size, dtype=torch.bool, device=student[0].device)
        for one, other in zip(student, teacher, strict=True):
            variance = (one.detach() - other).float().var(dim=1, correction=0).flatten(1)
            most = variance.topk(whole(self.masked * variance.shape[1]), dim=1)
            chosen = torch.zeros_like(variance).scatter_(1, most.indices, (most.values > 0).float())
            union |= F.interpolate(chosen.view(len(one), 1, *one.shape[2:]), size=tuple(size)) > 0
        return union

    def auxiliary(
        self, student: Activations, teacher: Activations, inputs: Tensor
    ) -> nn.Module | None:
        """Make VMA's decoder."""
        widths = [feature.shape[1] for feature in student.features]
        return Decoder(widths, inputs.shape[1], inputs.ndim - 2) if self.vma else None

    def remember(self, summary: StageSummary) -> Arrays:
        """Return the probes of every foreground class, "CLASS"."""
        if not self.pcd:
            return {}
        shape = (self.probes.count, *summary.shape)
        foreground = range(1, summary.task.classes)
        starts = {c: 0.1 * torch.randn(shape, generator=summary.rng) for c in foreground}
        return {str(c): optimised(summary.network, c, n, self.probes) for c, n in starts.items()}
