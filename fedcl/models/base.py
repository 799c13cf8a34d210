"""What every model offers: its settings, and the network they describe."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.data.space import Room
from fedcl.settings import setting


@dataclass(frozen=True)
class Layers:
    """The layers of a network whose outputs methods look at, each list from fine to coarse.

    Attributes:
        encoder: of the way down, of images with outputs of shape (B, F, h, w).
        bottleneck: the coarsest, likewise.
        decoder: of the way back to full size, likewise.
        aside: those that run in training alone, whose outputs `Model.terms` judges.
    """

    encoder: Sequence[nn.Module] = ()
    bottleneck: Sequence[nn.Module] = ()
    decoder: Sequence[nn.Module] = ()
    aside: Sequence[nn.Module] = ()


@dataclass
class Model:
    """A family of networks; one subclass per file, its fields are the settings.

    Attributes:
        weights: trained before, to begin with: a file (safetensors, or a torch checkpoint), or the
            folder of a run or of a MONAI bundle; null, and they are drawn from the seed.
        strict: whether all arrays must fit; otherwise those that do not begin anew.
        teaches: whether these weights also teach in the first stage.
        losses: names of the losses that `terms` gives.
    """

    losses: ClassVar[tuple[str, ...]] = ()

    weights: str | None = setting(None, travels=False)
    strict: bool = True
    teaches: bool = False

    def watched(self, network: nn.Module) -> Layers:
        """Return the layers of a network, as `build` made it, that methods may look at."""
        return Layers()

    @property
    def judged(self) -> bool:
        """Whether `terms` judges further outputs by the labels."""
        return False

    def terms(
        self, aside: Sequence[Tensor], inputs: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return named losses that belong to the model, whatever the strategy.

        Args:
            aside: the outputs of `Layers.aside`.
            inputs: what the network was shown.
            loss: the task's own, of any outputs; those of images may be smaller than the image.
        """
        return {}

    def rate(self, parameter: str) -> float:
        """Return the factor on the learning rate of a parameter, by its name."""
        return 1.0


def of_dims(layer: str, dims: int) -> Any:
    """Return the class of a layer in 2-D or 3-D, such as `nn.Conv3d` of "Conv"."""
    return getattr(nn, f"{layer}{dims}d")


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps, shape (B, F, ...), in another size, by interpolation that is linear per axis."""
    mode = "bilinear" if maps.ndim == 4 else "trilinear"
    return F.interpolate(maps, size=tuple(size), mode=mode)


class ImageModel(Model, ABC):
    """Networks from images to a map of logits, both 2-D, (B, C, H, W), or 3-D, (B, C, D, H, W).

    Their features are of as many dimensions.
    """

    @abstractmethod
    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network, with weights drawn from torch's global generator.

        Args:
            channels: of the input.
            classes: channels of the logits.
            dims: of an image, 2 or 3.
        """

    def definition(self, channels: int, classes: int, dims: int) -> dict[str, Any]:
        """Return how MONAI alone builds the network: `_target_`, its class, and the arguments.

        Empty where the network is not one of MONAI's as it is; arguments are those of `build`.
        """
        return {}

    def multiples(self, dims: int) -> Sequence[int]:
        """Return of what the size of an image must be a multiple, along each of its axes.

        Images of other sizes are padded before the network sees them.
        """
        return (1,) * dims


NETWORKS = "monai.networks.nets."
"""Where MONAI has its networks."""


def defined(definition: Mapping[str, Any]) -> nn.Module:
    """Make a network of MONAI's; see `ImageModel.definition`."""
    from monai.networks import nets  # takes seconds

    arguments = dict(definition)
    made: nn.Module = getattr(nets, arguments.pop("_target_").removeprefix(NETWORKS))(**arguments)
    return made


@dataclass
class MultiTask(ImageModel):
    """Networks that segment an image and, in training, rebuild it from the same features.

    Their own loss is reconstruction * MSE(rebuilt, image) (Biswas, arXiv 2406.03173).

    Attributes:
        reconstruction: weight of that loss.
    """

    losses = ("recon",)

    reconstruction: float = setting(0.2, low=0)

    def watched(self, network: nn.Module) -> Layers:
        """Add the decoder that rebuilds the image; a network calls it `rebuild`."""
        return replace(super().watched(network), aside=[network.get_submodule("rebuild")])

    def terms(
        self, aside: Sequence[Tensor], inputs: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return the weighted reconstruction loss."""
        return {"recon": self.reconstruction * F.mse_loss(aside[0], inputs)}


OWN = {"table", "latent"}
"""The arrays of fields' networks that are about one volume alone."""


class FieldModel(Model, ABC):
    """Networks from coordinates to values; see `fedcl.tasks.field`.

    Attributes:
        own: whether its networks have arrays about one volume alone (`OWN`).
    """

    @property
    @abstractmethod
    def own(self) -> bool:
        """See the class."""

    @abstractmethod
    def build(self, room: Room) -> nn.Module:
        """Make the network, with weights drawn from torch's global generator.

        Args:
            room: what it must have room for: inputs of shape (N, number of axes), outputs
                of shape (N, room.outputs).
        """


@dataclass
class LayeredField(FieldModel):
    """Fields of equal hidden layers, with a latent vector where sites have volumes of their own.

    Attributes:
        width: units per hidden layer.
        hidden: hidden layers after the first.
        latent: length of a vector learned per site and appended to every input; 0 for none.
    """

    width: int = setting(96, low=1, high=2**14)
    hidden: int = setting(3, low=0, high=64)
    latent: int = setting(0, low=0, high=2**14)

    @property
    def own(self) -> bool:
        """Whether there is a latent."""
        return self.latent > 0


class Outputs(nn.Linear):
    """The last layer of a field: one row per output, each reckoned by itself.

    A product with more rows would round otherwise: this way further outputs leave the earlier
    ones as they were, bit for bit. Outputs that come later begin as zero.

    Args:
        width: number of inputs.
        room: says how many outputs there are, and how many there were at first.
        bound: of the uniform initial weights; None for PyTorch's own.
    """

    def __init__(self, width: int, room: Room, bound: float | None = None) -> None:
        super().__init__(width, room.outputs)
        with torch.no_grad():
            if bound is not None:
                self.weight.uniform_(-bound, bound)
            self.weight[room.first :] = 0
            self.bias[room.first :] = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, shape (N, outputs), of inputs, shape (N, width)."""
        if len(self.weight) == 1:
            return super().forward(inputs)
        rows = zip(self.weight.split(1), self.bias.split(1), strict=True)
        return torch.cat([F.linear(inputs, *row) for row in rows], dim=1)


def with_latent(inputs: Tensor, latent: Tensor | None) -> Tensor:
    """Return inputs, shape (N, A), with the same latent vector, shape (L,), after each."""
    if latent is None:
        return inputs
    return torch.cat([inputs, latent.expand(len(inputs), -1)], dim=1)
