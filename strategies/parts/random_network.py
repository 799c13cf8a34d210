"""Images seen through shallow random networks, which change how they look and not where things are.

CauAug's AnaAug (IEEE JBHI 2025): convolutions of width 3, 1, 3 and 1 with weights and biases from
U(0, 1), each followed by a leaky ReLU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 32  # channels within

Layers = Sequence[tuple[Tensor, Tensor]]
"""Weight and bias of every convolution."""


def drawn_layers(channels: int, dims: int, rng: torch.Generator) -> Layers:
    """Draw a network that gives images of as many channels, and dimensions, as it is shown."""
    layers = []
    for inputs, outputs, size in (
        (channels, WIDTH, 3), (WIDTH, WIDTH, 1), (WIDTH, WIDTH, 3), (WIDTH, channels, 1),
    ):  # fmt: skip
        weight = torch.rand(outputs, inputs, *(size,) * dims, generator=rng)
        layers.append((weight, torch.rand(outputs, generator=rng)))
    return layers


def convolved(images: Tensor, layers: Layers) -> Tensor:
    """Return what a random network makes of images in [0, 1]."""
    convolve = F.conv2d if images.ndim == 4 else F.conv3d
    for weight, bias in layers:
        padding = weight.shape[-1] // 2
        images = convolve(images, weight.to(images), bias.to(images), padding=padding)
        images = F.leaky_relu(images)
    return images


def seen_through(layers: Layers, images: Tensor) -> Tensor:
    """Return images (B, C, ...) seen through a network, with the moments they had.

    They are brought to [0, 1] before: below 0 the leaky ReLUs would wipe out contrast.
    """
    space = tuple(range(2, images.ndim))
    low, high = images.amin(dim=space, keepdim=True), images.amax(dim=space, keepdim=True)
    answer = convolved((images - low) / (high - low).clamp_min(1e-6), layers)
    std, mean = torch.std_mean(images, dim=space, keepdim=True)
    return standard(answer) * std + mean


def standard(images: Tensor) -> Tensor:
    """Return every channel of every image with mean 0 and standard deviation 1."""
    std, mean = torch.std_mean(images, dim=tuple(range(2, images.ndim)), keepdim=True)
    return (images - mean) / std.clamp_min(1e-6)


class Through(nn.Module):
    """A network that sees images through random networks; its logits are averaged over these.

    Args:
        network: what answers.
        every: the random networks.
    """

    def __init__(self, network: nn.Module, every: Sequence[Layers]) -> None:
        super().__init__()
        self.network = network
        self._names: list[list[tuple[str, str]]] = []
        for one, layers in enumerate(every):
            names = [(f"weight_{one}_{n}", f"bias_{one}_{n}") for n in range(len(layers))]
            for pair, arrays in zip(names, layers, strict=True):
                for name, array in zip(pair, arrays, strict=True):
                    self.register_buffer(name, array, persistent=False)
            self._names.append(names)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, K, ...)."""
        every = [[(getattr(self, w), getattr(self, b)) for w, b in one] for one in self._names]
        found = [self.network(seen_through(layers, images)) for layers in every]
        return torch.stack(found).mean(dim=0)
