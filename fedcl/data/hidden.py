"""Scans whose masks are taken as if they did not mark some classes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedcl.data.scans import WHOLE, Box, Content, Counts, InMemory, Scan


@dataclass(frozen=True)
class Less:
    """The arrays of a scan, some classes of its masks being background; see `Content`.

    Attributes:
        content: the arrays as they are.
        classes: that are background.
    """

    content: Content
    classes: tuple[int, ...]

    def image(self, box: Box = WHOLE) -> Tensor:
        """See `Content.image`."""
        return self.content.image(box)

    def labels(self, box: Box = WHOLE) -> Tensor:
        """See `Content.labels`."""
        return _cleared(self.content.labels(box), self.classes)

    def truth(self) -> Tensor:
        """See `Content.truth`."""
        return _cleared(self.content.truth(), self.classes)

    def places(self) -> Tensor:
        """See `Content.places`."""
        places = self.content.places()
        return places[~_among(places[:, 0], self.classes)]


def hidden(scan: Scan, classes: Sequence[int]) -> Scan:
    """Return a scan whose masks do not mark some classes: their voxels are background."""
    if not any(counts[number] for counts in (scan.counts, scan.kept) for number in classes):
        return scan
    less = Less(scan.content, tuple(classes))
    content: Content = less
    if isinstance(scan.content, InMemory):
        content = InMemory(less.image(), less.labels(), less.truth())
    told = f"{scan.digest} without {sorted(classes)}"
    return replace(
        scan,
        counts=_less(scan.counts, classes),
        kept=_less(scan.kept, classes),
        digest=hashlib.sha256(told.encode()).hexdigest(),
        content=content,
    )


def _cleared(labels: Tensor, classes: Sequence[int]) -> Tensor:
    return labels.masked_fill(_among(labels, classes), 0)


def _among(values: Tensor, classes: Sequence[int]) -> Tensor:
    return torch.isin(values, torch.tensor(classes, dtype=values.dtype))


def _less(counts: Counts, classes: Sequence[int]) -> Counts:
    """Return counts in which some classes are background."""
    there = [counts[0] + sum(counts[number] for number in classes)]
    there += [0 if n in classes else counts[n] for n in range(1, len(counts.classes))]
    while there and not there[-1]:
        there.pop()
    return replace(counts, classes=tuple(there))
