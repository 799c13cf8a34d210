"""Parts of images: cut about the centre or drawn at random, padded where they reach beyond."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedcl.data.framing import centred, padded
from fedcl.data.samples import Sample, Samples
from fedcl.data.scans import Box, Scan


@dataclass(frozen=True)
class Item:
    """A sample's source.

    Attributes:
        scan: the image.
        slice: one of its slices; None for all of it.
        background: what is to be learned where its labels are 0.
    """

    scan: Scan
    slice: int | None = None
    background: int = 0


@dataclass(frozen=True)
class Crops(Samples):
    """A part of every slice or volume of some scans.

    Attributes:
        items: the slices or volumes.
        size: of a part, along the axes of a sample.
        where: where it is trained on.
        random: whether a part is drawn anywhere in the image; otherwise it is about the centre.
        foreground: the share of random parts that are centred on a voxel with a label.
    """

    items: Sequence[Item]
    size: tuple[int, ...]
    where: torch.device
    random: bool = False
    foreground: float = 0.5

    @property
    def fixed(self) -> bool:
        """See `Samples.fixed`."""
        return not self.random

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Samples.shape`."""
        return (self.items[0].scan.shape[0], *self.size)

    @property
    def device(self) -> torch.device:
        """See `Samples.device`."""
        return self.where

    def __len__(self) -> int:
        """See `Samples.__len__`."""
        return len(self.items)

    def drawn(self, number: int, rng: np.random.Generator) -> Sample:
        """Return image (C, *size) and classes (1, *size); see `Samples.drawn`."""
        item = self.items[number]
        there = item.scan.shape[1:] if item.slice is None else item.scan.shape[2:]
        starts = self._starts(item, there, rng) if self.random else centred(there, self.size)
        spans = [
            slice(max(start, 0), min(start + size, length))
            for start, size, length in zip(starts, self.size, there, strict=True)
        ]
        box: Box = (
            (spans[0], spans[1], spans[2])
            if item.slice is None
            else (slice(item.slice, item.slice + 1), spans[0], spans[1])
        )
        image, labels = item.scan.content.image(box), item.scan.content.labels(box)[None]
        if item.slice is not None:
            image, labels = image[:, 0], labels[:, 0]
        before = [max(-start, 0) for start in starts]
        wanted = labels.long()
        if item.background:
            wanted = wanted.where(wanted != 0, item.background)
        return padded(image, before, self.size, item.scan.lowest), padded(
            wanted, before, self.size, (0,)
        )

    def _starts(self, item: Item, there: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Return where a part drawn at random begins along each axis; below 0 in the padding."""
        centre = None
        if rng.random() < self.foreground:
            places = item.scan.content.places()
            if item.slice is not None:
                places = places[places[:, 1] == item.slice]
            if len(places):
                classes = places[:, 0].unique()
                chosen = classes[int(rng.integers(len(classes)))]
                of_class = places[places[:, 0] == chosen]
                centre = of_class[int(rng.integers(len(of_class)))][-len(there) :].tolist()
        starts = []
        for axis, (size, length) in enumerate(zip(self.size, there, strict=True)):
            if length <= size:
                starts.append(centred([length], [size])[0])
            elif centre is None:
                starts.append(int(rng.integers(length - size + 1)))
            else:
                starts.append(min(max(centre[axis] - size // 2, 0), length - size))
        return starts
