"""Which values or colours of a mask are which class."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcl.errors import ConfigError

Array = np.ndarray[Any, Any]

IGNORED = 255
"""In label maps: a voxel that counts nowhere, neither in training nor in a score."""
ROUNDING = 1e-3
"""How far a stored value may lie from its label: some programs store 0.9999999 for 1."""


@dataclass(frozen=True)
class Labels:
    """The classes of a mask, background first.

    Attributes:
        values: of every class, the mask values or colours (24-bit numbers) that mean it.
        ignored: those that count nowhere.
        colours: whether they are colours.
        key: the setting that says so, for messages.
    """

    values: tuple[tuple[int, ...], ...]
    ignored: tuple[int, ...] = ()
    colours: bool = False
    key: str = "scenario.labels"

    @classmethod
    def of(cls, given: Sequence[Any], ignored: Sequence[Any], key: str) -> "Labels":
        """Read a setting: a value per class, or a list of several, or colours such as "#ff0000".

        Raises:
            ConfigError: it names no classes.
        """
        groups = [one if isinstance(one, list | tuple) else [one] for one in given]
        every = [value for group in groups for value in group] + list(ignored)
        other = "scenario.ignore" if key == "scenario.labels" else key
        colours = any(isinstance(value, str) for value in every)
        read = _colour if colours else _whole
        values = tuple(tuple(read(value, key) for value in group) for group in groups)
        left_out = tuple(read(value, other) for value in ignored)
        known = [value for group in (*values, left_out) for value in group]
        if not 2 <= len(values) <= IGNORED or not all(values) or len({*known}) < len(known):
            raise ConfigError(
                f"{key}: give 2 to {IGNORED} classes, each a mask value or a list of some, all "
                f"different, got {list(given)}"
                + (f" and ignored {list(ignored)}" if ignored else "")
            )
        return cls(values, left_out, colours, key)

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.values)

    def encode(self, mask: Array) -> Array:
        """Return the class of every voxel, uint8, or `IGNORED`.

        Args:
            mask: numbers, or with `colours` a last axis of red, green, blue.

        Raises:
            ValueError: it has values that are none of the classes; names them.
        """
        if self.colours:
            red, green, blue = np.moveaxis(mask.astype(np.int64), -1, 0)
            mask = red << 16 | green << 8 | blue
        with np.errstate(invalid="ignore"):  # infinite values are near nothing
            whole = np.rint(mask)
            near = np.abs(mask - whole) <= ROUNDING if mask.dtype.kind == "f" else True
        encoded, known = np.zeros(mask.shape, np.uint8), np.zeros(mask.shape, bool)
        for number, group in [*enumerate(self.values), (IGNORED, self.ignored)]:
            for value in group:
                here = (whole == value) & near
                encoded[here] = number
                known |= here
        wrong = np.unique(mask[~known]).tolist()
        if wrong:
            shown = ", ".join(map(self._shown, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
            kind = "colours" if self.colours else "values"
            there = [[*map(self._plain, group)] for group in self.values]
            listed = [group[0] if len(group) == 1 else group for group in there]
            raise ValueError(f"mask {kind} {shown} are not in {self.key} {listed}")
        return encoded

    def written(self, number: int) -> str:
        """Return the values that mean a class."""
        return " or ".join(map(self._shown, self.values[number]))

    def _shown(self, value: float) -> str:
        return f"#{int(value):06x}" if self.colours else f"{value:g}"

    def _plain(self, value: int) -> int | str:
        return self._shown(value) if self.colours else value


def _whole(value: Any, key: str) -> int:
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    if not whole or not abs(value) < 2**53 or value != int(value):
        raise ConfigError(f"{key}: mask values are whole numbers or colours, got {value!r}")
    return int(value)


def _colour(value: Any, key: str) -> int:
    if not isinstance(value, str) or not re.fullmatch("#[0-9a-fA-F]{6}", value):
        raise ConfigError(
            f"{key}: colours are written '#rrggbb', and all values must be if one is, got {value!r}"
        )
    return int(value[1:], 16)
