"""Where the values of a field come from: place, time and scale of the file it was learned from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from fedcl.data.grid import Array

NUMBERS = 25
LARGEST = 1e16


@dataclass(frozen=True)
class Source:
    """What it takes to write a field as its source was.

    Attributes:
        affine: from (column, row, slice) of the planned grid to mm (RAS), shape (4, 4).
        seconds: between frames; 0 where the file does not say.
        axes: the directions of the file's own indices, such as LPS; volumes are written so.
        low, high: the source's intensities that became 0 and 1; what lay beyond was clipped.
    """

    affine: Array
    seconds: float = 0.0
    low: float = 0.0
    high: float = 1.0
    axes: str = "RAS"

    def numbers(self) -> list[float]:
        """Return it as numbers, as it is sent and stored."""
        place = [*self.affine.flatten(), *nib.orientations.axcodes2ornt(self.axes).flatten()]
        return [*map(float, place), self.seconds, self.low, self.high]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Source | None":
        """Read `numbers`; None where there are none.

        Raises:
            ValueError: they are no source.
        """
        if not numbers:
            return None
        if len(numbers) != NUMBERS or not all(abs(float(n)) <= LARGEST for n in numbers):
            raise ValueError("numbers that place no volume")
        affine = np.array(numbers[:16], float).reshape(4, 4)
        turn = np.array(numbers[16:22], float).reshape(3, 2)
        seconds, low, high = map(float, numbers[22:])
        if sorted(turn[:, 0]) != [0, 1, 2] or set(np.abs(turn[:, 1])) != {1}:
            raise ValueError("axes that are none")
        if affine[3].tolist() != [0, 0, 0, 1] or not abs(np.linalg.det(affine)) > 0:
            raise ValueError("an affine matrix that is none")
        if not (seconds >= 0 and math.isfinite(seconds) and low < high):
            raise ValueError("a scale or a time that is none")
        axes = "".join(nib.orientations.ornt2axcodes(turn))
        return cls(affine, seconds, low, high, axes)
