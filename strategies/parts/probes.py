"""Images that a network takes for one class everywhere, found by descent."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fedcl.settings import setting


@dataclass
class Probes:
    """The probe images of PCD, optimised on the server at the end of a stage.

    Attributes:
        count: per foreground class.
        steps: of their optimisation, at most.
        lr: its learning rate.
        patience: steps without progress until that falls to a tenth.
        variation: of neighbouring pixels that is to be small: mean "squared" difference (as
            published) or mean "absolute" difference.
    """

    count: int = setting(8, low=1)
    steps: int = setting(200, low=1)
    lr: float = setting(0.001, above=0)
    patience: int = setting(5, low=0)
    variation: str = setting("squared", choices=("squared", "absolute"))


def optimised(teacher: nn.Module, target: int, images: Tensor, settings: Probes) -> np.ndarray:
    """Return probe images that `teacher` takes for class `target` everywhere."""
    images.requires_grad_()
    optimiser = torch.optim.Adam([images], lr=settings.lr)
    schedule = ReduceLROnPlateau(optimiser, patience=settings.patience)
    for _ in range(settings.steps):
        likely = torch.softmax(teacher(images), dim=1)[:, target].mean()
        loss = rough(images, settings.variation) - likely
        if loss < -0.99:
            break
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([images], 1.0)
        optimiser.step()
        schedule.step(loss.item())
    return images.detach().numpy()


def rough(images: Tensor, variation: str) -> Tensor:
    """Return the total variation of images (B, C, ...): means over neighbours, summed over axes."""
    steps = [images.diff(dim=axis) for axis in range(2, images.ndim)]
    parts = [one.square() if variation == "squared" else one.abs() for one in steps]
    return torch.stack([part.mean() for part in parts]).sum()
