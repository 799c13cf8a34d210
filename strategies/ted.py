"""Tri-enhanced distillation: old answers on new images, on noise, and where they differ."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedcl.errors import ConfigError
from fedcl.learning.step import Step
from fedcl.settings import setting
from strategies.parts.distillation import Distilling, check_terms, soft_cross_entropy, used

TERMS = ("kd", "ska", "akt", "gugf")


@dataclass
class Weight:
    """The weight of each part; `gugf` blends AKT's uncertainty: 0 none, 1 in full."""

    kd: float = setting(0.25, low=0)
    ska: float = setting(0.25, low=0)
    akt: float = setting(0.1, low=0)
    gugf: float = setting(1.0, low=0, high=1)


@dataclass
class Noise:
    """The stochastic knowledge augmentation draws Normal(mean, std) images."""

    mean: float = 0.0
    std: float = setting(1.0, above=0)


@dataclass
class TED(Distilling):
    """TED (Zhu et al., Medical Image Analysis 94:103112, 2024).

    L = L_seg + kd * L_kd + ska * L_ska + akt * L_akt, where with teacher q and student p

    - L_kd = CE(q, p) on the images,
    - L_ska = CE(q, p) on noise,
    - L_akt = -sum(u e log(p_l + 1e-5)) / (sum(e) + 1): l the teacher's label, e = 1 where
      the student's label differs, u the uncertainty (`gugf`) or 1.

    Attributes:
        terms: the parts in use, joined by "+": the paper's ladder is kd, kd+ska, kd+akt,
            kd+akt+gugf, kd+ska+akt and kd+ska+akt+gugf.
        weight: the weight of each part.
        reduction: how GUGF joins the batch's uncertainties at a pixel: "sum" (the
            reference; L_akt then grows with the batch) or "mean".
        noise: what SKA draws.
    """

    losses = ("kd", "ska", "akt")

    terms: str = "kd+ska+akt+gugf"
    weight: Weight = setting(factory=Weight)
    reduction: str = setting("mean", choices=("sum", "mean"))
    noise: Noise = setting(factory=Noise)

    def __post_init__(self) -> None:
        """Check the terms."""
        check_terms(self.terms, TERMS)
        if "gugf" in self.terms and "akt" not in self.terms:
            raise ConfigError("strategy.terms: gugf weighs the errors of akt, so it needs akt")

    def uses(self, term: str) -> bool:
        """Return whether `term` is switched on and has a weight."""
        return used(term, self.terms, self.weight)

    def distil(self, step: Step) -> dict[str, Tensor]:
        """Return the terms in use, weighted."""
        losses = {}
        if self.uses("kd"):
            losses["kd"] = self.weight.kd * soft_cross_entropy(step.outputs, step.teacher_answers)
        if self.uses("ska"):
            noise = step.noise(self.noise.mean, self.noise.std)
            losses["ska"] = self.weight.ska * soft_cross_entropy(
                step.probe(noise), step.ask_teacher(noise)
            )
        if self.uses("akt"):
            losses["akt"] = self.weight.akt * self.adaptive_transfer(
                step.outputs, step.teacher_answers
            )
        return losses

    def adaptive_transfer(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Return L_akt.

        Args:
            logits: the student's, shape (B, K, H, W).
            answers: the teacher's probabilities, same shape.
        """
        p = torch.softmax(logits, dim=1)
        pseudo = answers.max(dim=1).indices  # on a CPU ten times as fast as argmax
        error = (p.detach().max(dim=1).indices != pseudo).float()
        u = self.uncertainty(p.detach(), answers) if self.uses("gugf") else 1.0
        picked = p.gather(1, pseudo.unsqueeze(1)).squeeze(1)
        return -(u * error * torch.log(picked + 1e-5)).sum() / (error.sum() + 1)

    def uncertainty(self, p: Tensor, q: Tensor) -> Tensor:
        """Return GUGF's u: u_i = 1 - sum_c p_c q_c, joined over the batch, shape (1, H, W)."""
        each = 1 - (p * q).sum(dim=1)
        joined = each.sum(dim=0) if self.reduction == "sum" else each.mean(dim=0)
        return 1 - self.weight.gugf + self.weight.gugf * joined.unsqueeze(0)
