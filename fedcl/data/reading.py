"""Reading image and mask files of any kind, and saying which one is at fault."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fedcl.data import nifti, pictures, volumes
from fedcl.data.channels import Channels
from fedcl.data.files import bad, is_nifti, is_volume
from fedcl.data.grid import Array, Cut, Grid, Spacing, along, apart, cut_of, offset
from fedcl.data.labels import IGNORED, Labels
from fedcl.data.nifti import LIMIT
from fedcl.data.notes import Notes

PLAUSIBLE = 0.05, 20.0
"""Sizes of a voxel in mm that medical images have."""


@dataclass(frozen=True)
class Files:
    """The files of one image.

    Attributes:
        images: one that has all channels, or one per channel.
        mask: its labels.
        region: a mask of what counts: what is 0 in it counts nowhere; None where all does.
        frame: of a file of several, counted from 0.
    """

    images: tuple[Path, ...]
    mask: Path
    region: Path | None = None
    frame: int | None = None

    @property
    def every(self) -> list[Path]:
        """All of them."""
        return [*self.images, self.mask, *([self.region] if self.region else [])]


@dataclass(frozen=True)
class Reader:
    """How the files of a site are read.

    Attributes:
        site: whose they are, for messages.
        labels: which of a mask's values are which class.
        channels: which channels are taken.
        dims: 2 for slices, 3 for volumes.
        same_origin: whether a mask is refused that its header places elsewhere.
    """

    site: str
    labels: Labels
    channels: Channels = field(default_factory=Channels)
    dims: int = 2
    same_origin: bool = True


@dataclass(frozen=True)
class Pair:
    """An image and its labels, cut into slices.

    Attributes:
        image: float32, shape (C, D, rows, columns).
        labels: classes, uint8, shape (D, rows, columns).
        spacing: distance between voxels (slice, row, column), in mm where a file says so, else 1.
        plane: of the slices, or "as stored".
        affine: from (column, row, slice) to mm; None where no orientation is given.
        measured: whether a file says how far voxels lie apart.
        region: what a file says counts, bool, of the labels' shape; None where none does. Unlike
            voxels that a mask has ignored, it is known of images that nobody has labelled.
    """

    image: Array
    labels: Array
    spacing: Spacing
    plane: str
    affine: Array | None
    measured: bool = True
    region: Array | None = None


def read_pair(files: Files, reader: Reader, notes: Notes) -> Pair:
    """Read an image and its mask, one slice or a volume of several.

    Masks and further channels are brought to the orientation of the first image file, each by its
    own header.

    Args:
        files: of the same shape, spacing and place.
        reader: whose, and how they are read.
        notes: gets what was guessed.

    Raises:
        DataError: a file is unreadable, or two are at odds.
    """
    first = files.images[0]
    image, grid = _channels(files, reader, notes)
    read = partial(_read_mask, frame=files.frame)
    mask, mask_grid = _laid_along(files.mask, read, grid, reader, notes)
    region = None
    if files.region is not None:
        region = _laid_along(files.region, _read_region, grid, reader, notes)[0] > 0
        mask = np.where(region, mask, np.uint8(IGNORED))
    # By the image alone, as one without a mask would be cut; how far voxels lie apart its mask may
    # tell as well.
    cut = cut_of(grid, reader.dims)
    spacing = cut.distances(grid.spacing or mask_grid.spacing or (1.0, 1.0, 1.0))
    if cut.plane in ("sagittal", "coronal"):
        notes.add(f"cut into {cut.plane} slices, across the coarsest axis", first.name)
    pixels = np.stack([cut(one) for one in image])
    if reader.dims == 3 and pixels.shape[1] == 1:
        notes.add("a single slice taken for a volume (scenario.spatial_dims)", first.name)
    measured = grid.spacing is not None or mask_grid.spacing is not None
    seen = None if region is None else cut(region)
    return Pair(pixels, cut(mask), spacing, cut.plane, cut.affine, measured, seen)


def read_alone(files: Files, reader: Reader, notes: Notes) -> tuple[Pair, Cut]:
    """Read an image without a mask, and say how it was cut; errors as of `read_pair`."""
    image, grid = _channels(files, reader, notes)
    cut = cut_of(grid, reader.dims)
    pixels = np.stack([cut(one) for one in image])
    nothing = np.zeros(pixels.shape[1:], np.uint8)
    measured = grid.spacing is not None
    return Pair(pixels, nothing, cut.spacing, cut.plane, cut.affine, measured), cut


def _channels(files: Files, reader: Reader, notes: Notes) -> tuple[Array, Grid]:
    """Return the channels that are asked for, (C, i, j, k), and where they lie."""
    first, *others = files.images
    image, grid = read_image(reader.site, first, notes, files.frame)
    parts = [image]
    for file in others:
        values, its = read_image(reader.site, file, notes, files.frame)
        turned, its = along(np.moveaxis(values, 0, -1), its, grid)
        check_same(reader.site, file, grid, its, notes, reader.same_origin)
        parts.append(np.moveaxis(turned, -1, 0))
    if others:
        parts = [_single(reader.site, *one) for one in zip(files.images, parts, strict=True)]
    there = np.concatenate(parts)
    try:
        taken = reader.channels.take(there)
    except ValueError as error:
        raise bad(reader.site, first, str(error)) from None
    if len(taken) > len(there):
        notes.add("grey images, whose one channel is taken for all three colours", first.name)
    return taken, grid


def _single(site: str, file: Path, part: Array) -> Array:
    """Return the one channel, (1, i, j, k), of a file among several.

    Raises:
        DataError: it has more.
    """
    try:
        return Channels().take(part)
    except ValueError:
        raise bad(site, file, f"{len(part)} channels in one of several files") from None


def _laid_along(
    file: Path,
    read: Callable[[Path, Reader, Notes], tuple[Array, Grid]],
    grid: Grid,
    reader: Reader,
    notes: Notes,
) -> tuple[Array, Grid]:
    """Return a mask as it lies on the grid of its image, and its own grid."""
    mask, own = read(file, reader, notes)
    turned, its = along(mask, own, grid)
    if its is not own:
        what = "masks stored along other axes than their images, turned by their headers"
        notes.add(what, f"{file.name} {own.axes}, image {grid.axes}")
    check_same(reader.site, file, grid, its, notes, reader.same_origin)
    return turned, its


def _read_region(file: Path, reader: Reader, notes: Notes) -> tuple[Array, Grid]:
    """Return a mask of what counts, (i, j, k), and where it lies."""
    image, grid = read_image(reader.site, file, notes)
    return image.max(axis=0), grid


def check_same(
    site: str, mask_file: Path, image: Grid, mask: Grid, notes: Notes, same_origin: bool = True
) -> None:
    """Check that a mask lies where its image does.

    A place less than a voxel away is noted, one further away as well where it need not be the
    same: the mask is then taken voxel by voxel.

    Raises:
        DataError: shape, spacing, direction or place differ.
    """
    if image.shape != mask.shape:
        sizes = (grid.shape[::-1] for grid in (mask, image))
        told = "shapes (slices, rows, columns) differ: mask {}, image {}".format(*sizes)
        raise bad(site, mask_file, told)
    problem = apart(image, mask)
    if problem is not None:
        raise bad(site, mask_file, problem)
    away = offset(image, mask)
    if away > 1 and same_origin:
        raise bad(
            site,
            mask_file,
            f"origins in the headers differ: the mask lies {away:.3g} voxels from its image; "
            "resample it, or if voxel and voxel belong together give scenario.same_origin=false",
        )
    if away:
        what = "masks that their headers place elsewhere than the image, taken voxel by voxel"
        notes.add(what, f"{mask_file.name} {away:.2g} voxels")
    if image.affine is None and mask.affine is not None:
        notes.add("orientation given for the mask alone, images taken as stored", mask_file.name)
    if image.affine is not None and mask.affine is None:
        notes.add("orientation given for the image alone, taken for both", mask_file.name)


def read_image(site: str, file: Path, notes: Notes, frame: int | None = None) -> tuple[Array, Grid]:
    """Return the channels of an image as stored, float32, (C, i, j, k).

    Args:
        site: whose file it is.
        file: a picture, indexed (column, row), or a volume; a single slice gets a third axis, and
            a fourth one is the channels, or frames.
        notes: gets what was given up or guessed.
        frame: which one of a file of several is taken, as the only channel.

    Raises:
        DataError: it cannot be read, or has values that are no intensities.
    """

    def picture() -> Array:
        image, clear = _opened(file, notes)
        if clear:
            notes.add("transparency of images is not looked at", file.name)
        return np.moveaxis(pictures.channels(image), 0, -1).swapaxes(0, 1)[:, :, None]

    array, grid = _read(site, file, (2, 3, 4), notes, picture)
    sizes = [size for size, n in zip(grid.spacing or (), grid.shape, strict=False) if n > 1]
    if not all(PLAUSIBLE[0] <= size <= PLAUSIBLE[1] for size in sizes):
        what = "voxels of a size that is hardly one in mm (look at the unit that the file gives)"
        notes.add(what, f"{file.name} {' x '.join(f'{size:.3g}' for size in sizes)}")
    if array.ndim == 3:
        array = array[..., None]
    if frame is not None:
        if not 0 <= frame < array.shape[3]:
            raise bad(site, file, f"{array.shape[3]} frames, none of number {frame} from 0")
        array = array[..., frame : frame + 1]
    return np.moveaxis(_intensities(site, file, array), -1, 0), grid


def read_frames(site: str, file: Path, notes: Notes) -> tuple[Array, Grid]:
    """Return the frames of a cine volume as stored, float32, (i, j, k, frames).

    Raises:
        DataError: it cannot be read, has no time axis, or values that are no intensities.
    """

    def picture() -> Array:
        raise ValueError("a picture has no time axis")

    array, grid = _read(site, file, (4,), notes, picture)
    return _intensities(site, file, array), grid


def _intensities(site: str, file: Path, array: Array) -> Array:
    """Return values as float32.

    Raises:
        DataError: they are no intensities.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # found and told in the next line
        values = array.astype(np.float32)
    if not (np.abs(values) < LIMIT).all():
        raise bad(site, file, f"pixel values that are not finite, or over {LIMIT:g}")
    return values


