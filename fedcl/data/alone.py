"""An image that nobody has labelled: read like the others, and its answer written back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedcl.data.cases import Case
from fedcl.data.files import NIFTI, VOLUMES, bad, is_nifti
from fedcl.data.grid import Array, Cut, Spacing
from fedcl.data.labels import Labels
from fedcl.data.notes import Note, Notes
from fedcl.data.preparing import Preparation
from fedcl.data.reading import Files, Reader, read_alone

KEPT = (*NIFTI, *VOLUMES)
"""Formats in which an answer is written as well."""
TOGETHER = {".mhd": ".mha", ".nhdr": ".nrrd"}


@dataclass(frozen=True)
class Alone:
    """One image, as networks are shown it and as it is stored.

    Attributes:
        case: with one scan and no labels.
        file: of the image, or the first of those of its channels.
        image: as it came, (C, slices, rows, columns).
        cut: how it was turned and cut into slices.
        labels: by which values the classes are written.
        spacing: between voxels (slice, row, column), in mm; None where the file does not say.
        notes: what was guessed in reading it.
    """

    case: Case
    file: Path
    image: Array
    cut: Cut
    labels: Labels
    spacing: Spacing | None
    notes: Sequence[Note]

    @property
    def written(self) -> str:
        """The name of the file of its answer: the case's, in the image's format.

        Of pictures it is PNG, of MetaImage and NRRD in two files that of one, of DICOM NIfTI.
        """
        kind = next((one for one in KEPT if self.file.name.lower().endswith(one)), ".png")
        if self.file.is_dir():
            kind = ".nii.gz"
        return f"{self.case.name}{TOGETHER.get(kind, kind)}"

    def write(self, classes: Array, file: Path) -> None:
        """Write the class of every voxel, by its mask value, on the image's own grid.

        Args:
            classes: shape (slices, rows, columns).
            file: as `written` names it.
        """
        stored = self._values(self.cut.back(classes))
        if file.name.lower().endswith(".png"):
            _write_picture(stored, self.labels.colours, file)
        elif is_nifti(self.file):
            _write_nifti(stored, self.file, file)
        else:
            _write_volume(stored, self.file, file)

    def _values(self, classes: Array) -> Array:
        """Return the mask values of classes: of several that mean one, the first."""
        values = np.array([group[0] for group in self.labels.values])
        kind: Any = np.uint8
        if not self.labels.colours:
            kind = np.result_type(*(np.min_scalar_type(int(value)) for value in values))
        return values.astype(np.int64 if self.labels.colours else kind)[classes]


def read_unlabelled(
    name: str, files: Sequence[Path], reader: Reader, prepare: Preparation
) -> Alone:
    """Read an image that nobody has labelled.

    Args:
        name: of the case.
        files: one that has all channels, or one per channel.
        reader: how they are read.
        prepare: what is made of it, with all slices.

    Raises:
        DataError: it cannot be used; names the file.
    """
    notes = Notes()
    pair, cut = read_alone(Files(tuple(files), files[0]), reader, notes)
    try:
        scans = prepare(pair)
    except ValueError as error:
        raise bad(reader.site, files[0], str(error)) from None
    return Alone(
        Case(name, tuple(scans)), files[0], pair.image, cut, reader.labels,
        pair.spacing if pair.measured else None, notes.all(),
    )  # fmt: skip


def _write_picture(stored: Array, colours: bool, file: Path) -> None:
    """Write a picture, (column, row, 1), grey or in colours."""
    from PIL import Image

    marks = stored[:, :, 0].T
    if colours:
        parts = [(marks >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)]
        Image.fromarray(np.stack(parts, -1)).save(file)
        return
    if marks.min() < 0 or marks.max() > np.iinfo(np.uint16).max:
        raise OSError("mask values that a picture cannot hold (0 to 65535)")
    Image.fromarray(marks if marks.dtype == np.uint8 else marks.astype(np.uint16)).save(file)


def _write_nifti(stored: Array, source: Path, file: Path) -> None:
    """Write NIfTI with the place, directions and units of its image."""
    import nibabel as nib

    image: Any = nib.load(source)
    shape = image.shape[:3]
    header = image.header.copy()
    header.set_data_dtype(stored.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    # Without an affine of its own all that the header says of the place stays, word for word.
    nib.save(type(image)(stored.reshape(shape), None, header), file)


def _write_volume(stored: Array, source: Path, file: Path) -> None:
    """Write what SimpleITK can: MetaImage, NRRD, and NIfTI for a folder of DICOM slices."""
    import SimpleITK as sitk  # noqa: N813  its own abbreviation

    from fedcl.data.volumes import opened

    image: Any = opened(source)
    array = np.ascontiguousarray(stored.transpose(2, 1, 0))
    made: Any = sitk.GetImageFromArray(array if image.GetDimension() == 3 else array[0])
    made.CopyInformation(image)
    try:
        sitk.WriteImage(made, str(file), useCompression=True)
    except RuntimeError as error:
        raise OSError(f"the mask cannot be written ({str(error).splitlines()[-1]})") from None
