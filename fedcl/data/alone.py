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
from fedcl.data.writing import stored_values, write_nifti, write_picture

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
        stored = stored_values(self.cut.back(classes), self.labels.values, self.labels.colours)
        if file.name.lower().endswith(".png"):
            write_picture(stored, self.labels.colours, file)
        elif is_nifti(self.file):
            write_nifti(stored, self.file, file)
        else:
            _write_volume(stored, self.file, file)


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
