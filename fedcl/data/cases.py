"""The cases of one site, and how they are split."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fedcl.data.notes import Note
from fedcl.data.scans import Scan
from fedcl.errors import DataError
from fedcl.seeding import Key, numpy_rng

if TYPE_CHECKING:  # nibabel comes with it
    from fedcl.data.source import Source


@dataclass(frozen=True)
class Case:
    """One patient.

    Attributes:
        name: patient id, unique within the site.
        scans: the images. Scores are taken one by one and averaged: single pictures of a patient
            are no volume.
        part: "train", "val" or "test", where the data say so; empty, and it is drawn.
        unmarked: classes that its masks do not mark: what is background in them may be one of
            these.
    """

    name: str
    scans: tuple[Scan, ...]
    part: str = ""
    unmarked: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        image: torch.Tensor,
        labels: torch.Tensor,
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> "Case":
        """Return a patient of one image that is in memory; arguments as of `Scan.of`.

        Raises:
            DataError: see `Scan.of`; names the case.
        """
        try:
            return cls(name, (Scan.of(image, labels, spacing),))
        except DataError as error:
            raise DataError(f"case {name}: {error}") from None

    @property
    def images(self) -> torch.Tensor:
        """All slices of all scans, float32, shape (D, C, H, W); they must be of one size."""
        return torch.cat([scan.content.image().movedim(1, 0) for scan in self.scans])

    @property
    def labels(self) -> torch.Tensor:
        """The labels of `images`, uint8, shape (D, H, W)."""
        return torch.cat([scan.content.labels() for scan in self.scans])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The distance between voxels (slice, row, column) of the first scan as it came."""
        return self.scans[0].spacing

    @property
    def marked(self) -> set[str]:
        """The digests of the images whose masks mark anything: empty slices look alike."""
        return {scan.digest for scan in self.scans if any(scan.counts.classes[1:])}

    def digests(self) -> Iterable[str]:
        """Return what tells it from others: its name and the digests of its arrays."""
        return self.name, *(scan.digest for scan in self.scans)


class Cases(list[Case]):
    """The patients of a site, and what to know of how they were read."""

    def __init__(self, cases: Iterable[Case], notes: Sequence[Note] = ()) -> None:
        super().__init__(cases)
        self.notes = tuple(notes)


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
        """Return the SHA-256 of what tells its cases from others, and of how they are split."""
        parts = (self.train, self.val, self.test)
        told = [[[*case.digests()] for case in part] for part in parts]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def vanished(cases: Sequence[Case], classes: int) -> list[Note]:
    """Return which classes of which cases are lost on the network's grid, class by class."""
    notes = []
    for number in range(1, classes):
        lost = tuple(
            case.name
            for case in cases
            if any(scan.counts[number] for scan in case.scans)
            and not any(scan.kept[number] for scan in case.scans)
        )
        if lost:
            what = f"class {number} is lost by resampling in cases that have it"
            notes.append(Note(what, lost))
    return notes


def one_by_one(cases: Sequence[Case]) -> list[Note]:
    """Return whose single pictures may count as cases of their own, by what names have in common.

    Such names differ in their last number alone, in several groups: "p01-3", "p01-4", "p02-1".
    """
    if any(len(case.scans) > 1 or case.scans[0].shape[1] > 1 for case in cases):
        return []
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(re.sub(r"\D*\d+\D*$", "", case.name), []).append(case.name)
    if len(groups) < 2 or 2 * len(groups) > len(cases):
        return []
    what = (
        "cases of one picture each, whose names differ in the last number alone; if they are "
        "slices of one patient, tests are of patients that were trained on: scenario.patient "
        "says which picture is whose"
    )
    return [Note(what, tuple(names[0] for names in groups.values() if len(names) > 1))]


def alike(marked: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Return the names of cases that have an image and its mask in common, group by group.

    Args:
        marked: `Case.marked` of every case, by the name that it is told by.
    """
    known: dict[str, list[str]] = {}
    for name, digests in marked.items():
        for digest in digests:
            known.setdefault(digest, []).append(name)
    return sorted({tuple(names) for names in known.values() if len(names) > 1})


def split(cases: Sequence[Case], site: str, val: float, test: float, seed: int) -> SiteData:
    """Split patients at random into train, validation and test.

    Each part keeps the order of `cases` and gets at least one patient; `val` and `test`
    are shares of all patients, rounded. Patients whose part is given stay in it, and those drawn
    for validation or testing are then drawn from "train", where the data name none.

    Raises:
        DataError: no patient would be left for training.
    """
    if any(case.part for case in cases):
        return _official(cases, site, val, test, seed)
    total = len(cases)
    n_val, n_test = max(1, round(val * total)), max(1, round(test * total))
    if total - n_val - n_test < 1:
        images = sum(len(case.scans) for case in cases)
        what = f"site {site}: {total} patients are too few to split into train, val and test"
        advice = "at least 3 are needed, else leave the site out of timeline.stages"
        if total < 3 <= images:
            advice += f" (they have {images} images: does scenario.patient mix patients up?)"
        raise DataError(f"{what} (val={val}, test={test}); {advice}")
    order = numpy_rng("split", seed, site).permutation(total)
    parts = (order[n_val + n_test :], order[:n_val], order[n_val : n_val + n_test])
    train, validation, testing = (tuple(cases[i] for i in sorted(part)) for part in parts)
    return SiteData(train, validation, testing)


def _official(cases: Sequence[Case], site: str, val: float, test: float, seed: int) -> SiteData:
    """Return the parts that the data name; one that they do not is drawn from "train"."""
    parts = {
        part: [case for case in cases if (case.part or "train") == part]
        for part in ("train", "val", "test")
    }
    notes = []
    for name, share in (("test", test), ("val", val)):
        if not parts[name] and len(parts["train"]) > 1:
            order = numpy_rng("split", name, seed, site).permutation(len(parts["train"]))
            count = min(max(1, round(share * len(cases))), len(parts["train"]) - 1)
            drawn = {int(number) for number in order[:count]}
            every = list(enumerate(parts["train"]))
            parts[name] = [case for number, case in every if number in drawn]
            parts["train"] = [case for number, case in every if number not in drawn]
            what = f"no case named for {name} is here: drawn from those for training"
            notes.append(Note(what, tuple(case.name for case in parts[name])))
    empty = [name for name, part in parts.items() if not part]
    if empty:
        raise DataError(
            f"site {site}: by the given split there is no patient for {', '.join(empty)} among "
            f"its {len(cases)}, and none can be drawn from those for training; leave the site out "
            "of timeline.stages, or give another split"
        )
    train, validation, testing = (tuple(part) for part in parts.values())
    return SiteData(train, validation, testing, tuple(notes))
