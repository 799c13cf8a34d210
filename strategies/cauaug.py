"""CauAug: causality-adjusted augmentation, with the spectra of earlier hospitals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.arrays import Arrays
from fedcl.data.samples import Samples
from fedcl.learning.step import Step
from fedcl.learning.strategy import Form, Reporting
from fedcl.settings import setting
from strategies.parts.distillation import Archiving, drawn, soft_cross_entropy

WIDTH = 32  # channels of the random network
AT_ONCE = 16  # images whose spectra are summed at a time


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

    losses = ("kd", "dom")

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
        channels, *lengths, width = shape
        forms = {
            "spectrum": Form((channels, *lengths, width // 2 + 1), low=0.0, high=1e9),
            "mean": Form((channels,)),
            "std": Form((channels,), low=0.0),
        }
        return Reporting(forms, self.style)

    def style(self, network: nn.Module, samples: Samples) -> Arrays:
        """Return the mean magnitude (C, ..., W // 2 + 1), mean (C,) and deviation (C,)."""
        spectrum, first, second = (torch.zeros(()) for _ in range(3))
        for part in samples.parts(AT_ONCE):
            images, space = part.inputs, tuple(range(2, part.inputs.ndim))
            spectrum = spectrum + torch.fft.rfftn(images, dim=space).abs().sum(dim=0).cpu()
            values = images.double()
            first = first + values.mean(dim=space).sum(dim=0).cpu()
            second = second + values.square().mean(dim=space).sum(dim=0).cpu()
        count = len(samples)
        mean = first / count
        std = (second / count - mean.square()).clamp_min(0).sqrt()
        record = {"spectrum": spectrum / count, "mean": mean, "std": std}
        return {name: value.float().numpy() for name, value in record.items()}


def analytic(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return A(x): 3x3, 1x1, 3x3 and 1x1 convolutions with U(0, 1) weights, leaky ReLUs."""
    channels, space = images.shape[1], tuple(range(2, images.ndim))
    low, high = images.amin(dim=space, keepdim=True), images.amax(dim=space, keepdim=True)
    convolve = F.conv2d if len(space) == 2 else F.conv3d
    answer = (images - low) / (high - low).clamp_min(1e-6)
    for inputs, outputs, size in (
        (channels, WIDTH, 3), (WIDTH, WIDTH, 1), (WIDTH, WIDTH, 3), (WIDTH, channels, 1),
    ):  # fmt: skip
        weight = torch.rand(outputs, inputs, *(size,) * len(space), generator=rng).to(images.device)
        bias = torch.rand(outputs, generator=rng).to(images.device)
        answer = F.leaky_relu(convolve(answer, weight, bias, padding=size // 2))
    std, mean = torch.std_mean(images, dim=space, keepdim=True)
    return standard(answer) * std + mean


def restyle(images: Tensor, archive: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
    """Return F(x): every image in the style of a hospital drawn from `archive`."""
    old = drawn(archive, len(images), rng)
    space = tuple(range(2, images.ndim))
    phase = torch.fft.rfftn(images, dim=space).angle()
    answer = torch.fft.irfftn(torch.polar(old["spectrum"], phase), images.shape[2:], dim=space)
    std, mean = (old[name].view(*old[name].shape, *(1,) * len(space)) for name in ("std", "mean"))
    return standard(answer) * std + mean


def standard(images: Tensor) -> Tensor:
    """Return every channel of every image with mean 0 and standard deviation 1."""
    std, mean = torch.std_mean(images, dim=tuple(range(2, images.ndim)), keepdim=True)
    return (images - mean) / std.clamp_min(1e-6)
