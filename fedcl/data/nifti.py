"""Reading NIfTI: values, and where they lie as the header says; what it leaves open is told."""

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from fedcl.data.grid import SHEAR, SPACING, Array, Grid, displacement, shear
from fedcl.data.notes import Notes

LIMIT = 1e15
"""Far above any intensity or distance, yet its square fits float32."""
FARTHEST = 1e9
"""Millimetres that a voxel may lie from the origin."""
LONGEST = 1e6
"""Seconds between two frames that may be meant."""
MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
"""Of the units that `xyzt_units` can name."""
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def read(file: Path, axes: tuple[int, ...], notes: Notes) -> tuple[Array, Grid]:
    """Return the values of a file, (i, j, k) or (i, j, k, frames), and where they lie.

    Args:
        file: .nii or .nii.gz.
        axes: how many it may have; a single slice gets a third one.
        notes: gets what the header does not say, or says in two ways.

    Raises:
        ValueError and many others: it is damaged, or no image of numbers with these axes.
    """
    image: Any = nib.load(file)
    if file.name.lower().endswith(".gz"):
        # The decoder stops at the last voxel; a file cut short after it shows only here. And room
        # is made for as many voxels as the header tells of, whatever comes.
        there = 0
        with gzip.open(file) as stream:
            while part := stream.read(1 << 20):
                there += len(part)
        told = math.prod(image.shape) * image.get_data_dtype().itemsize
        if there < told:
            raise ValueError(f"its header tells of {told} bytes of values, there are {there}")
    array = np.asanyarray(image.dataobj)
    while array.ndim > max(axes) and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in axes or not array.size or array.dtype.kind not in "iuf":
        raise ValueError(f"no slice or volume of numbers: {array.dtype} {array.shape}{_axes(axes)}")
    array = array.reshape(*array.shape, *(1,) * (3 - array.ndim))
    return array, _grid(image, file, (array.shape[0], array.shape[1], array.shape[2]), notes)


def frame_time(file: Path) -> float:
    """Return the seconds between the frames of a file; 0 where it does not say."""
    header: Any = nib.load(file).header
    zooms, unit = header.get_zooms(), SECONDS.get(header.get_xyzt_units()[1], 0.0)
    seconds = float(zooms[3]) * unit if len(zooms) > 3 else 0.0
    return seconds if 0 < seconds < LONGEST else 0.0


def _grid(image: Any, file: Path, shape: tuple[int, int, int], notes: Notes) -> Grid:
    """Return where voxels lie, in mm: by the sform, else the qform, else by pixdim alone.

    Raises:
        ValueError: the header gives no distances, or no place.
    """
    # nibabel mends a header as it loads it: distances that are none become 1.
    with nib.openers.ImageOpener(str(file)) as stream:
        raw: Any = type(image.header).from_fileobj(stream, check=False)
    if raw["magic"].item()[:2] == b"n+" and float(raw["vox_offset"]) < raw.single_vox_offset:
        raise ValueError("the header says that the values begin within it (vox_offset)")
    name = image.header.get_xyzt_units()[0]
    if name == "unknown":
        whose = f"{file.parent.name}/{file.name}"
        notes.add("NIfTI without a unit of length, taken to be mm", whose)
    unit = MILLIMETRES[name]
    zooms = [unit * float(zoom) for zoom in raw["pixdim"][1:4]]
    told = [axis for axis in range(3) if axis < raw["dim"][0] and shape[axis] > 1]
    measured = all(0 < zooms[axis] < LIMIT for axis in told)
    if not int(raw["sform_code"]) and not int(raw["qform_code"]):
        notes.add("NIfTI without orientation codes, slices taken as they are stored", file.name)
        if not measured:
            raise ValueError("the header gives no valid spacing (pixdim)")
        # Of an axis that has no second voxel any distance will do.
        across, down, along = (zoom if 0 < zoom < LIMIT else 1.0 for zoom in zooms)
        return Grid(shape, (across, down, along))
    affine, sizes = placed(image.affine, unit, shape)
    if shear(affine) > SHEAR:
        what = "axes that are not at right angles; slices are taken as if they were"
        notes.add(what, f"{file.name} {shear(affine):.2g} degrees")
    if int(raw["sform_code"]):
        if int(raw["qform_code"]):
            other, _ = placed(image.header.get_qform(), unit, shape)
            if displacement(affine, other, shape) > 0.5:
                notes.add("sform and qform of the header differ, the sform is taken", file.name)
        pairs = [(sizes[axis], zooms[axis]) for axis in told]
        if measured and not all(abs(size - zoom) <= SPACING * zoom for size, zoom in pairs):
            notes.add("sform and pixdim of the header differ, the sform is taken", file.name)
    return Grid(shape, sizes, affine)


def placed(
    affine: Array, unit: float, shape: tuple[int, int, int]
) -> tuple[Array, tuple[float, float, float]]:
    """Return an affine matrix in mm, and the distances along its axes.

    Raises:
        ValueError: it maps to no volume.
    """
    affine = np.array(affine, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        affine[:3] *= unit
        for axis, size in enumerate(shape):
            if size == 1 and not affine[:3, axis].any():  # the third axis of a slice
                one, other = (affine[:3, (axis + n) % 3] for n in (1, 2))
                affine[:3, axis] = np.cross(one, other)
                affine[:3, axis] /= np.linalg.norm(affine[:3, axis])
        across, down, along = (float(size) for size in nib.affines.voxel_sizes(affine))
        sizes = (across, down, along)
        if not np.abs(affine).max() < FARTHEST or not all(0 < size < LIMIT for size in sizes):
            raise ValueError("the header gives no valid spacing or place")
        if not abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-6:
            raise ValueError("the header gives no valid spacing: its axes lie in a plane")
    return affine, sizes


def _axes(axes: tuple[int, ...]) -> str:
    """Return which axes were wanted, where it is not plain."""
    if axes != (4,):
        return ""
    return (
        ", but columns, rows, slices and frames are needed: it has no time axis or, if the third "
        "is time, no slice axis"
    )
