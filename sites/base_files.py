"""Reading image and mask files of any kind, slice by slice, and saying which one is at fault."""

import gzip
import re
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader, PILReader
from PIL import Image

from fedcl.errors import DataError

NIFTI = (".nii", ".nii.gz")
EXTENSIONS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".ppm", *NIFTI)
# Content decides how a picture is decoded, and Pillow knows far more formats than these.
FORMATS = ("PNG", "TIFF", "JPEG", "PPM")
GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
LIMIT = 1e15  # far above any intensity, yet its square fits float32

Array = np.ndarray[Any, Any]


def bad(site: str, file: Path, what: str) -> DataError:
    """Return the error that names site, file and what is wrong with it."""
    return DataError(f"site {site}: {file.parent.name}/{file.name}: {what}")


def natural(stem: str) -> tuple[list[str | int], str]:
    """Return a sorting key that puts slice 2 before slice 10."""
    parts = re.split(r"(\d+)", stem)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], stem


def read_pair(
    site: str, image_file: Path, mask_file: Path, labels: list[int], size: int
) -> tuple[Array, Array, tuple[float, float, float]]:
    """Read an image and its mask.

    Args:
        site: whose files they are.
        image_file: a slice, or a volume of several.
        mask_file: likewise, of the same shape.
        labels: the values that the mask may have.
        size: of the slices after resizing; they are not resized here.

    Returns:
        Image (float32) and mask, both (D, rows, columns), and the distances (slice, row,
        column) after resizing, in mm where the image's file gives them, else 1.

    Raises:
        DataError: a file is unreadable, or the two are at odds.
    """
    image, affine = read(site, image_file, is_mask=False)
    mask, mask_affine = read(site, mask_file, is_mask=True)
    if image.shape != mask.shape:
        sizes = f"mask {mask.shape}, image {image.shape}"
        raise bad(site, mask_file, f"shapes (slices, rows, columns) differ: {sizes}")
    if affine is not None and mask_affine is not None:
        axes, mask_axes = ("".join(nib.aff2axcodes(a)) for a in (affine, mask_affine))
        if axes != mask_axes:
            what = f"mask {mask_axes}, image {axes}"
            raise bad(site, mask_file, f"orientations in the headers differ: {what}")
    wrong = np.unique(mask[~np.isin(mask, labels)])
    if wrong.size:
        values = ", ".join(f"{value:g}" for value in wrong[:8]) + ", ..." * (wrong.size > 8)
        what = f"mask values {values} are not in scenario.labels {labels}"
        raise bad(site, mask_file, what)
    image = image.astype(np.float32)
    if not (np.abs(image) < LIMIT).all():
        raise bad(site, image_file, f"pixel values that are not finite, or over {LIMIT:g}")
    if affine is None:
        return image, mask, (1.0, 1.0, 1.0)
    across, down, along = map(float, nib.affines.voxel_sizes(affine))
    rows, columns = (old / size for old in image.shape[1:])
    return image, mask, (along, down * rows, across * columns)


def read(site: str, file: Path, is_mask: bool) -> tuple[Array, Array | None]:
    """Return the values (slices, rows, columns) and, for NIfTI, the affine matrix (4, 4).

    Raises:
        DataError: it cannot be read; names the site and the file.
    """
    nifti = file.name.lower().endswith(NIFTI)
    reader: Any = NibabelReader(squeeze_non_spatial_dims=True)
    if not nifti:
        reader = PILReader(partial(_grey, is_mask=is_mask), formats=FORMATS)
    try:
        # Decoders stop at the last pixel; a file cut short after it shows only here.
        if file.name.lower().endswith(".gz"):
            with gzip.open(file) as stream:
                while stream.read(1 << 20):
                    pass
        elif not nifti:
            with Image.open(file, formats=FORMATS) as picture:
                picture.verify()
        array, meta = reader.get_data(reader.read(file))
        affine = meta.get("affine")
        if array.ndim not in (2, 3) or not array.size or array.dtype.kind not in "iuf":
            raise ValueError(f"no slice or volume of numbers: {array.dtype} {array.shape}")
        if affine is not None and not abs(np.linalg.det(affine)) > 0:  # zero or NaN
            raise ValueError("the header gives no valid spacing")
    except Exception as error:  # damaged files make the decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise bad(site, file, f"cannot be read: {reason}") from error
    values = array.T  # both readers index (column, row, slice)
    return values if values.ndim == 3 else values[None], affine


def _grey(image: Image.Image, is_mask: bool) -> Image.Image:
    """Return `image` with one channel; a mask with a coloured palette keeps its indices."""
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("several pictures in one file")
    image.load()
    if image.mode == "P" and is_mask:
        palette = np.array(image.getpalette()).reshape(-1, 3)
        if (palette != palette[:, :1]).any():
            return image
    return image if image.mode in GREY else image.convert("L")
