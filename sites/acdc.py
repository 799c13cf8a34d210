"""Cine MRI in ACDC's layout: `patientNNN/patientNNN_4d.nii.gz`, `Info.cfg`, masks of frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcl.data.files import folder_of, hidden, text_of
from fedcl.data.grid import Grid, cut_of, resized
from fedcl.data.labels import Labels
from fedcl.data.nifti import LIMIT, frame_time
from fedcl.data.notes import Notes
from fedcl.data.reading import Reader, read_along, read_frames
from fedcl.data.resampling import reduced, scaled
from fedcl.data.source import Source
from fedcl.errors import ConfigError, DataError
from fedcl.settings import setting
from sites.parts.field import Array, FieldScenario, Volume

LABELS = {"rv": 1, "myo": 2, "lv": 3}
VALUES = Labels(((0,), (1,), (2,), (3,)), key="ACDC's labels")
TOP = 99.9  # percentile that becomes 1: single bright voxels do not darken the volume


CLIPPED = 0.002
"""The share of clipped voxels above which a user is told."""


@dataclass
class ACDC(FieldScenario):
    """A patient of ACDC (Bernard et al., TMI 2018), or one per site where none is shared.

    The signal is brought to [0, 1] by one scale for all frames, which are resized in plane. Masks
    exist for end-diastole and end-systole alone (`Info.cfg` says which frames these are).

    Attributes:
        root: folder of all patients, for a simulation; a deployed site brings its own path,
            its patient's folder.
        patient: name of the folder of the patient that all share; otherwise sites are named
            like their patient's folder.
        only: the one slice that is used, counted from 0; null for all.
        window: the half-open range of a file's frames that is used; empty for all. They are the
            planned frames or, where a hospital has no others, those of its part.
        scale: the intensities that become 0 and 1; null for the minimum and a high percentile of
            the frames of the first sites to arrive (in the order of `stages` and `parts`), so
            that no scale depends on frames that are still to come. A hospital that has none of
            these must be given the scale.
        same_origin: whether a mask is refused that its header places over a voxel away.
    """

    root: str | None = setting(None, travels=False)
    patient: str | None = None
    only: int | None = setting(None, low=0)
    window: list[int] = setting(factory=list, low=0)
    scale: list[float] | None = None
    same_origin: bool = True

    def __post_init__(self) -> None:
        """Check masks and parts."""
        for name in self.masks:
            if name not in LABELS:
                raise ConfigError(f"scenario.masks: no {name!r}; there are {', '.join(LABELS)}")
        if len(self.window) not in (0, 2) or self.window != sorted({*self.window}):
            raise ConfigError(f"scenario.window: give [first, last + 1], got {self.window}")
        low, high = self.scale if self.scale and len(self.scale) == 2 else (0.0, 0.0)
        if self.scale is not None and not -LIMIT < low < high < LIMIT:
            raise ConfigError(f"scenario.scale: give [low, high], got {self.scale}")
        super().__post_init__()

    def location(self, site: str) -> Path | None:
        """Return the folder of the site's patient; None where no root is set.

        Raises:
            ConfigError: no patient is named, or it is no plain folder name.
        """
        if self.root is None:
            return None
        name = self.patient if self.shared else site
        key = self._named_by
        if not name or Path(name).name != name or name.startswith("."):
            raise ConfigError(f"{key}: give the name of a folder in root, got {name!r}")
        return folder_of(str(Path(self.root) / name), f"scenario.root or {key}")

    @property
    def _named_by(self) -> str:
        """The setting that names the patient of a site."""
        return "scenario.patient" if self.shared else "scenario.parts"

    def volume(self, site: str, path: Path | None, seed: int) -> Volume:
        """Read the patient in `path`; see `FieldScenario.volume`."""
        if path is None:
            raise DataError(
                f"site {site}: give the folder of all patients as scenario.root or, at a "
                "hospital, the patient's own"
            )
        if not Path(path).is_dir():
            wrong = f"scenario.root or {self._named_by}"
            raise DataError(f"site {site}: {path} is no folder; change {wrong}")
        found = sorted(f for f in Path(path).glob("*_4d.nii*") if not hidden(f))
        if len(found) != 1:
            raise DataError(f"site {site}: {path} holds {len(found)} files *_4d.nii.gz, one needed")
        notes, (file,) = Notes(), found
        stored, grid = read_frames(site, file, notes)
        cut = cut_of(grid)
        window = slice(*(self.window or (0, stored.shape[3])))
        if window.stop > stored.shape[3]:
            raise DataError(
                f"site {site}: {file.name} has {stored.shape[3]} frames, scenario.window asks for "
                f"{self.window}"
            )
        array = cut(stored)[window]
        first = self._first(site, len(array), notes)
        low, high = self._scale(site, array, first)
        signal = ((array - low) / (high - low)).clip(0, 1).astype(np.float32)
        beyond = float(((array < low) | (array > high)).mean())
        if beyond > CLIPPED:
            notes.add(f"{beyond:.1%} of the intensities are clipped to {low:g} to {high:g}")
        masks = self._masks(site, path, file, grid, len(array), notes) if self.masks else {}
        place, slices = cut.affine, array.shape[1]
        if self.only is not None:
            if self.only >= slices:
                raise DataError(
                    f"site {site}: {file.name} has {slices} slices, scenario.only asks for number "
                    f"{self.only}, counted from 0"
                )
            one = slice(self.only, self.only + 1)
            signal, masks = signal[:, one], {name: mask[:, one] for name, mask in masks.items()}
            if place is not None:
                place = np.column_stack([place[:, :3], place @ [0, 0, self.only, 1]])
        if cut.plane in ("sagittal", "coronal"):
            notes.add(f"cut into {cut.plane} slices, across the coarsest axis")
        before, size = (signal.shape[2], signal.shape[3]), (self.size, self.size)
        if place is None:
            notes.add("no orientation is given: exports will lie along the axes")
            place = np.diag([*cut.spacing[::-1], 1.0])
        axes = "RAS" if grid.affine is None else grid.axes
        seconds = frame_time(file)
        if not seconds:
            notes.add("the time between frames is not given")
        along, down, across = cut.spacing
        flat = scaled(signal, (signal.shape[1], *size)).numpy()
        return Volume(
            flat.reshape(*signal.shape[:2], *size),
            {name: self._resized(mask) for name, mask in masks.items()},
            (along, down * before[0] / self.size, across * before[1] / self.size),
            first,
            Source(resized(place, before, size), seconds, low, high, axes),
            notes.all(),
        )

    def _first(self, site: str, frames: int, notes: Notes) -> int:
        """Return the number of a file's first frame in the planned extent.

        Raises:
            DataError: it holds neither the planned frames nor those of the site's part alone.
        """
        begin, end = self.parts[site].frames or (0, self.frames)
        if frames == self.frames:
            return 0
        if frames == end - begin:
            notes.add(f"the file's frames are taken for frames {begin} to {end - 1}, alone")
            return begin
        raise DataError(
            f"site {site}: there are {frames} frames, planned are {self.frames}, of which the site "
            f"holds {end - begin}; change scenario.frames, scenario.window or "
            f"scenario.parts.{site}.frames"
        )

    def _scale(self, site: str, array: Array, first: int) -> tuple[float, float]:
        """Return the intensities that become 0 and 1.

        Raises:
            DataError: they depend on frames that this site has not.
        """
        if self.scale is not None:
            return self.scale[0], self.scale[1]
        known: list[int] = []
        for name in self.arrivals()[0] if self.shared else [site]:
            begin, end = self.parts[name].frames or (0, self.frames)
            known += range(begin, end)
        if min(known) < first or max(known) >= first + len(array):
            raise DataError(
                f"site {site}: the scale is that of frames {min(known)} to {max(known)}, which it "
                "has not; give scenario.scale=[low,high], as `source` in results.json of the first "
                "site tells them"
            )
        values = array[[number - first for number in sorted({*known})]]
        low, high = float(values.min()), float(np.percentile(values, TOP))
        if high <= low:  # a few bright voxels, or none
            high = float(values.max())
        return low, high if high > low else low + 1.0

    def _masks(
        self, site: str, path: Path, file: Path, grid: Grid, frames: int, notes: Notes
    ) -> dict[str, Array]:
        """Return the masks of a file's frames, NaN where there is none, as it is cut into slices.

        Raises:
            DataError: one is missing, lies elsewhere or lacks a label.
        """
        cut, masks = cut_of(grid), dict[str, Array]()
        reader = Reader(site, VALUES, same_origin=self.same_origin)
        begin = self.window[0] if self.window else 0
        for frame in self._marked(site, path):
            if not self.window and frame >= frames:
                raise DataError(
                    f"site {site}: {path / 'Info.cfg'} names frames beyond the {frames} there are"
                )
            if not begin <= frame < begin + frames:
                notes.add("masks of frames that are not used", f"frame {frame}")
                continue
            head, _, tail = file.name.rpartition("_4d")
            mark = file.with_name(f"{head}_frame{frame + 1:02d}_gt{tail}")
            labels = cut(read_along(mark, grid, reader, notes))
            for name in self.masks:
                there = labels == LABELS[name]
                if not there.any():
                    others = [other for other, value in LABELS.items() if (labels == value).any()]
                    raise DataError(
                        f"site {site}: {mark.name} has no label {LABELS[name]} ({name}), but "
                        f"{', '.join(others) or 'none'}; change scenario.masks"
                    )
                shape = (frames, *labels.shape)
                mask = masks.setdefault(name, np.full(shape, np.nan, np.float32))
                mask[frame - begin] = there
        return masks

    def _marked(self, site: str, path: Path) -> list[int]:
        """Return which frames of the file have masks, counted from 0."""
        info = path / "Info.cfg"
        try:
            lines = (line.partition(":") for line in text_of(info).splitlines())
            values = {key.strip(): value.strip() for key, _, value in lines}
            marked = [int(values[key]) - 1 for key in ("ED", "ES")]
        except (OSError, KeyError, ValueError) as error:
            raise DataError(
                f"site {site}: {info} does not say in which frames ED and ES are ({error!r})"
            ) from None
        if min(marked) < 0:
            raise DataError(f"site {site}: {info} counts frames from 1, it names {min(marked) + 1}")
        return marked

    def _resized(self, mask: Array) -> Array:
        """Return every slice of a mask in `size` x `size` pixels."""
        size = (mask.shape[1], self.size, self.size)
        new = np.full((len(mask), *size), np.nan, np.float32)
        for number, frame in enumerate(mask):
            if not np.isnan(frame).any():
                new[number] = reduced(frame.astype(np.uint8), size).numpy()
        return new
