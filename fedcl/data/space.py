"""Where a neural field is known: the planned extent, and the parts that sites hold of it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcl.errors import RunError


@dataclass(frozen=True)
class Space:
    """A regular grid of T frames of D slices of H x W pixels, mapped to [-1, 1] per axis.

    The map is that of the whole planned extent and never changes, whatever of it has been
    seen: rescaling coordinates would move all that a field knows. An axis of length 1 has no
    coordinate. A position is a row-major index into `shape`.

    Attributes:
        shape: (T, D, H, W).
    """

    shape: tuple[int, int, int, int]

    @property
    def axes(self) -> list[int]:
        """The axes that have a coordinate."""
        return [axis for axis, size in enumerate(self.shape) if size > 1]

    @property
    def size(self) -> int:
        """Number of positions."""
        return math.prod(self.shape)

    def coordinates(self, positions: Tensor) -> Tensor:
        """Return the coordinates of positions.

        Args:
            positions: int64, shape (N,).

        Returns:
            float32, shape (N, number of `axes`).
        """
        index = torch.unravel_index(positions, self.shape)
        scaled = [index[a].double() * (2 / (self.shape[a] - 1)) - 1 for a in self.axes]
        return torch.stack(scaled, dim=1).float()

    def positions(self, coordinates: Tensor) -> Tensor:
        """Return the positions of coordinates on the grid, int64, shape (N,).

        Args:
            coordinates: shape (N, number of `axes`), as `coordinates` gives them.

        Raises:
            RunError: one lies beyond the planned extent or between the grid's points.
        """
        lengths = coordinates.new_tensor([self.shape[a] - 1 for a in self.axes])
        exact = (coordinates + 1) * (lengths / 2)
        index = exact.round()
        if bool(((index < 0) | (index > lengths)).any()):
            raise RunError(f"a coordinate lies outside of the planned extent {self.shape}")
        if bool(((exact - index).abs() > 0.01).any()):
            raise RunError("a coordinate lies between the points of the grid")
        return (index.long() * self.strides.to(index.device)).sum(dim=1)

    @property
    def strides(self) -> Tensor:
        """Positions between neighbours along each of the `axes`, int64."""
        return torch.tensor([math.prod(self.shape[a + 1 :]) for a in self.axes])


@dataclass(frozen=True)
class Part:
    """What one site holds of a space.

    Attributes:
        frames, slices: half-open ranges.
        outputs: which of a field's outputs it knows the values of.
    """

    frames: tuple[int, int]
    slices: tuple[int, int]
    outputs: tuple[int, ...]

    def positions(self, space: Space) -> Tensor:
        """Return its positions in order, int64."""
        grid = torch.arange(space.size).view(space.shape)
        return grid[slice(*self.frames), slice(*self.slices)].flatten()


@dataclass(frozen=True)
class Room:
    """What a field's network must have room for at some time.

    Attributes:
        space: the planned extent.
        parts: of the sites that have arrived, in order of arrival.
    """

    space: Space
    parts: tuple[Part, ...]

    @property
    def outputs(self) -> int:
        """Number of outputs: those known to a site that has arrived, and any before them."""
        return 1 + max(output for part in self.parts for output in part.outputs)

    @property
    def first(self) -> int:
        """Number of outputs that the first site knew."""
        return 1 + max(self.parts[0].outputs)

    def positions(self) -> Tensor:
        """Return the positions seen, each once, in the order in which they came."""
        every = torch.cat([part.positions(self.space) for part in self.parts])
        seen = torch.full((self.space.size,), len(every))
        seen.scatter_reduce_(0, every, torch.arange(len(every)), "amin")
        return every[seen[every] == torch.arange(len(every))]
