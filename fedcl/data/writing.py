"""Writing masks as the files of images are, voxel by voxel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedcl.data.grid import Array


def stored_values(classes: Array, values: Sequence[Sequence[int]], colours: bool) -> Array:
    """Return the mask values of classes: of several that mean one, the first.

    Args:
        classes: of every voxel.
        values: of every class, the mask values or colours (24-bit numbers) that mean it.
        colours: whether they are colours.
    """
    firsts = np.array([group[0] for group in values])
    kind: Any = np.int64
    if not colours:
        kind = np.result_type(*(np.min_scalar_type(int(value)) for value in firsts))
    return firsts.astype(kind)[classes]


def write_picture(stored: Array, colours: bool, file: Path) -> None:
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


def write_nifti(stored: Array, source: Path, file: Path) -> None:
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
