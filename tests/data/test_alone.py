"""Images without masks: how their slices are laid back, and the files that answers are written to.

No network takes part: intensities are the numbers of classes, so that an answer is known exactly.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedcl.data.alone import Alone
from fedcl.data.grid import Grid, cut_of
from fedcl.data.notes import Notes
from fedcl.data.reading import Files, Reader, read_alone, read_pair
from fedcl.errors import ConfigError, DataError
from sites.phantom import Phantom
from tests.images import BINARY, RAS, folder, nifti, picture, reoriented, turned

RNG = np.random.default_rng(4)
CLASSES = RNG.integers(0, 3, (6, 5, 4)).astype(np.int16)
"""Indexed (i, j, k)."""
PIXELS = RNG.integers(0, 3, (7, 9)).astype(np.uint8)
"""Indexed (row, column)."""
NUMBERED = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
"""Every voxel differs."""
SIDES = ("RL", "AP", "SI")
AXES = [
    "".join(axes)
    for order in itertools.permutations(SIDES)
    for axes in itertools.product(*order)
]  # fmt: skip
"""All 48 ways to store a volume, such as LPS."""
PLACE = (
    "sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z",
    "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
)  # fmt: skip
"""What of a NIfTI header says where voxels lie."""


def alone(files: Path | Sequence[Path], **settings: Any) -> Alone:
    """Return an image as a scenario reads it that leaves intensities as they are."""
    listed = [files] if isinstance(files, Path) else list(files)
    plain = {"resize": None, "normalise": "none", "labels": [0, 300, -1]}
    return folder(**plain | settings).alone("case", listed, "")


def written(one: Alone, out: Path) -> Path:
    """Write an answer that is the image's first channel."""
    file = out / one.written
    one.write(np.rint(one.image[0]).astype(np.int64), file)
    return file


def edited(file: Path, **fields: Any) -> Path:
    """Change single fields in the header of a NIfTI file."""
    content = bytearray(file.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    file.write_bytes(bytes(content))
    return file


# --- back to the grid as stored --------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("coarse", [0, 1, 2])
def test_slices_are_laid_back_however_a_volume_is_stored(coarse: int, dims: int):
    """In 2-D across each of the three axes, in turn the coarsest one."""
    voxel = [1.0, 1.0, 1.0, 1.0]
    voxel[coarse] = 4.0
    assert len({*AXES}) == 48
    planes = set()
    for axes in AXES:
        stored, affine = reoriented(NUMBERED, np.diag(voxel), axes)
        shape = (stored.shape[0], stored.shape[1], stored.shape[2])
        sizes = tuple(nib.affines.voxel_sizes(affine))
        cut = cut_of(Grid(shape, (sizes[0], sizes[1], sizes[2]), affine), dims)
        planes.add(cut.plane)
        assert np.array_equal(cut.back(cut(stored)), stored)
        slices = RNG.integers(0, 9, cut(stored).shape)
        assert np.array_equal(cut(cut.back(slices)), slices)
        assert cut.back(slices).shape == stored.shape
    assert planes == {"axial" if dims == 3 else ("sagittal", "coronal", "axial")[coarse]}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("spacing", [None, (4.0, 1.0, 1.0), (1.0, 4.0, 1.0), (1.0, 1.0, 4.0)])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 5)])
def test_slices_are_laid_back_without_orientation(shape: Any, spacing: Any, dims: int):
    stored = np.arange(np.prod(shape)).reshape(shape)
    cut = cut_of(Grid(shape, spacing), dims)
    assert cut.plane == "as stored" and np.array_equal(cut.back(cut(stored)), stored)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_mask_does_not_turn_an_image_that_says_nothing_of_how_it_lies(tmp_path: Path, dims: int):
    array = RNG.normal(size=(9, 8, 5)).astype(np.float32)
    image = tmp_path / "image.nii"
    bare = nib.Nifti1Image(array, None)
    bare.header.set_zooms((1, 1, 1))
    nib.save(bare, image)
    mask = nifti(tmp_path / "mask.nii", np.ones((9, 8, 5), np.uint8), np.diag([-1.0, -1, 1, 1]))
    notes, reader = Notes(), Reader("A", BINARY, dims=dims)
    pair = read_pair(Files((image,), mask), reader, notes)
    alone, _ = read_alone(Files((image,), image), reader, Notes())
    assert np.array_equal(pair.image, alone.image)
    assert any("for the mask alone" in str(note) for note in notes.all())


