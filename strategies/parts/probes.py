"""Images that a network takes for one class everywhere, found by descent."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fedcl.settings import setting


@dataclass
class Probes:
    """The probe images of PCD, optimised on the server at the end of a stage."""

    count: int = setting(8, low=1)
    steps: int = setting(200, low=1)
    lr: float = setting(0.001, above=0)


def optimised(teacher: nn.Module, target: int, images: Tensor, settings: Probes) -> np.ndarray:
    """Return probe images that `teacher` takes for class `target` everywhere."""
    images.requires_grad_()
    optimiser = torch.optim.Adam([images], lr=settings.lr)
    schedule = ReduceLROnPlateau(optimiser)
    for _ in range(settings.steps):
        likely = torch.softmax(teacher(images), dim=1)[:, target].mean()
        axes = range(2, images.ndim)
        rough = torch.stack([images.diff(dim=axis).abs().mean() for axis in axes]).sum()
        loss = rough - likely
        if loss < -0.99:
            break
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([images], 1.0)
        optimiser.step()
        schedule.step(loss.item())
    return images.detach().numpy()