def read_along(file: Path, grid: Grid, reader: Reader, notes: Notes) -> Array:
    """Return the classes of a mask as they lie on the grid of its image, uint8, (i, j, k).

    Raises:
        DataError: it is unreadable, or lies elsewhere.
    """
    return _laid_along(file, _read_mask, grid, reader, notes)[0]


def _read_mask(
    file: Path, reader: Reader, notes: Notes, frame: int | None = None
) -> tuple[Array, Grid]:
    """Return the class of every voxel of a mask as stored, uint8, (i, j, k).

    Of a file with several frames `frame` is taken.

    Raises:
        DataError: it cannot be read, or has values that are no class.
    """
    site, labels = reader.site, reader.labels

    def picture() -> Array:
        image, clear = _opened(file, notes)
        if clear:
            raise ValueError(
                "transparent in part; whether colour or transparency is the mask cannot be "
                "known, save it without transparency"
            )
        return np.swapaxes(pictures.marks(image, labels.colours), 0, 1)[:, :, None]

    axes = (2, 3) if frame is None else (2, 3, 4)
    array, grid = _read(site, file, axes, notes, picture)
    if frame is not None and array.ndim == 4:
        if frame >= array.shape[3]:
            raise bad(site, file, f"{array.shape[3]} frames, none of number {frame} from 0")
        array = array[..., frame]
    try:
        if labels.colours and is_volume(file):
            raise ValueError(f"{labels.key} gives colours, volumes have none; give values")
        encoded = labels.encode(array[:, :, 0] if labels.colours else array)
    except ValueError as error:
        typed = re.fullmatch(r"\w+", site, re.ASCII)  # what a command line takes in a key
        where = f"scenario.site_labels.{site}=[...]" if typed else "scenario.site_labels in a YAML"
        own = f"; scenario.labels=[...] is for all sites, {where} for this one alone"
        raise bad(site, file, f"{error}{own * (labels.key == 'scenario.labels')}") from None
    return encoded.reshape(grid.shape), grid


def _opened(file: Path, notes: Notes) -> tuple[Image.Image, bool]:
    """Return a picture and whether it is transparent in part; note whether it was turned."""
    opened = pictures.opened(file)
    if opened.turned:
        notes.add("pictures turned as their EXIF data say", file.name)
    return opened.image, opened.clear


def _read(
    site: str, file: Path, axes: tuple[int, ...], notes: Notes, picture: Callable[[], Array]
) -> tuple[Array, Grid]:
    """Return a file's values and where they lie; `picture` reads what is no volume.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if not file.is_file() and not file.is_dir():
            raise ValueError("neither a file nor a folder")
        if not is_volume(file):
            array = picture()
            return array, Grid((array.shape[0], array.shape[1], 1))
        if is_nifti(file):
            return nifti.read(file, axes, notes)
        return volumes.read(file, axes, notes)
    except Exception as error:  # damaged files make the decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise bad(site, file, f"cannot be read: {reason}") from error