@pytest.mark.parametrize("dims", [2, 3])
def test_an_image_is_cut_as_with_a_mask(tmp_path: Path, dims: int):
    """As it was in training: the same pixels, voxel sizes and plane."""
    for axes in ("LPS", "PIR", "SLA"):
        image = nifti(tmp_path / f"{axes}.nii", *reoriented(CLASSES, RAS, axes))
        mask = nifti(tmp_path / f"{axes}_mask.nii", *reoriented(CLASSES % 2, RAS, axes))
        reader = Reader("A", BINARY, dims=dims)
        pair = read_pair(Files((image,), mask), reader, Notes())
        lone, cut = read_alone(Files((image,), image), reader, Notes())
        assert np.array_equal(lone.image, pair.image) and lone.spacing == pair.spacing
        assert np.array_equal(cut.back(lone.image[0]), np.asarray(nib.load(image).dataobj))
        assert lone.plane == pair.plane and lone.measured and not lone.labels.any()


# --- NIfTI -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
def test_an_answer_lies_on_its_image(tmp_path: Path, axes: str, extension: str, dims: int):
    image = nifti(tmp_path / f"p.{extension}", *reoriented(CLASSES, RAS, axes))
    file = written(alone(image, spatial_dims=dims), tmp_path)
    assert file.name == f"case.{extension}"
    found, given = nib.load(file), nib.load(image)
    assert np.array_equal(found.affine, given.affine) and found.shape == given.shape
    assert found.get_data_dtype() == np.int32, "300 and -1 fit"
    assert np.array_equal(found.dataobj, np.array([0, 300, -1])[np.asarray(given.dataobj)])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sform_code": 1, "qform_code": 0},
        {"sform_code": 0, "qform_code": 1},
        {"sform_code": 0, "qform_code": 0},
        {"sform_code": 4, "qform_code": 2},
        {"sform_code": 1, "qform_code": 1, "qoffset_x": 50.0},
        {"xyzt_units": 3},
        {"xyzt_units": 0},
        {"pixdim": [1, 9, 9, 9, 1, 1, 1, 1]},
        {"sform_code": 1, "qform_code": 0, "quatern_b": 1.2, "quatern_c": 0.9},
    ],
    ids=[
        "both", "sform", "qform", "neither", "other codes", "the two differ", "micron", "no unit",
        "other distances", "a quaternion that is none",
    ],
)  # fmt: skip
def test_the_header_says_the_same_of_the_place(tmp_path: Path, fields: dict[str, Any]):
    """Also what of it contradicts itself: whoever reads both sees them in one place."""
    image = edited(nifti(tmp_path / "p.nii", CLASSES, turned(20)), **fields)
    found = nib.load(written(alone(image), tmp_path))
    given = nib.load(image)
    assert np.array_equal(found.affine, given.affine)
    for name in PLACE:
        assert np.array_equal(found.header[name], given.header[name]), name
    assert np.array_equal(found.dataobj, np.array([0, 300, -1])[CLASSES])


def test_what_is_about_intensities_is_not_taken_over(tmp_path: Path):
    """A window for showing the image, and the numbers by which stored values are scaled."""
    file = nifti(tmp_path / "p.nii", CLASSES * 2)
    edited(file, cal_max=40.0, scl_slope=0.5, scl_inter=0.0)
    found = nib.load(written(alone(file), tmp_path))
    assert float(found.header["cal_max"]) == 0 and found.dataobj.slope == 1
    assert np.array_equal(found.dataobj, np.array([0, 300, -1])[CLASSES])


def test_nifti_2_stays_nifti_2(tmp_path: Path):
    image = nib.Nifti2Image(CLASSES, RAS)
    nib.save(image, tmp_path / "p.nii")
    found = nib.load(written(alone(tmp_path / "p.nii"), tmp_path))
    assert isinstance(found, nib.Nifti2Image) and np.array_equal(found.affine, RAS)


