"""What every scenario of neural fields offers: parts of a cine volume, each at a site."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedcl.data.cases import SiteData
from fedcl.data.notes import Note
from fedcl.data.source import Source
from fedcl.data.space import Part, Space
from fedcl.errors import ConfigError, DataError
from fedcl.learning.scenario import Scenario
from fedcl.settings import setting
from fedcl.tasks.field import Field, Frame

Array = NDArray[np.float32]


@dataclass
class Piece:
    """What a site holds.

    Attributes:
        frames, slices: half-open ranges [first, last + 1]; empty for all.
        outputs: of `signal` and the names of masks.
    """

    frames: list[int] = setting(factory=list, low=0)
    slices: list[int] = setting(factory=list, low=0)
    outputs: list[str] = setting(factory=lambda: ["signal"])


@dataclass
class Volume:
    """A cine volume, or the frames of it that a site holds.

    Attributes:
        signal: in [0, 1], shape (T, D, H, W).
        masks: 0 or 1, by name, each of the same shape; NaN in frames without one.
        spacing: distance between voxels (slice, row, column), in mm or pixels.
        first: the number of its first frame in the planned extent.
        source: where its values and its place come from; None of a phantom.
        notes: what was left out, guessed or changed in reading it.
    """

    signal: Array
    masks: dict[str, Array]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    first: int = 0
    source: Source | None = None
    notes: tuple[Note, ...] = ()


@dataclass
class FieldScenario(Scenario):
    """Frames and slices of cine volumes, learned as fields of coordinates.

    A case is a frame, and it is scored on the very points it was trained on: what is asked
    of a field is to keep them.

    Attributes:
        frames, slices, size: the planned extent, T frames of D slices of size x size pixels.
        parts: what each site holds, by its name.
        masks: the names of the masks there are, in the order of the outputs they become.
        shared: whether all sites hold parts of one volume; otherwise each has its own.
    """

    frames: int = setting(12, low=1, high=4096)
    slices: int = setting(1, low=1, high=4096)
    size: int = setting(64, low=8, high=2048)
    parts: dict[str, Piece] = setting(factory=dict)
    masks: list[str] = setting(factory=list)
    shared: bool = True

    def __post_init__(self) -> None:
        """Check that every part lies within the planned extent, and one knows the signal."""
        if len({"signal", *self.masks}) <= len(self.masks):
            raise ConfigError(
                f"scenario.masks: names must differ from one another and from signal, got "
                f"{self.masks}"
            )
        parts = [self._part(site, piece) for site, piece in self.parts.items()]
        asked = {output for part in parts for output in part.outputs}
        idle = [name for number, name in enumerate(self.masks, start=1) if number not in asked]
        if parts and idle:
            raise ConfigError(
                f"scenario.masks: no site's outputs have {', '.join(idle)}; add it to the outputs "
                "of one of scenario.parts, or leave it out"
            )
        if parts and not any(0 in part.outputs for part in parts):
            raise ConfigError("scenario.parts: no site's outputs have the signal; give it to one")

    @abstractmethod
    def volume(self, site: str, path: Path | None, seed: int) -> Volume:
        """Read or make the volume of which `site` holds a part; arguments as for `load`.

        Raises:
            DataError: the data cannot be used; names the site and the file.
        """

    @property
    def task(self) -> Field:
        """Fitting a field of the signal and the masks."""
        return Field(
            Space((self.frames, self.slices, self.size, self.size)),
            {site: self._part(site, piece) for site, piece in self.parts.items()},
            ("signal", *self.masks),
            self.shared,
        )

    def sites(self) -> list[str]:
        """Return the sites of `parts`, in order.

        Raises:
            ConfigError: there are none.
        """
        if not self.parts:
            raise ConfigError("scenario.parts: empty; say what each site holds")
        return list(self.parts)

    def load(self, site: str, path: Path | None, seed: int) -> SiteData:
        """Cut the part of `site` out of its volume; see `Scenario.load`.

        Raises:
            DataError: the volume has not what the site is to hold, or no such mask.
        """
        volume = self.volume(site, path, seed)
        part, task = self._part(site, self.parts[site]), self.task
        shape = (self.slices, self.size, self.size)
        begin, end = part.frames
        for name, array in {"signal": volume.signal, **volume.masks}.items():
            there = (volume.first, volume.first + len(array))
            if array.shape[1:] != shape or not there[0] <= begin < end <= there[1]:
                raise DataError(
                    f"site {site}: {name} has (frames, slices, rows, columns) {array.shape} from "
                    f"frame {volume.first} on, needed are frames {begin} to {end - 1} of {shape}; "
                    "change scenario.frames, parts, slices or size"
                )
        names = ["signal", *self.masks]
        lacking = [names[o] for o in part.outputs if o and names[o] not in volume.masks]
        if lacking:
            raise DataError(
                f"site {site}: there is no mask {', '.join(lacking)}, but "
                f"{', '.join(volume.masks) or 'none'}; change scenario.masks"
            )
        held = slice(begin - volume.first, end - volume.first)
        outputs = [volume.masks[names[o]] if o else volume.signal for o in part.outputs]
        values = torch.from_numpy(np.stack(outputs).astype(np.float32))
        marked = ~values.isnan().flatten(2).any(dim=2).any(dim=0)
        if not marked[held].all():
            every = (volume.first + marked.nonzero().flatten()).tolist()
            missing = (begin + (~marked[held]).nonzero().flatten()).tolist()
            raise DataError(
                f"site {site}: there are no masks of frames {missing}, but of {every} (counted "
                f"from 0); change scenario.parts.{site}.frames"
            )
        for number, output in enumerate(part.outputs):
            if output and not values[number, held, slice(*part.slices)].any():
                raise DataError(
                    f"site {site}: the mask {names[output]} is empty in all that it holds: nothing "
                    f"of it is left in these frames and slices at this size; change "
                    f"scenario.parts.{site}, scenario.size or scenario.masks"
                )
        positions = torch.arange(task.space.size).view(task.space.shape)
        window = slice(*part.slices)
        frames = tuple(
            Frame(
                f"frame-{t:03d}",
                part.outputs,
                values[:, t - volume.first, window].contiguous(),
                positions[t, window].contiguous(),
                volume.spacing,
            )
            for t in range(begin, end)
        )
        return SiteData(frames, frames[:1], frames, volume.notes, volume.source)

    def _part(self, site: str, piece: Piece) -> Part:
        """Return a part of the space.

        Raises:
            ConfigError: it lies outside of the planned extent, or names an unknown output.
        """
        ranges = []
        for name, asked, planned in (
            ("frames", piece.frames, self.frames),
            ("slices", piece.slices, self.slices),
        ):
            first, end = asked if len(asked) == 2 else (0, planned)
            if len(asked) not in (0, 2) or not 0 <= first < end <= planned:
                raise ConfigError(
                    f"scenario.parts.{site}.{name}: {asked} is no part of the planned extent "
                    f"[0, {planned}]; give [first, last + 1], counted from 0, or change "
                    f"scenario.{name}"
                )
            ranges.append((first, end))
        names = ["signal", *self.masks]
        unknown = [name for name in piece.outputs if name not in names]
        if unknown or not piece.outputs or len(set(piece.outputs)) < len(piece.outputs):
            raise ConfigError(
                f"scenario.parts.{site}.outputs: give each of {', '.join(names)} at most once, "
                f"got {piece.outputs}"
            )
        outputs = tuple(sorted(names.index(name) for name in piece.outputs))
        return Part(ranges[0], ranges[1], outputs)
