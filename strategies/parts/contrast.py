"""Two networks' feature maps of the same images, compared."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.errors import ConfigError
from fedcl.learning.step import Activations
from fedcl.models.base import of_dims, resized

SCALES = ("encoder", "bottleneck", "decoder")
"""Where maps are compared; attributes of `Activations`."""


class Projections(nn.Module):
    """A 1 x 1 convolution per level: from the teacher's channels to the student's.

    Args:
        scales: some of `SCALES`.
        student: what its network makes of a sample.
        teacher: likewise.

    Raises:
        ConfigError: the teacher has fewer levels at a scale, or the student none.
    """

    def __init__(self, scales: Sequence[str], student: Activations, teacher: Activations) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        for scale in scales:
            ours, theirs = getattr(student, scale), getattr(teacher, scale)
            if not ours or len(theirs) < len(ours):
                raise ConfigError(
                    f"strategy.terms: {scale} needs at least one {scale} level of the student's "
                    f"network and as many of the teacher's, which have {len(ours)} and "
                    f"{len(theirs)}; leave the term out, or change the models or who teaches "
                    "(strategy.teacher.model)"
                )
            self.convolutions[scale] = nn.ModuleList(
                of_dims("Conv", own.ndim - 2)(other.shape[1], own.shape[1], 1, bias=False)
                for own, other in zip(ours, theirs, strict=False)
            )

    def forward(
        self, scale: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the student's map of every level, and the teacher's in the same shape.

        Args:
            scale: which.
            ours: the student's maps, shapes (B, F, ...).
            theirs: the teacher's, at least as many, shapes (B, G, ...).
        """
        layers = self.convolutions[scale]
        assert isinstance(layers, nn.ModuleList)
        return [
            (own, resized(layer(other), own.shape[2:]))
            for layer, own, other in zip(layers, ours, theirs, strict=False)
        ]


def contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE (van den Oord et al., 2018) of a batch, a scalar.

    Args:
        student: feature maps, shape (B, F, ...), at least two images.
        teacher: of the same images, same shape.
        temperature: divides the cosines.
    """
    with torch.autocast(student.device.type, enabled=False):  # sums over a map need float32
        ours, theirs = (F.normalize(maps.float().flatten(1), dim=1) for maps in (student, teacher))
        same = torch.arange(len(ours), device=ours.device)
        return F.cross_entropy(ours @ theirs.T / temperature, same)


def softened(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(q_T || p_T), mean over batch and pixels (Hinton et al., 2015).

    Args:
        logits: the student's, shape (B, K, ...).
        taught: the teacher's class probabilities, same shape; softened, they are
            q_T ~ q^(1/T).
        temperature: T.
    """
    p = torch.log_softmax(logits.float() / temperature, dim=1)
    q = torch.log_softmax(torch.log(taught.float().clamp_min(1e-12)) / temperature, dim=1)
    each = F.kl_div(p, q, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * each.mean()
