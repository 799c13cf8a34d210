"""What every layout of image and mask files offers: how they are read and what is made of them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fedcl.data.cached import Kept, folder
from fedcl.data.cases import Case, Cases, split
from fedcl.data.channels import Channels
from fedcl.data.files import bad
from fedcl.data.grid import SPACING, written
from fedcl.data.intensities import NORMALISATIONS
from fedcl.data.labels import IGNORED, Labels
from fedcl.data.nifti import LIMIT
from fedcl.data.notes import Notes
from fedcl.data.preparing import Preparation, distances, sizes, ways
from fedcl.data.reading import Files, Reader, read_pair
from fedcl.data.scans import Scan
from fedcl.errors import ConfigError, DataError
from fedcl.settings import closest, setting
from fedcl.tasks.losses import LOSSES
from fedcl.tasks.metrics import FURTHER
from fedcl.tasks.segmentation import Segmentation
from sites.parts.making import Making
from sites.parts.shift import Shift
from sites.parts.unmarked import UnmarkedScenario


@dataclass(frozen=True)
class Patient:
    """The files of one patient.

    Attributes:
        name: unique within the site.
        files: of each image, in order.
        part: "train", "val" or "test", where the layout says so; empty, and it is drawn.
    """

    name: str
    files: Sequence[Files]
    part: str = ""


@dataclass
class ImageScenario(UnmarkedScenario):
    """Sites read from image and mask files.

    Attributes:
        spatial_dims: 2, and networks are shown slices, or 3, and they are shown volumes.
        channels: how many an image has, or a list of those to take, counted from 0, or
            "luminance", the brightness of colours.
        spacing: in mm that voxels are brought to: one number, or [row, column] or [slice, row,
            column]; "auto" for the median of the training images at the sites of the first stage;
            null, and they stay.
        resize: rows and columns, or slices, rows and columns, to which images are stretched; null,
            and they are not.
        size: of what networks are shown in training, to which images are padded or cut about
            their centre; null for whole images, padded to the largest of the site.
        patch: or the size of parts drawn at random.
        foreground: the share of patches that are centred on a voxel with a label.
        overlap: of the windows by which an image is answered that is larger than `size` or
            `patch`.
        normalise: intensities, channel by channel over the volume: "zscore" (mean 0, standard
            deviation 1), "minmax" (0 to 1), "minmax_clipped" (the same, cut to 0.001 to 0.99),
            "percentile" (0.5 % and 99.5 % become 0 and 1), "window", "none", a list of one of these
            for each channel, or "auto": a window for channels that the layout says are CT, zscore
            for others.
        window: the intensities that become -1 and 1.
        nonzero: whether voxels that are 0 are left out of the mean and deviation, and stay 0.
        margin: of slices, how many are kept above and below those with a label; null for all.
        labels: of every class, background first, the mask value that means it, or a list of
            several, or a colour such as "#ff0000".
        site_labels: the same for sites that mark the classes by other values, by their names.
        ignore: mask values that count nowhere, neither in training nor in scores.
        same_origin: whether a mask is refused that its header places over a voxel away from its
            image; otherwise it is taken voxel by voxel.
        loss: "dice_ce", Dice as a mean over samples and classes plus cross-entropy; "dice_bce",
            Dice as one ratio over batch and classes plus binary cross-entropy of every class;
            "foreground_dice_bce", the same with a ratio over all classes but the background, or
            "foreground_dice", that ratio alone.
        scores: besides Dice, IoU and HD95: some of surface_dice (within 2 mm, or pixels of
            pictures), sensitivity, specificity, cldice (of centrelines) and auc.
        shift: imaginary scanners that images are passed through, site by site.
        cache: whether prepared images are held in "memory", or on "disk" (in the folder
            FEDCL_CACHE) and read as they are needed.
        cache_gb: GiB that the folder on disk may hold.
    """

    spatial_dims: int = setting(2, low=2, high=3)
    channels: Any = 1
    spacing: Any = None
    resize: Any = None
    size: Any = None
    patch: Any = None
    foreground: float = setting(0.5, low=0, high=1)
    overlap: float = setting(0.5, low=0, high=0.9)
    normalise: Any = setting("auto", choices=("auto", *NORMALISATIONS))
    window: list[float] = setting(factory=lambda: [-140.0, 260.0])
    nonzero: bool = False
    margin: int | None = setting(None, low=0)
    labels: list[Any] = setting(factory=lambda: [0, 1])
    site_labels: dict[str, Any] = setting(factory=dict)
    ignore: list[Any] = setting(factory=list)
    same_origin: bool = True
    loss: str = setting("dice_ce", choices=tuple(LOSSES))
    scores: list[str] = setting(factory=list)
    shift: Shift = setting(factory=Shift)
    cache: str = setting("memory", choices=("memory", "disk"), effect=False)
    cache_gb: float = setting(50.0, above=0, effect=False)

    def __post_init__(self) -> None:
        """Raise a ConfigError for settings that say nothing, or two things at once."""
        classes = Labels.of(self.labels, self.ignore, "scenario.labels").classes
        for site in self.site_labels:
            key = f"scenario.site_labels.{site}"
            if self.labels_of(site).classes != classes:
                raise ConfigError(f"{key}: {classes} classes are needed, as in scenario.labels")
        for one, other in (("spacing", "resize"), ("size", "patch")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ConfigError(f"scenario.{one}: give it or scenario.{other}, not both")
        if len(self.window) != 2 or not -LIMIT < self.window[0] < self.window[1] < LIMIT:
            raise ConfigError(f"scenario.window: give [low, high], got {self.window}")
        if self.margin is not None and self.spatial_dims == 3:
            raise ConfigError("scenario.margin: for slices; with scenario.spatial_dims=3 take null")
        unknown = [name for name in self.scores if name not in FURTHER]
        if unknown or len({*self.scores}) < len(self.scores):
            raise ConfigError(f"scenario.scores: some of {', '.join(FURTHER)}, got {self.scores}")
        if "cldice" in self.scores and find_spec("skimage") is None:
            raise ConfigError(
                "scenario.scores: cldice needs scikit-image: pip install 'fedcl[vessels]'"
            )
        ways = self.normalise
        per_channel = isinstance(ways, list) and len(ways) == Channels.of(self.channels).count
        if not isinstance(ways, str) and (not per_channel or "auto" in ways):
            raise ConfigError(f"scenario.normalise: give a way, or one per channel, got {ways}")
        self.preparation([])
        _ = self.task
        super().__post_init__()
        if self.root is not None:
            self.shift = self.shift.over(self)

    # --- settings, taken apart -------------------------------------------------------

    def labels_of(self, site: str) -> Labels:
        """Return the labels of a site."""
        if site not in self.site_labels:
            return Labels.of(self.labels, self.ignore, "scenario.labels")
        own = self.site_labels[site]
        key = f"scenario.site_labels.{site}"
        if not isinstance(own, list):
            raise ConfigError(f"{key}: must be a list, as scenario.labels, got {own!r}")
        return Labels.of(own, self.ignore, key)

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    @property
    def task(self) -> Segmentation:
        """Segmentation of these images."""
        dims = self.spatial_dims
        task = Segmentation(
            Channels.of(self.channels).count,
            self.classes,
            bool(self.ignore),
            dims,
            size=sizes(self.size, dims, "scenario.size", low=1 if dims == 3 else 8),
            patch=sizes(self.patch, dims, "scenario.patch", low=1 if dims == 3 else 8),
            foreground=self.foreground,
            overlap=self.overlap,
            further=tuple(self.scores),
            form=self.loss,
        )
        return self.partly_marked(task)

    def preparation(self, modalities: Sequence[str]) -> Preparation:
        """Return what is made of the images.

        Args:
            modalities: of every channel in the files, as the layout names them, such as "CT";
                empty where it does not.
        """
        dims, (low, high) = self.spatial_dims, self.window
        how = ways(self.normalise, modalities, Channels.of(self.channels).chosen)
        return Preparation(
            distances(None if self.measures else self.spacing, dims, "scenario.spacing"),
            sizes(self.resize, dims, "scenario.resize", low=1 if dims == 3 else 8),
            tuple(how) if len(how) > 1 else how[0],
            (low, high),
            self.nonzero,
            self.margin,
        )

    @property
    def measures(self) -> str:
        """See `Scenario.measures`: the spacing, where it is "auto"."""
        return "spacing" if self.spacing == "auto" else ""

    def measure(self, site: str, path: Path | None, seed: int) -> list[float]:
        """Return the median distance between the voxels of training images, axis by axis.

        Raises:
            DataError: see `cases`; and files that do not say how large their voxels are.
        """
        notes, reader = Notes(), self._reader(site)
        cases: list[Case] = []
        voxels: dict[str, list[tuple[float, ...]]] = {}
        for patient in self._patients(site, path, notes):
            own = []
            for files in patient.files:
                pair = read_pair(files, reader, notes)
                if (pair.labels == IGNORED).all():  # it is left out of the run, too
                    continue
                if not pair.measured:
                    what = "it does not say how large its voxels are; take scenario.spacing=null"
                    raise bad(site, files.images[0], what)
                own.append(pair.spacing[-self.spatial_dims :])
            if own:
                cases.append(Case(patient.name, (), patient.part))
                voxels[patient.name] = own
        train = split(cases, site, self.val, self.test, seed).train
        found = [voxel for case in train for voxel in voxels[case.name]]
        return [median(axis) for axis in zip(*found, strict=True)]

    def check_sites(self, there: Sequence[str]) -> None:
        """Raise a ConfigError where settings name a site that is not there."""
        names = ("site_labels", "unmarked", "shift.scanners")
        for key, site in ((name, site) for name in names for site in attrgetter(name)(self)):
            if site not in there:
                raise ConfigError(
                    f"scenario.{key}.{site}: no such site{closest(site, list(there))}; "
                    f"there are: {', '.join(there)}"
                )

    # --- files -----------------------------------------------------------------------

    @abstractmethod
    def patients(self, site: str, path: Path, notes: Notes) -> Sequence[Patient]:
        """Return the files of every patient of a site, in a fixed order.

        Args:
            site: its name.
            path: its folder.
            notes: gets what is left out.

        Raises:
            DataError: files missing or at odds; names the site and the file.
        """

    def modalities(self, site: str, path: Path) -> list[str]:
        """Return how the layout says that channels were taken, such as "CT", if it does."""
        return []

    def from_data(self) -> dict[str, Any]:
        """See `Scenario.from_data`: how channels are normalised, where the layout decides it."""
        root = self._describing
        if root is None or self.normalise != "auto":
            return {}
        chosen = Channels.of(self.channels).chosen
        return {"normalise": ways("auto", self.modalities("", root), chosen)}

    @property
    def _describing(self) -> Path | None:
        """The folder that says how channels were taken; None where none does, or it is gone."""
        says = type(self).modalities is not ImageScenario.modalities
        return Path(self.root) if says and self.root and Path(self.root).is_dir() else None

    def cases(self, site: str, path: Path | None) -> Cases:
        """Read all patients of a site, in order; arguments as for `load`.

        Raises:
            DataError: files missing, unreadable or at odds; names the site and the file.
        """
        notes = Notes()
        if told := self.shift.told(site):
            notes.add(told)
        patients = self._patients(site, path, notes)
        modalities = self.modalities(site, Path(path or ""))
        prepare = self.preparation(modalities)
        others = [one for one in modalities if one != "CT"]
        if self.normalise == "window" and others:
            notes.add(f"dataset.json says {others[0]}, not CT: a window in HU may not be meant")
        cases: list[Case] = []
        for patient in patients:
            scans = self._scans(site, patient, prepare, notes)
            if scans:
                cases.append(Case(patient.name, tuple(scans), patient.part))
        if self._kept is not None:
            gone = self._kept.trim([scan for case in cases for scan in case.scans])
            if gone:
                what = "prepared images that scenario.cache_gb has no room for, made each time anew"
                notes.add(f"{what}: {gone}")
        return Cases(cases, notes.all())

    def _patients(self, site: str, path: Path | None, notes: Notes) -> list[Patient]:
        """Return the patients of a site that have a part in the run, each with the part it has.

        Raises:
            DataError: see `cases`.
        """
        if path is None:
            raise DataError(f"site {site}: no folder of its own is given and scenario.root unset")
        every = self.patients(site, Path(path), notes)
        if not self.assigned:
            return list(every)
        parts = {name: part for part, names in self.assigned.items() for name in names}
        if not self.assigned.get("train"):  # all but who is for something else
            parts = {one.name: "train" for one in every} | parts
        for patient in every:
            if patient.name not in parts:
                notes.add("left out, since scenario.splits does not name them", patient.name)
        return [replace(one, part=parts[one.name]) for one in every if one.name in parts]

    def case_names(self, site: str) -> list[str]:
        """See `Scenario.case_names`: those that the files have."""
        path = self.location(site)
        if path is None:
            return []
        return [patient.name for patient in self.patients(site, path, Notes())]

    def reading(self, site: str) -> tuple[Reader, Preparation]:
        """Return how images that nobody has labelled are read; see `Scenario.reading`."""
        root, says = self._describing, type(self).modalities is not ImageScenario.modalities
        if self.normalise == "auto" and says and root is None:
            where = self.root or "scenario.root"
            raise ConfigError(f"scenario.normalise: auto asks {where} what is CT; it is not there")
        modalities = [] if root is None else self.modalities(site, root)
        return self._reader(site), replace(self.preparation(modalities), margin=None)

    @property
    def _kept(self) -> Kept | None:
        """The folder of prepared images; None where they are held in memory."""
        return Kept(folder(), self.cache_gb * 2**30) if self.cache == "disk" else None

    def _scans(self, site: str, patient: Patient, prepare: Preparation, notes: Notes) -> list[Scan]:
        """Return the images of a patient, less those of which no voxel counts."""
        reader, kept = self._reader(site), self._kept
        scanning = self.shift.scanning(site, patient.name)
        scans: list[Scan] = []
        for files in patient.files:
            make = Making(files, reader, prepare, scanning)
            settings: list[Any] = [
                *map(repr, (reader.labels, reader.channels, prepare, files.frame))
            ]
            settings += [self.spatial_dims, self.same_origin]
            settings += [] if scanning is None else [repr(scanning)]
            made, noted = make() if kept is None else kept.scans(files.every, settings, make)
            for note in noted:
                for item in note.items or [""]:
                    notes.add(note.what, item)
            for scan in made:
                if scans and not np.allclose(scan.spacing, scans[0].spacing, rtol=SPACING, atol=0):
                    raise bad(
                        site,
                        files.images[0],
                        f"voxels (slice, row, column) of {written(scan.spacing)} mm, those of "
                        f"{patient.files[0].images[0].name} of the same patient are "
                        f"{written(scans[0].spacing)}",
                    )
            scans += made
        return scans

    def _reader(self, site: str) -> Reader:
        return Reader(
            site, self.labels_of(site), Channels.of(self.channels), self.spatial_dims,
            self.same_origin,
        )  # fmt: skip

    def called(self, site: str, number: int) -> str:
        """Return how the users at a site call a class: by the mask's value."""
        return f"the label {self.labels_of(site).written(number)}"
