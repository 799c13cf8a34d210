"""Segmentation: a class for every voxel of slices or volumes."""

import copy
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.data.cases import Case, SiteData
from fedcl.data.crops import Crops, Item
from fedcl.data.framing import IMAGES, Framing, at_once, whole
from fedcl.data.grid import PLANES
from fedcl.data.labels import IGNORED
from fedcl.data.resampling import restored
from fedcl.data.samples import Samples
from fedcl.data.scans import InMemory, Scan
from fedcl.models.base import ImageModel
from fedcl.seeding import seeded
from fedcl.tasks.base import Drawing, Look, Picture, Range, Task, half
from fedcl.tasks.losses import LOSSES, marginal_loss
from fedcl.tasks.metrics import SEGMENTATION, by_class, case_scores, class_of


@dataclass(frozen=True)
class Segmentation(Task):
    """Samples are slices or volumes: inputs (N, C, ...), targets class indices (N, 1, ...).

    Outputs are logits (N, K, ...), answers their softmax over K. The loss is one of `LOSSES`: Dice
    plus cross-entropy, in one of several forms.

    Attributes:
        channels: of an image, C.
        classes: label values, background included, K.
        ignores: whether targets may be `IGNORED`.
        dims: of an image, 2 or 3.
        size: of a sample, to which images are padded or cut about their centre; empty, and they
            are padded to the largest of the site.
        patch: or the size of parts drawn at random.
        foreground: the share of patches that are centred on a voxel with a label.
        overlap: of the windows by which an image is answered that is larger than a sample.
        further: scores besides those that every case has.
        multiples: of what the sizes of a sample are multiples; empty for any.
        least: voxels that a sample has along each axis at least; empty for any.
        form: of the loss, one of `LOSSES`.
        unmarked: by site, classes that its masks do not mark.
        candidates: what a voxel of unknown class may be: of targets -1 the first, of -2 the second.
        naive: whether the loss takes such a voxel for background.
        full_tests: whether test masks mark all classes.
    """

    words: ClassVar[str] = "images with label maps"
    models: ClassVar[type] = ImageModel
    term: ClassVar[str] = "seg"
    varied: ClassVar[bool] = True
    chunk: ClassVar[int] = IMAGES
    case: ClassVar[str] = "patient"
    legend: ClassVar[str] = "test cases: label (outlined) and prediction (filled), by class"
    leaves: ClassVar[str] = "no image leaves a site; weights, case names and scores do"

    channels: int
    classes: int
    ignores: bool = False
    dims: int = 2
    size: tuple[int, ...] = ()
    patch: tuple[int, ...] = ()
    foreground: float = 0.5
    overlap: float = 0.5
    further: tuple[str, ...] = ()
    multiples: tuple[int, ...] = ()
    least: tuple[int, ...] = ()
    form: str = "dice_ce"
    unmarked: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    candidates: tuple[tuple[int, ...], ...] = ()
    naive: bool = False
    full_tests: bool = False

    @property
    def ranges(self) -> Mapping[str, Range]:
        """The scores of a case and, of several foreground classes, the same of each."""
        return by_class((*SEGMENTATION, *self.further), self.classes)

    def build(self, model: ImageModel, sites: Sequence[str]) -> nn.Module:
        """Make the network, the same in every stage."""
        return model.build(self.channels, self.classes, self.dims)

    def fitted(self, models: Sequence[ImageModel]) -> "Segmentation":
        """Return the task with images whose sizes are multiples of what all `models` need."""
        along = zip(*(model.multiples(self.dims) for model in models), strict=True)
        return replace(self, multiples=tuple(math.lcm(*needed) for needed in along))

    def sized(self, cases: Sequence[Case]) -> "Segmentation":
        """Return the task with samples as large as the largest of these images, if not given.

        Normalisation over an image sees its padding: an image must be padded alike in training and
        in tests.
        """
        return replace(self, least=self._sample([scan for case in cases for scan in case.scans]))

    def samples(self, cases: Sequence[Case], device: torch.device) -> Samples:
        """Return the slices or volumes of `cases` in order, or parts of them."""
        scans = [scan for case in cases for scan in case.scans]
        items = [
            Item(scan, number, self._background(case))
            for case in cases
            for scan in case.scans
            for number in ([None] if self.dims == 3 else range(scan.shape[1]))
        ]
        crops = Crops(items, self._sample(scans), device, bool(self.patch), self.foreground)
        if crops.fixed and all(isinstance(scan.content, InMemory) for scan in scans):
            return crops[torch.arange(len(crops))]
        return crops

    def _background(self, case: Case) -> int:
        """Return what is to be learned where the masks of a case mark nothing."""
        return -1 - self.candidates.index((0, *case.unmarked)) if case.unmarked else 0

    def _sample(self, scans: Sequence[Scan]) -> tuple[int, ...]:
        """Return the size of a sample of some scans."""
        shapes = [scan.shape[-self.dims :] for scan in scans]
        largest = [max(along) for along in zip(*shapes, strict=True)]
        return self.window or self.least or self._whole(largest)

    def _trained_on(self, scans: Sequence[Scan]) -> str:
        """Return what a sample is, for a person who checks it."""
        size = self._sample(scans)
        if self.patch:
            return f"{'x'.join(map(str, size))} drawn"
        there = [scan.shape[-self.dims :] for scan in scans]
        cut = any(n > most for shape in there for n, most in zip(shape, size, strict=True))
        padded_ = any(n < most for shape in there for n, most in zip(shape, size, strict=True))
        how = " and ".join(["cut"] * cut + ["padded"] * padded_)
        return f"{'x'.join(map(str, size))} {how}".strip()

    @property
    def window(self) -> tuple[int, ...]:
        """The size of a sample; empty where it is that of whole images."""
        return self._whole(self.patch or self.size)

    def _whole(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return a size with which all models can do; no smaller."""
        return whole(size, self.multiples)

    def describe(self, data: SiteData) -> dict[str, str]:
        """Return what the images are like, and the share of voxels of every class but 0.

        Sizes, voxels and shares are those of the images as they came.
        """
        cases: list[Case] = [*data.train, *data.val, *data.test]
        scans = [scan for case in cases for scan in case.scans]
        known = sum(scan.counts.known for scan in scans)
        ignored = sum(scan.counts.ignored for scan in scans)
        unmarked = {number for case in data.train for number in case.unmarked}
        labelled = [
            "not marked"
            if c in unmarked
            else _share(sum(scan.counts[c] for scan in scans) / max(known, 1))
            for c in range(1, self.classes)
        ]
        planes = Counter(scan.plane for scan in scans if scan.plane)
        told = {
            "slices": str(sum(scan.own[0] for scan in scans)),
            "size": _several({"x".join(map(str, scan.own[-self.dims :])) for scan in scans}),
            "voxel": _several({_size(scan) for scan in scans}),
            "trained on": self._trained_on([scan for case in data.train for scan in case.scans]),
            "labelled": ", ".join(labelled),
        }
        if self.ignores or ignored:
            told["ignored"] = _share(ignored / max(known + ignored, 1))
        if planes:
            told["plane"] = ", ".join(planes if len(planes) == 1 else map(_counted, planes.items()))
        return told

    def looks(self, data: SiteData) -> list[Look]:
        """Return the first training cases: slices through the largest label, values by class."""
        return [_look(case, self.dims) for case in data.train[:LOOKS]]

    def problem(self, network: nn.Module, samples: Samples, least: int = 0) -> str | None:
        """Return what is wrong where the network does not take images, or batches, of this size."""
        image = samples[torch.zeros(1, dtype=torch.int64)].inputs
        size = " x ".join(map(str, image.shape[2:]))
        problem = self._refused(network, image)
        if problem is not None:
            kind = "pixels" if self.dims == 2 else "voxels"
            return (
                f"the model cannot take images of {size} {kind} ({problem}); change "
                "scenario.size, scenario.patch or model"
            )
        if not least:
            return None
        trained = copy.deepcopy(network).train()
        try:
            with torch.no_grad(), seeded("check"):
                trained(image.expand(least, *image.shape[1:]))
        except (RuntimeError, ValueError) as error:
            problem = str(error).splitlines()[0]
            return (
                f"the model cannot be trained on a batch of {least}, which comes up here "
                f"({problem}); change learner.batch_size, scenario.size or model.norm"
            )
        return None

    def _refused(self, network: nn.Module, image: Tensor) -> str | None:
        """Return why a network does not answer an image in its size, or None."""
        try:
            if self.answers(network, image).shape[2:] == image.shape[2:]:
                return None
        except (RuntimeError, ValueError) as error:
            return str(error).splitlines()[0]
        return "it answers in another size"

    def batches(self, count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield batches, epoch by epoch: every slice once, in a new random order."""
        while True:
            yield from torch.randperm(count, generator=rng).split(size)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of `form`; see `fedcl.tasks.losses`."""
        if self.naive:
            targets = targets.clamp(min=0)
        elif self.candidates:
            return marginal_loss(outputs, targets, self.candidates)
        plain, ignoring = LOSSES[self.form]
        loss = ignoring if self.ignores else plain
        return loss(outputs, targets)

    def reduced(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """Return the label of the voxel in the middle of each one of a coarser grid."""
        size = outputs.shape[2:]
        return targets if targets.shape[2:] == size else nearest(targets, size)

    def answer(self, outputs: Tensor) -> Tensor:
        """Return class probabilities."""
        return torch.softmax(outputs.float(), dim=1)

    def distance(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """Return the cross-entropy with a teacher's probabilities, mean over batch and voxels."""
        return F.cross_entropy(outputs, answers)

    def chunks(self, inputs: Tensor) -> Sequence[Tensor]:
        """Return inputs in parts of up to `fedcl.data.framing.VOXELS`, but whole images."""
        return inputs.split(at_once(inputs.shape[2:]))

    def predict(
        self, network: nn.Module, case: Case, device: torch.device, amp: bool
    ) -> list[Tensor]:
        """Return the class probabilities of every voxel of each scan, shape (K, D, H, W)."""
        found = []
        for scan in case.scans:
            image = scan.content.image().to(device)
            images = image[None] if self.dims == 3 else image.movedim(1, 0)
            answers = self._answers(network, images, scan.lowest, amp).cpu()
            found.append(answers[0] if self.dims == 3 else answers.movedim(0, 1))
        return found

    @torch.no_grad()
    def _answers(
        self, network: nn.Module, images: Tensor, lowest: Sequence[float], amp: bool
    ) -> Tensor:
        """Return the class probabilities of whole images, (N, C, ...), shape (N, K, ...).

        Images larger than a sample are answered window by window, logits weighted by a Gaussian.
        """
        network.eval()

        def logits(inputs: Tensor) -> Tensor:
            with half(amp, inputs.device):
                found: Tensor = network(inputs).float()
            return found

        return self.framing.answered(images, lowest, logits, self.answer)

    @property
    def framing(self) -> Framing:
        """In which sizes images are shown that are answered whole."""
        return Framing(self.window, self.least, self.multiples, self.overlap)

    def scored(self, site: str) -> tuple[str, ...]:
        """See `Task.scored`; of classes that its test masks do not mark there are no scores."""
        return self.scores if self.full_tests else self.learned(site)

    def learned(self, site: str) -> tuple[str, ...]:
        """See `Task.learned`: the scores of the classes that its masks mark."""
        unmarked = self.unmarked.get(site, ())
        return tuple(name for name in self.scores if class_of(name) not in unmarked)

    def marked(self, sites: Sequence[str]) -> list[int]:
        """Return the classes that the masks of at least one of some sites mark."""
        foreground = range(1, self.classes)
        return [c for c in foreground if any(c not in self.unmarked.get(s, ()) for s in sites)]

    def unknown(self, taught: Sequence[str]) -> list[int]:
        """Return the classes that a teacher does not know that has learned from some sites.

        None of one from elsewhere, of which no site is known.
        """
        known = self.marked(taught) if taught else range(1, self.classes)
        return [number for number in range(1, self.classes) if number not in known]

    @property
    def drawing(self) -> Drawing:
        """See `Drawing`: the first test case of every site."""
        return self

    def drawn(self, cases: Sequence[Case]) -> Sequence[Case]:
        """Return the first case."""
        return cases[:1]

    def picture(self, case: Case, prediction: Sequence[Tensor]) -> Picture:
        """Return the slice of the first scan that has most of a label."""
        content = case.scans[0].content
        labels = content.labels()
        labels = labels.where(labels != IGNORED, 0)
        areas = (labels > 0).flatten(1).sum(dim=1)
        chosen = int(areas.argmax()) if areas.any() else len(labels) // 2
        found = prediction[0][:, chosen].max(0).indices
        return Picture(case.name, content.image()[0, chosen], labels[chosen], found)

    def score(
        self, prediction: Sequence[Tensor], case: Case, names: Sequence[str]
    ) -> dict[str, float]:
        """Return the scores of a patient, the mean over its scans; see `fedcl.tasks.metrics`.

        They are taken on the images' own grids: the prediction is brought there.
        """
        found = []
        for answer, scan in zip(prediction, case.scans, strict=True):
            own = restored(answer, scan.own)
            segmented, truth = own.max(0).indices, scan.content.truth()
            scores = case_scores(
                segmented, truth, self.classes, scan.spacing, names, own, case.unmarked
            )
            found.append(scores)
        return {name: fmean(one[name] for one in found) for name in names}


LOOKS = 4
"""How many cases of a site a person is shown."""


def _look(case: Case, dims: int) -> Look:
    """Return what a person is shown of a case: the scan with most marked voxels, channel 0."""
    scan = max(case.scans, key=lambda one: sum(one.counts.classes[1:]))
    image, labels = scan.content.image()[0], scan.content.labels()
    marked = labels.where(labels != IGNORED, 0) > 0
    size = [
        own * space / n for own, space, n in zip(scan.own, scan.spacing, labels.shape, strict=True)
    ]
    slices = {}
    known = scan.plane in PLANES  # else nobody knows how it lies
    volume = (*reversed(PLANES),) if known else ("slice", "row", "column")
    names = volume if dims == 3 else (scan.plane or "slice",)
    for axis, name in enumerate(names):
        others = [other for other in range(3) if other != axis]
        areas = marked.sum(dim=others)
        place = int(areas.argmax()) if areas.any() else labels.shape[axis] // 2
        high, wide = (size[other] for other in others)
        cut = image.select(axis, place), labels.select(axis, place)
        slices[name] = (*cut, high / wide)
    there = labels.unique().tolist()
    named = {"ignored" if c == IGNORED else f"class {c}": image[labels == c] for c in there}
    return Look(case.name, slices, named)


def nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Return label maps, shape (N, 1, ...), in another size, voxel by voxel the nearest."""
    return F.interpolate(labels.float(), tuple(size), mode="nearest-exact").long()


def _share(share: float) -> str:
    """Return a share as a percentage that does not hide what is small."""
    return "0%" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}"


def _size(scan: Scan) -> str:
    """Return the size of a voxel, in mm but where the files do not say."""
    told = "x".join(f"{size:.3g}" for size in scan.spacing)
    return "in pixels" if told == "1x1x1" and scan.plane == "as stored" else told


def _several(values: set[str]) -> str:
    return ", ".join(sorted(values)) if len(values) <= 2 else f"{len(values)} different"


def _counted(item: tuple[str, int]) -> str:
    return f"{item[0]} {item[1]}"
