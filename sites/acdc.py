"""Cine MRI in ACDC's layout: `patientNNN/patientNNN_4d.nii.gz`, `Info.cfg`, masks of frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Resize

from fedcl.errors import ConfigError, DataError
from fedcl.settings import setting
from sites.base_field import FieldScenario, Volume
from sites.base_files import LIMIT

LABELS = {"rv": 1, "myo": 2, "lv": 3}
TOP = 99.9  # percentile of the volume that becomes 1: single bright voxels do not darken it


@dataclass
class ACDC(FieldScenario):
    """A patient of ACDC (Bernard et al., TMI 2018), or one per site where none is shared.

    The signal is brought to [0, 1] over the whole volume, frames are resized in plane. Masks
    exist for end-diastole and end-systole alone (`Info.cfg` says which frames these are).

    Attributes:
        root: folder of all patients, for a simulation; a deployed site brings its own path,
            its patient's folder.
        patient: name of the folder of the patient that all share; otherwise sites are named
            like their patient's folder.
        only: the one slice that is used, counted from 0; null for all.
    """

    root: str | None = setting(None, travels=False)
    patient: str | None = None
    only: int | None = setting(None, low=0)

    def __post_init__(self) -> None:
        """Check masks and parts."""
        for name in self.masks:
            if name not in LABELS:
                raise ConfigError(f"scenario.masks: no {name!r}; there are {', '.join(LABELS)}")
        super().__post_init__()

    def location(self, site: str) -> Path | None:
        """Return the folder of the site's patient; None where no root is set.

        Raises:
            ConfigError: no patient is named, or it is no plain folder name.
        """
        if self.root is None:
            return None
        name = self.patient if self.shared else site
        if not name or Path(name).name != name or name.startswith("."):
            key = "scenario.patient" if self.shared else "scenario.parts"
            raise ConfigError(f"{key}: give the name of a folder in root, got {name!r}")
        return Path(self.root).expanduser() / name

    def volume(self, site: str, path: Path | None, seed: int) -> Volume:
        """Read the patient in `path`; see `FieldScenario.volume`."""
        if path is None:
            raise DataError(
                f"site {site}: give the folder of all patients as scenario.root or, at a "
                "hospital, the patient's own"
            )
        if not Path(path).is_dir():
            raise DataError(f"site {site}: {path} is no folder; change scenario.root or patient")
        found = sorted(Path(path).glob("*_4d.nii*"))
        if len(found) != 1:
            raise DataError(f"site {site}: {path} holds {len(found)} files *_4d.nii.gz, one needed")
        file = found[0]
        array, spacing = _read(site, file, 4)
        low, high = array.min(), np.percentile(array, TOP)
        reach = (high - low) or (array.max() - low) or 1.0  # of a few bright voxels, or of none
        signal = ((array - low) / reach).clip(0, 1).astype(np.float32)
        masks = {}
        if self.masks:
            masks = {name: np.full(array.shape, np.nan, np.float32) for name in self.masks}
            for frame in self._marked(site, path, len(array)):
                mark = file.with_name(file.name.replace("_4d", f"_frame{frame + 1:02d}_gt"))
                labels, _ = _read(site, mark, 3)
                if labels.shape != array.shape[1:]:
                    raise DataError(
                        f"site {site}: {mark.name} has (slices, rows, columns) {labels.shape}, "
                        f"{file.name} {array.shape[1:]}"
                    )
                for name in self.masks:
                    masks[name][frame] = labels == LABELS[name]
        if self.only is not None:
            if self.only >= array.shape[1]:
                raise DataError(
                    f"site {site}: {file.name} has {array.shape[1]} slices, scenario.only asks "
                    f"for number {self.only}, counted from 0"
                )
            one = slice(self.only, self.only + 1)
            signal, masks = signal[:, one], {name: mask[:, one] for name, mask in masks.items()}
        rows, columns = (old / self.size for old in signal.shape[2:])
        return Volume(
            self._resized(signal, "bilinear"),
            {name: self._resized(mask, "nearest-exact") for name, mask in masks.items()},
            (spacing[0], spacing[1] * rows, spacing[2] * columns),
        )

    def _marked(self, site: str, path: Path, frames: int) -> list[int]:
        """Return which frames have masks, counted from 0."""
        info = path / "Info.cfg"
        try:
            lines = (line.partition(":") for line in info.read_text().splitlines())
            values = {key.strip(): value.strip() for key, _, value in lines}
            marked = [int(values[key]) - 1 for key in ("ED", "ES")]
        except (OSError, KeyError, ValueError) as error:
            raise DataError(
                f"site {site}: {info} does not say in which frames ED and ES are ({error!r})"
            ) from None
        if not all(0 <= frame < frames for frame in marked):
            raise DataError(f"site {site}: {info} names frames beyond the {frames} there are")
        return marked

    def _resized(self, array: np.ndarray[Any, Any], mode: str) -> np.ndarray[Any, Any]:
        """Return every slice in `size` x `size` pixels."""
        flat = torch.from_numpy(np.ascontiguousarray(array, np.float32)).flatten(0, 1)
        new = Resize((self.size, self.size), mode=mode)(flat).numpy()
        return np.asarray(new).reshape(*array.shape[:2], self.size, self.size)


def _read(site: str, file: Path, axes: int) -> tuple[np.ndarray[Any, Any], tuple[float, ...]]:
    """Return an image, slowest axis first, and the distances (slice, row, column) in mm.

    Raises:
        DataError: it cannot be read, or has another number of axes.
    """
    try:
        image: Any = nib.load(file)
        array = np.asarray(image.dataobj, np.float32)
    except Exception as error:  # nibabel and the codecs raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"site {site}: {file} cannot be read ({reason})") from None
    if array.ndim != axes:
        said = "it has no time axis" if axes == 4 else "a frame's mask needs 3"
        raise DataError(f"site {site}: {file} has {array.ndim} axes, {said}")
    if not array.size or not (np.abs(array) < LIMIT).all():
        raise DataError(f"site {site}: {file} is empty, or has values not finite or over {LIMIT:g}")
    across, down, along = map(float, image.header.get_zooms()[:3])
    return array.T, (along, down, across)
