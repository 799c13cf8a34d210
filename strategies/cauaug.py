"""CauAug: causality-adjusted augmentation, with the spectra of earlier hospitals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedcl.arrays import Arrays
from fedcl.data.samples import Samples
from fedcl.learning.step import Step
from fedcl.learning.strategy import Form, Reporting
from fedcl.seeding import torch_rng
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from strategies.parts.distillation import Archiving, drawn, soft_cross_entropy
from strategies.parts.random_network import Through, drawn_layers, seen_through, standard


@dataclass
class CauAug(Archiving):
    """CauAug (IEEE JBHI 2025), the follow-up of TED.

    L = L_seg(p(A(x)), y) + kd * CE(q(x), p(A(x))) + dom * CE(q(F(x)), p(F(x)))

    - A (AnaAug): a shallow random network, anew for every batch; tests see images through one, too.
    - F (DomAug): the phase of x with the mean Fourier magnitude of an earlier hospital, and
      that hospital's mean and standard deviation: all that the server keeps, no image.

    Departs from the published code: x is brought to [0, 1] before A, as its authors' images
    are, and A(x) to the mean and standard deviation of x, since scenarios normalise
    differently; in tests A is the same for all images, so that an answer depends on nothing
    but the image and the weights; F matches the stored moments as they are, not times 10.

    Attributes:
        kd: weight of the term on x.
        dom: weight of the term on F(x).
        ana: whether A is used in training; without it A(x) = x.
        test_networks: through how many test images are seen, logits averaged; 0: as they are.
        deviation: of a hospital: the mean of those of its "images" (as published), or that of
            all its pixels, "pooled".
        domain: whether a hospital is drawn per "batch" (as published) or for every "image".
    """

    losses = ("kd", "dom")
    leaves = "of its images, per channel, mean Fourier magnitude, mean and deviation"

    kd: float = setting(0.3, low=0)
    dom: float = setting(0.3, low=0)
    ana: bool = True
    test_networks: int = setting(1, low=0, high=64)
    deviation: str = setting("images", choices=("images", "pooled"))
    domain: str = setting("batch", choices=("batch", "image"))

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Return all terms."""
        if self.ana:
            images = step.inputs
            layers = drawn_layers(images.shape[1], images.ndim - 2, step.rng)
            seen = seen_through(layers, images)
            if self.test_networks:
                logits = step.student(seen)
            else:  # what running statistics describe is what tests show
                logits = step.probe(seen)
                step.observe()
        else:
            logits = step.outputs
        terms = {"seg": step.task.loss(logits, step.targets)}
        if step.teacher is not None:
            terms["kd"] = self.kd * soft_cross_entropy(logits, step.teacher_answers)
            if self.dom:
                count = 1 if self.domain == "batch" else len(step.inputs)
                old = restyle(step.inputs, drawn(step.memory, count, step.rng))
                terms["dom"] = self.dom * soft_cross_entropy(step.probe(old), step.ask_teacher(old))
        return terms

    def answering(self, network: nn.Module, task: Segmentation) -> nn.Module:
        """Have tests see images through random networks, the same for all of them."""
        if not self.ana or not self.test_networks:
            return network
        rngs = (torch_rng("cauaug", number) for number in range(self.test_networks))
        return Through(network, [drawn_layers(task.channels, task.dims, rng) for rng in rngs])

    def reporting(
        self, network: nn.Module, task: Segmentation, shape: Sequence[int]
    ) -> Reporting | None:
        """See `Strategy.reporting`."""
        channels, *lengths, width = shape
        forms = {
            "spectrum": Form((channels, *lengths, width // 2 + 1), low=0.0, high=1e9),
            "mean": Form((channels,)),
            "std": Form((channels,), low=0.0),
        }
        return Reporting(forms, self.style) if self.dom else None

    def style(self, network: nn.Module, samples: Samples) -> Arrays:
        """Return the mean magnitude (C, ..., W // 2 + 1), mean (C,) and deviation (C,)."""
        spectrum, first, second, own = (torch.zeros(()) for _ in range(4))
        for part in samples.parts():
            images, space = part.inputs, tuple(range(2, part.inputs.ndim))
            spectrum = spectrum + torch.fft.rfftn(images, dim=space).abs().sum(dim=0).cpu()
            values = images.double()
            first = first + values.mean(dim=space).sum(dim=0).cpu()
            second = second + values.square().mean(dim=space).sum(dim=0).cpu()
            own = own + values.std(dim=space, correction=0).sum(dim=0).cpu()
        mean, count = first / len(samples), len(samples)
        pooled = (second / count - mean.square()).clamp_min(0).sqrt()
        std = pooled if self.deviation == "pooled" else own / count
        record = {"spectrum": spectrum / count, "mean": mean, "std": std}
        return {name: value.float().numpy() for name, value in record.items()}


def restyle(images: Tensor, old: Mapping[str, Tensor]) -> Tensor:
    """Return F(x): images in the styles of `old`, records of one hospital or one per image."""
    space = tuple(range(2, images.ndim))
    phase = torch.fft.rfftn(images, dim=space).angle()
    answer = torch.fft.irfftn(torch.polar(old["spectrum"], phase), images.shape[2:], dim=space)
    varied = images.amax(space, True) > images.amin(space, True)  # others have no phase
    std, mean = (old[name].view(*old[name].shape, *(1,) * len(space)) for name in ("std", "mean"))
    return torch.where(varied, standard(answer), 0.0) * std + mean