def test_a_slice_stays_a_slice(tmp_path: Path):
    image = nifti(tmp_path / "p.nii", CLASSES[..., 0])
    found = nib.load(written(alone(image), tmp_path))
    assert found.shape == (6, 5)
    assert np.array_equal(found.dataobj, np.array([0, 300, -1])[CLASSES[..., 0]])


def test_of_several_channels_there_is_one_mask(tmp_path: Path):
    both = np.stack([CLASSES, CLASSES * 7], -1)
    file = nifti(tmp_path / "p.nii.gz", both)
    found = nib.load(written(alone(file, channels=2), tmp_path))
    assert found.shape == CLASSES.shape
    assert np.array_equal(found.dataobj, np.array([0, 300, -1])[CLASSES])
    chosen = alone(file, channels=[1])
    assert np.array_equal(np.rint(chosen.cut.back(chosen.image[0])), CLASSES * 7)


def test_channels_in_files_of_their_own_are_brought_to_the_first_one(tmp_path: Path):
    first = nifti(tmp_path / "p_0.nii.gz", *reoriented(CLASSES, RAS, "LPS"))
    other = nifti(tmp_path / "p_1.nii", *reoriented(CLASSES * 7, RAS, "PIR"))
    one = alone([first, other], channels=2)
    assert np.array_equal(one.image[1], one.image[0] * 7)
    found = nib.load(written(one, tmp_path))
    assert np.array_equal(found.affine, nib.load(first).affine)
    assert np.array_equal(found.dataobj, np.array([0, 300, -1])[nib.load(first).dataobj])


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 1, 2], np.uint8),
        ([0, 7, [3, 4]], np.uint8),
        ([0, 255, 254], np.uint8),
        ([0, 256, 1], np.uint16),
        ([0, -1, 1], np.int16),
        ([5, 300, -1], np.int32),
        ([0, 70000, 1], np.uint32),
    ],
)
def test_classes_are_written_by_their_mask_values(tmp_path: Path, labels: list[Any], kind: Any):
    """Of several values that mean a class by the first one, and in a type that holds them."""
    image = nifti(tmp_path / "p.nii", CLASSES)
    found = nib.load(written(alone(image, labels=labels), tmp_path))
    first = [one[0] if isinstance(one, list) else one for one in labels]
    assert found.get_data_dtype() == kind
    assert np.array_equal(found.dataobj, np.array(first)[CLASSES])


def test_a_site_has_mask_values_of_its_own(tmp_path: Path):
    scenario = folder(resize=None, normalise="none", labels=[0, 1, 2], site_labels={"B": [9, 8, 7]})
    image = nifti(tmp_path / "p.nii", CLASSES)
    for site, values in (("", [0, 1, 2]), ("A", [0, 1, 2]), ("B", [9, 8, 7])):
        one = scenario.alone("case", [image], site)
        assert np.array_equal(nib.load(written(one, tmp_path)).dataobj, np.array(values)[CLASSES])


# --- pictures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extension", "kind"),
    [
        *((name, np.uint8) for name in ("png", "PNG", "tif", "bmp", "gif", "ppm", "pgm")),
        ("png", np.uint16), ("tif", np.uint16), ("TIFF", np.float32),
    ],
)  # fmt: skip
def test_of_a_picture_the_answer_is_png(tmp_path: Path, extension: str, kind: Any):
    file = picture(tmp_path / f"p.{extension}", PIXELS.astype(kind))
    one = alone(file, labels=[0, 7, 255])
    assert one.spacing is None and one.written == "case.png"
    with Image.open(written(one, tmp_path)) as found:
        assert found.mode == "L"
        assert np.array_equal(found, np.array([0, 7, 255])[PIXELS])


def test_of_sixteen_bits_every_one_counts(tmp_path: Path):
    values = PIXELS.astype(np.uint16) * 30000
    one = alone(picture(tmp_path / "p.tif", values))
    assert np.array_equal(one.image[0, 0], values)
    png = alone(picture(tmp_path / "p.png", Image.fromarray(values)))
    assert np.array_equal(png.image[0, 0], values)


