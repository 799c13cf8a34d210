"""The cases of one site, and what is drawn from them in training."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedcl.data.notes import Note
from fedcl.errors import DataError
from fedcl.seeding import Key, numpy_rng

if TYPE_CHECKING:  # nibabel comes with it
    from fedcl.data.source import Source


@dataclass(frozen=True)
class Case:
    """One patient: a stack of 2-D slices with their label maps.

    Attributes:
        name: patient id, unique within the site.
        images: float32, shape (D, C, H, W), intensities normalised.
        labels: uint8, shape (D, H, W), values 0 (background) .. classes - 1, or `IGNORED`.
        spacing: distance between voxels (slice, row, column) of the images as they came, in mm
            or, where the files do not say, in pixels.
        own: the label maps as they came, one per file, uint8, shape (d, rows, columns), the d
            adding up to D. Scores are taken on them, file by file: single pictures of a patient
            are no volume. Empty where `labels` are one volume as it came.
        plane: of the slices, for a person who checks it.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    own: tuple[torch.Tensor, ...] = ()
    plane: str = ""

    @property
    def truth(self) -> tuple[torch.Tensor, ...]:
        """The label maps that scores are taken on."""
        return self.own or (self.labels,)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return images, labels and the label maps as they came."""
        return self.images, self.labels, *self.own


class Cases(list[Case]):
    """The patients of a site, and what to know of how they were read."""

    def __init__(self, cases: Iterable[Case], notes: Sequence[Note] = ()) -> None:
        super().__init__(cases)
        self.notes = tuple(notes)


@dataclass(frozen=True)
class Samples:
    """What can be drawn in training, stacked and on one device; see the scenario's task.

    Attributes:
        inputs: what a network is shown, shape (N, ...).
        targets: what it should answer, shape (N, ...).
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def joined(cls, parts: Sequence["Samples"]) -> "Samples":
        """Join `parts` in order."""
        if len(parts) == 1:
            return parts[0]
        inputs, targets = zip(*((part.inputs, part.targets) for part in parts), strict=True)
        return cls(torch.cat(inputs), torch.cat(targets))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def __getitem__(self, index: torch.Tensor) -> "Samples":
        """Return the samples of these indices."""
        return Samples(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class SiteData:
    """The cases of one site: to train on, to validate on and to test.

    Attributes:
        train, val, test: the cases.
        notes: what was left out, guessed or changed in reading them.
        source: of a field, place and scale of what it is learned from, where that is known.
    """

    train: tuple[Any, ...]
    val: tuple[Any, ...]
    test: tuple[Any, ...]
    notes: tuple[Note, ...] = ()
    source: "Source | None" = None

    def limited(self, fraction: float, *keys: Key) -> "SiteData":
        """Return it with a share of the training cases, at least one, in the same order.

        Args:
            fraction: of the cases; those of a smaller one are among those of a larger one.
            keys: which they are is drawn from these.
        """
        count = max(1, round(fraction * len(self.train)))
        order = numpy_rng("fraction", *keys).permutation(len(self.train))
        return replace(self, train=tuple(self.train[i] for i in sorted(order[:count])))

    def digest(self) -> str:
        """Return the SHA-256 of every name and tensor, split by split."""
        sha = hashlib.sha256()
        for split in (self.train, self.val, self.test):
            for case in split:
                sha.update(case.name.encode())
                for tensor in case.tensors():
                    sha.update(np.ascontiguousarray(tensor.numpy()).data)
        return sha.hexdigest()


def vanished(cases: Sequence[Case], classes: int) -> list[Note]:
    """Return which classes of which cases are lost on the network's grid, class by class."""
    notes = []
    for number in range(1, classes):
        lost = tuple(
            case.name
            for case in cases
            if case.own
            and any((label == number).any() for label in case.own)
            and not (case.labels == number).any()
        )
        if lost:
            what = f"class {number} is lost at scenario.size in cases that have it"
            notes.append(Note(what, lost))
    return notes


def split(cases: Sequence[Case], site: str, val: float, test: float, seed: int) -> SiteData:
    """Split patients at random into train, validation and test.

    Each part keeps the order of `cases` and gets at least one patient; `val` and `test`
    are shares of all patients, rounded.

    Raises:
        DataError: no patient would be left for training.
    """
    total = len(cases)
    n_val, n_test = max(1, round(val * total)), max(1, round(test * total))
    if total - n_val - n_test < 1:
        raise DataError(
            f"site {site}: {total} patients are too few to split into train, val and test "
            f"(val={val}, test={test}); at least 3 are needed"
        )
    order = numpy_rng("split", seed, site).permutation(total)
    parts = (order[n_val + n_test :], order[:n_val], order[n_val : n_val + n_test])
    train, validation, testing = (tuple(cases[i] for i in sorted(part)) for part in parts)
    return SiteData(train, validation, testing)
