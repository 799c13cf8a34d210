"""CauAug: causality-adjusted augmentation, with the spectra of earlier hospitals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.arrays import Arrays
from fedcl.data.cases import Samples
from fedcl.learning.step import Step
from fedcl.learning.strategy import Form, Reporting
from fedcl.settings import setting
from strategies.parts.distillation import Archiving, drawn, soft_cross_entropy

WIDTH = 32  # channels of the random network


@dataclass
class CauAug(Archiving):
    """CauAug (IEEE JBHI 2025), the follow-up of TED.

    L = L_seg(p(A(x)), y) + kd * CE(q(x), p(A(x))) + dom * CE(q(F(x)), p(F(x)))

    - A (AnaAug): a shallow random network drawn anew for every batch.
    - F (DomAug): the phase of x with the mean Fourier magnitude of an earlier hospital, and
      that hospital's mean and standard deviation. Per hospital these are what the server
      keeps: one averaged spectrum and two numbers per channel, no image.

    Departs from the paper: x is brought to [0, 1] before A, as its authors' images are (below
    0 the leaky ReLUs would wipe out contrast), and A(x) to the mean and standard deviation
    of x, since scenarios normalise differently; F matches the stored moments as they are
    (the published code multiplies both by 10).

    Attributes:
        kd: weight of the term on x.
        dom: weight of the term on F(x).
        ana: whether A is used; without it A(x) = x.
    """

    kd: float = setting(0.1, low=0)
    dom: float = setting(0.1, low=0)
    ana: bool = True

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return all terms."""
        if self.ana:
            logits = step.probe(analytic(step.inputs, step.rng))
            step.observe()
        else:
            logits = step.outputs
        terms = {"seg": step.task.loss(logits, step.targets)}
        if step.teacher is not None:
            terms["kd"] = self.kd * soft_cross_entropy(logits, step.teacher_answers)
            if self.dom:
                old = restyle(step.inputs, step.memory, step.rng)
                terms["dom"] = self.dom * soft_cross_entropy(step.probe(old), step.ask_teacher(old))
        return terms

    def reporting(self, network: nn.Module, shape: Sequence[int]) -> Reporting:
        """See `Strategy.reporting`."""
        channels, height, width = shape
        forms = {
            "spectrum": Form((channels, height, width // 2 + 1), low=0.0, high=1e9),
            "mean": Form((channels,)),
            "std": Form((channels,), low=0.0),
        }
        return Reporting(forms, self.style)

    def style(self, network: nn.Module, samples: Samples) -> Arrays:
        """Return the mean magnitude (C, H, W // 2 + 1), mean (C,) and deviation (C,)."""
        images = samples.inputs
        record = {
            "spectrum": torch.fft.rfft2(images).abs().mean(dim=0),
            "mean": images.mean(dim=(0, 2, 3)),
            "std": images.std(dim=(0, 2, 3), correction=0),
        }
        return {name: value.cpu().numpy() for name, value in record.items()}


def analytic(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return A(x): 3x3, 1x1, 3x3 and 1x1 convolutions with U(0, 1) weights, leaky ReLUs."""
    channels = images.shape[1]
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    answer = (images - low) / (high - low).clamp_min(1e-6)
    for inputs, outputs, size in (
        (channels, WIDTH, 3), (WIDTH, WIDTH, 1), (WIDTH, WIDTH, 3), (WIDTH, channels, 1),
    ):  # fmt: skip
        weight = torch.rand(outputs, inputs, size, size, generator=rng).to(images.device)
        bias = torch.rand(outputs, generator=rng).to(images.device)
        answer = F.leaky_relu(F.conv2d(answer, weight, bias, padding=size // 2))
    std, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
    return standard(answer) * std + mean


def restyle(images: Tensor, archive: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
    """Return F(x): every image in the style of a hospital drawn from `archive`."""
    old = drawn(archive, len(images), rng)
    phase = torch.fft.rfft2(images).angle()
    answer = torch.fft.irfft2(torch.polar(old["spectrum"], phase), s=images.shape[-2:])
    return standard(answer) * old["std"][..., None, None] + old["mean"][..., None, None]


def standard(images: Tensor) -> Tensor:
    """Return every channel of every image with mean 0 and standard deviation 1."""
    std, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
    return (images - mean) / std.clamp_min(1e-6)