def test_mask_values_over_a_byte_are_written_of_pictures(tmp_path: Path):
    one = alone(picture(tmp_path / "p.png", PIXELS), labels=[0, 300, 65535])
    with Image.open(written(one, tmp_path)) as found:
        assert np.array_equal(np.asarray(found), np.array([0, 300, 65535])[PIXELS])


def test_a_jpeg_is_answered_pixel_by_pixel(tmp_path: Path):
    smooth = np.add.outer(np.arange(16), 3 * np.arange(24)).astype(np.uint8)
    one = alone(picture(tmp_path / "p.JPG", smooth, quality=100), labels=[0, 1])
    bright = one.image[0] > 40
    one.write(bright.astype(np.uint8), tmp_path / one.written)
    with Image.open(tmp_path / "case.png") as found, Image.open(tmp_path / "p.JPG") as given:
        assert found.size == (24, 16)
        assert np.array_equal(found, np.asarray(given) > 40)


def test_colours_stay_colours(tmp_path: Path):
    colours = np.stack([PIXELS, 9 - PIXELS, PIXELS * 3], -1)
    file = picture(tmp_path / "p.png", colours)
    one = alone(file, channels=3, labels=["#000000", "#ff0001", ["#1020ff", "#00ff00"]])
    assert np.array_equal(one.image[:, 0], colours.transpose(2, 0, 1))
    with Image.open(written(one, tmp_path)) as found:
        assert found.mode == "RGB"
        assert np.array_equal(found, np.array([[0, 0, 0], [255, 0, 1], [16, 32, 255]])[PIXELS])


def test_a_turned_photograph_is_answered_upright(tmp_path: Path):
    """As it is shown: 6 says that the first row is the right-hand side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = picture(tmp_path / "p.png", PIXELS, exif=exif)
    one = alone(file, labels=[0, 1, 2])
    with Image.open(written(one, tmp_path)) as found:
        assert np.array_equal(found, np.rot90(PIXELS, -1))
    assert "turned as their EXIF data say" in one.notes[0].what


# --- what networks are shown -----------------------------------------------------------------


def test_an_image_is_prepared_as_in_training(tmp_path: Path):
    """Brought to another spacing and normalised by the same code: the case is the same, unlabelled.

    A margin about labels, which are not there, leaves nothing out.
    """
    image = nifti(tmp_path / "A" / "images" / "p.nii", *reoriented(CLASSES, RAS, "PIR"))
    nifti(tmp_path / "A" / "masks" / "p.nii", *reoriented(CLASSES % 2, RAS, "PIR"))
    scenario = folder(resize=None, spacing=[1.1, 1.2], normalise="zscore", margin=50)
    (case,) = scenario.cases("A", tmp_path / "A")
    (one,), (other,) = case.scans, folder(
        resize=None, spacing=[1.1, 1.2], normalise="zscore", margin=0
    ).alone("p", [image], "A").case.scans  # fmt: skip
    assert np.array_equal(one.content.image(), other.content.image())
    assert (one.own, one.spacing, one.plane) == (other.own, other.spacing, other.plane)
    assert not other.content.truth().any() and not other.content.labels().any()


def test_what_cannot_be_read_names_the_file(tmp_path: Path):
    file = nifti(tmp_path / "p.nii", np.stack([CLASSES] * 2, -1))
    with pytest.raises(DataError, match=r"^site A: .*/p\.nii: 2 channels, scenario\.channels"):
        folder(resize=None).alone("p", [file], "A")
    flat = nifti(tmp_path / "q.nii", CLASSES)
    window = folder(resize=None, normalise="window", window=[100, 200])
    with pytest.raises(DataError, match=r"^site A: .*/q\.nii: the window leaves nothing of it"):
        window.alone("q", [flat], "A")
    far = nifti(tmp_path / "r.nii", CLASSES, RAS + np.outer([30, 0, 0, 0], [0, 0, 0, 1]))
    with pytest.raises(DataError, match=r"^site A: .*/r\.nii: origins in the headers differ"):
        folder(resize=None, channels=2).alone("q", [flat, far], "A")


def test_imaginary_hospitals_read_no_files(tmp_path: Path):
    with pytest.raises(ConfigError, match="Phantom reads no image files of its own"):
        Phantom().alone("p", [tmp_path / "p.nii"], "A")
