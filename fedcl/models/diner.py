"""A field that looks its coordinates up in a table before it sees them."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.data.space import Room
from fedcl.errors import RunError
from fedcl.models.base import FieldModel, Outputs
from fedcl.settings import setting


@dataclass
class Diner(FieldModel):
    """DINER (Xie et al., CVPR 2023): a trainable row per grid point, then a small network.

    Rows begin as U(±1e-4). Coordinates that arrive later get new rows after the old ones; no
    row is ever renumbered. Between the points of the grid there is no value.

    Attributes:
        length: numbers per row.
        width: units per hidden layer.
        layers: hidden layers. The published code's `hidden_layers=2` makes three; two fit as well
            (docs/methods/how_it_was_measured.md).
        clamp: whether outputs are cut to [0, 1], where signal and masks lie, in training too; the
            published code cuts them to its own range.
        table_rate: factor on the table's learning rate.
    """

    length: int = setting(2, low=1)
    width: int = setting(64, low=1)
    layers: int = setting(2, low=1)
    clamp: bool = False
    table_rate: float = setting(20.0, above=0)

    @property
    def own(self) -> bool:
        """True: the table."""
        return True

    def build(self, room: Room) -> nn.Module:
        """Make the network; see `FieldModel.build`."""
        return LookedUp(self, room)

    def rate(self, parameter: str) -> float:
        """Return the factor on a parameter's learning rate."""
        return self.table_rate if parameter == "table" else 1.0


class LookedUp(nn.Module):
    """The network of `Diner`."""

    rows: Tensor
    reach: Tensor
    strides: Tensor

    def __init__(self, model: Diner, room: Room) -> None:
        super().__init__()
        self.space, self.clamp = room.space, model.clamp
        widths = [model.length, *[model.width] * model.layers]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, Outputs(model.width, room))
        seen = room.positions()
        rows = torch.full((room.space.size,), -1, dtype=torch.int32)
        rows[seen] = torch.arange(len(seen), dtype=torch.int32)
        self.register_buffer("rows", rows, persistent=False)
        shape = torch.tensor([room.space.shape[a] - 1 for a in room.space.axes])
        self.register_buffer("reach", shape / 2, persistent=False)
        self.register_buffer("strides", room.space.strides, persistent=False)
        self.table = nn.Parameter(torch.empty(len(seen), model.length).uniform_(-1e-4, 1e-4))

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return values, shape (N, outputs), at coordinates of the grid, shape (N, axes).

        Raises:
            RunError: in evaluation, a coordinate off the grid or one that was never seen.
        """
        if self.training:  # drawn from the grid itself
            index = ((coordinates + 1) * self.reach).round().long()
            rows = self.rows[(index * self.strides).sum(dim=1)]
        else:
            rows = self.rows[self.space.positions(coordinates)]
            if bool((rows < 0).any()):
                raise RunError("a coordinate that was never seen has no row in DINER's table")
        answer: Tensor = self.layers(F.embedding(rows, self.table))
        return answer.clamp(0, 1) if self.clamp else answer
