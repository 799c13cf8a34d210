"""Which channels of an image networks are shown."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcl.errors import ConfigError

Array = np.ndarray[Any, Any]

LUMINANCE = "luminance"
"""The setting by which colours become their brightness."""
MOST = 64
RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Shares of the colours in luminance (ITU-R 601)."""


@dataclass(frozen=True)
class Channels:
    """A choice of channels.

    Attributes:
        count: how many networks are shown.
        chosen: which of an image's, counted from 0; empty for all, of which there must be `count`.
        luminance: whether three colours become one channel, their brightness.
    """

    count: int = 1
    chosen: tuple[int, ...] = ()
    luminance: bool = False

    @classmethod
    def of(cls, given: Any) -> "Channels":
        """Read the setting `scenario.channels`: a number, a list of channels or "luminance".

        Raises:
            ConfigError: it is none of these.
        """
        if given == LUMINANCE:
            return cls(luminance=True)
        if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MOST:
            return cls(given)
        listed = given if isinstance(given, list | tuple) else []
        known = [n for n in listed if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
        if not known or len({*known}) < len(listed) or len(listed) > MOST:
            raise ConfigError(
                "scenario.channels: give how many channels the images have, a list of those to "
                f"take, counted from 0, or {LUMINANCE}, got {given!r}"
            )
        return cls(len(known), tuple(known))

    def take(self, image: Array) -> Array:
        """Return what networks are shown of an image.

        Args:
            image: the channels are its first axis.

        Raises:
            ValueError: it has others than are asked for; names the key.
        """
        if self.count == 1 and not self.chosen and len(image) == 3 and (image == image[:1]).all():
            image = image[:1]  # colours that are equal are a grey
        there = len(image)
        if self.luminance and there == 3:
            weights = np.array([RED, GREEN, BLUE])
            return np.tensordot(weights, image.astype(np.float64), 1)[None]
        if self.chosen:
            if max(self.chosen) >= there:
                raise ValueError(
                    f"scenario.channels asks for channel {max(self.chosen)}, counted from 0, but "
                    f"there {'is one' if there == 1 else f'are {there}'}"
                )
            return image[list(self.chosen)]
        if there == 1 and self.count == 3:  # a grey picture among coloured ones
            return np.repeat(image, 3, axis=0)
        if there != self.count:
            asked = f"scenario.channels={LUMINANCE}" if self.luminance else f"{self.count}"
            colours = f", {LUMINANCE} for the brightness of colours" if there == 3 else ""
            raise ValueError(
                f"{there} channels, scenario.channels asks for {asked}; store those that are "
                f"meant, or have a run with scenario.channels={there} for all of them, [0] for the "
                f"first{colours}"
            )
        return image
