"""How files become cases: one reader for all layouts; what it takes, refuses, and says."""

import json
import os
import re
import struct
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from fedcl.app.cli import main
from fedcl.data.cases import vanished
from fedcl.data.grid import Grid, apart, cut_of, offset
from fedcl.data.labels import IGNORED, Labels
from fedcl.data.notes import Notes
from fedcl.data.reading import check_same, read_image, read_pair
from fedcl.data.resampling import reduced, restored, scaled
from fedcl.errors import ConfigError, DataError
from fedcl.registry import SCENARIO
from fedcl.settings import parse
from sites.decathlon import Decathlon
from sites.folder import Folder
from tests.conftest import TINY, read

RNG = np.random.default_rng(0)
BINARY = Labels(((0,), (1,)))
RAS = np.diag([1.5, 2.0, 4.0, 1.0])


def folder(**values: Any) -> Folder:
    defaults = {"size": 16, "normalise": "minmax", "patient": "^(.+)$", "labels": [0, 1]}
    return parse(Folder, defaults | values, "scenario")


def nifti(file: Path, array: np.ndarray, affine: Any = RAS, unit: str = "mm") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, file)
    return file


def picture(file: Path, content: Any, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = content if isinstance(content, Image.Image) else Image.fromarray(content)
    image.save(file, **options)
    return file


def reoriented(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the same voxels at the same places, stored along other axes."""
    image = nib.Nifti1Image(array, affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
    )
    other = image.as_reoriented(turn)
    return np.asarray(other.dataobj), other.affine


def told(scenario: Any, site: Path) -> list[str]:
    return [str(note) for note in scenario.cases("A", site).notes]


# --- orientation and geometry ------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "SLA", "ILP", "LAS"])
def test_a_patient_is_the_same_in_whatever_orientation_it_is_stored(tmp_path: Path, axes: str):
    volume = RNG.integers(0, 99, (12, 10, 5)).astype(np.int16)
    mask = (volume > 60).astype(np.uint8)
    cases = []
    for name, kept in (("as-drawn", "RAS"), ("stored", axes)):
        for kind, array in (("images", volume), ("masks", mask)):
            nifti(tmp_path / name / kind / "p.nii.gz", *reoriented(array, RAS, kept))
        cases += folder().cases("A", tmp_path / name)
    one, other = cases
    assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert torch.equal(one.own[0], other.own[0])
    assert one.spacing == other.spacing == (4.0, 2.0, 1.5) and other.plane == "axial"


@pytest.mark.parametrize(
    ("spacing", "plane", "shape"),
    [
        ((1.0, 1.0, 5.0), "axial", (7, 6, 5)),
        ((5.0, 1.0, 1.0), "sagittal", (5, 7, 6)),
        ((1.0, 5.0, 1.0), "coronal", (6, 7, 5)),
        ((1.0, 1.0, 1.0), "axial", (7, 6, 5)),
        ((1.0, 1.004, 1.0), "axial", (7, 6, 5)),  # rounding is no reason to cut otherwise
    ],
)
def test_slices_are_cut_across_the_coarsest_axis(spacing, plane: str, shape: tuple[int, ...]):
    grid = Grid((5, 6, 7), spacing, np.diag([*spacing, 1.0]))
    cut, array = cut_of(grid), RNG.normal(size=(5, 6, 7))
    assert cut.plane == plane and cut(array).shape == shape
    assert cut.spacing[0] == max(spacing) or plane == "axial"
    index = np.array([2, 1, 3])  # column, row, slice
    column, row, slice_ = index
    place = (cut.affine @ [*index, 1])[:3]
    stored = np.round(place / spacing).astype(int)
    assert cut(array)[slice_, row, column] == array[tuple(stored)]


def test_a_single_slice_is_one_slice_whatever_its_thickness(tmp_path: Path):
    nifti(tmp_path / "x.nii", RNG.normal(size=(1, 8, 9)), np.diag([0.5, 2.0, 2.0, 1]))
    _, grid = read_image("A", tmp_path / "x.nii", (2, 3), Notes())
    assert cut_of(grid)(np.zeros((1, 8, 9))).shape == (1, 9, 8)


def test_planes_other_than_axial_are_told(tmp_path: Path):
    for kind in ("images", "masks"):
        nifti(
            tmp_path / kind / "p.nii",
            np.eye(8, dtype=np.uint8)[None].repeat(3, 0),
            np.diag([9, 1, 1, 1]),
        )
    assert "cut into sagittal slices, across the coarsest axis: p.nii" in told(folder(), tmp_path)
    assert folder().task.describe(folder(val=0.3, test=0.3).load("A", three(tmp_path), 0))["plane"]


def three(site: Path) -> Path:
    """Return a site with the same patient three times."""
    for kind in ("images", "masks"):
        content = (site / kind / "p.nii").read_bytes()
        for n in "ab":
            (site / kind / f"{n}.nii").write_bytes(content)
    return site


def test_without_orientation_codes_nothing_is_guessed(tmp_path: Path):
    volume = RNG.integers(0, 99, (6, 5, 4)).astype(np.int16)
    image = nib.Nifti1Image(volume, None)
    image.header.set_zooms((1.0, 2.0, 3.0))
    image.header.set_xyzt_units("mm")
    assert not int(image.header["sform_code"]) and not int(image.header["qform_code"])
    nib.save(image, tmp_path / "x.nii")
    notes = Notes()
    array, grid = read_image("A", tmp_path / "x.nii", (3,), notes)
    assert grid.affine is None and grid.spacing == (1.0, 2.0, 3.0)
    assert np.array_equal(array, volume), "nibabel's own guess would mirror it"
    assert "NIfTI without orientation codes" in str(notes.all()[0])


def turned(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return affine @ RAS


@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (
            np.diag([1.5, 2.0, 4.2, 1]),
            "spacings in the headers differ: mask 1.5x2x4.2, image 1.5x2x4",
        ),
        (turned(40), "the mask is turned by 40 degrees"),
        (np.diag([-1.5, 2.0, 4.0, 1]), "mask LAS, image RAS"),
        (RAS + np.outer([8, 0, 0, 0], [0, 0, 0, 1]), "5.33 voxels from its image"),
    ],
)
def test_a_mask_that_lies_elsewhere_is_refused(tmp_path: Path, affine: np.ndarray, said: str):
    shape = (8, 8, 3)
    nifti(tmp_path / "images" / "p.nii", np.zeros(shape, np.int16))
    nifti(tmp_path / "masks" / "p.nii", np.zeros(shape, np.uint8), affine)
    with pytest.raises(DataError, match=r"site A: masks/p\.nii: ") as error:
        folder().cases("A", tmp_path)
    assert said in str(error.value)


def test_rounding_in_headers_and_a_part_of_a_voxel_are_no_reason_to_refuse():
    image = Grid((8, 8, 3), (1.5, 2.0, 4.0), RAS)
    near = turned(0.3)
    near[:3, 3] = [0.9, 0, 0]
    mask = Grid((8, 8, 3), (1.501, 2.001, 4.0), near)
    assert apart(image, mask) is None and offset(image, mask) == pytest.approx(0.6, abs=0.01)
    notes = Notes()
    check_same("A", Path("masks/p.nii"), image, mask, notes)
    assert "elsewhere than the image, taken voxel by voxel: p.nii 0.6 voxels" in str(notes.all()[0])
    near[:3, 3] = [0.01, 0, 0]
    assert offset(image, mask) == 0.0


def test_another_origin_may_be_allowed_and_is_told(tmp_path: Path):
    array = RNG.integers(0, 2, (8, 8, 3)).astype(np.uint8)
    nifti(tmp_path / "images" / "p.nii", array)
    nifti(tmp_path / "masks" / "p.nii", array, RAS + np.outer([30, 0, 0, 0], [0, 0, 0, 1]))
    (case,) = folder(same_origin=False, size=8).cases("A", tmp_path)
    assert torch.equal(case.images[:, 0], case.labels.float())
    assert any("20 voxels" in note for note in told(folder(same_origin=False), tmp_path))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1000), ("meter", 0.001)])
def test_spacing_is_in_mm_whatever_the_unit(tmp_path: Path, unit: str, factor: float):
    affine = np.diag([0.5 * factor, 0.5 * factor, 4 * factor, 1])
    for kind in ("images", "masks"):
        nifti(tmp_path / kind / "p.nii", np.eye(8, dtype=np.uint8)[..., None], affine, unit)
    (case,) = folder().cases("A", tmp_path)
    assert case.spacing == pytest.approx((4.0, 0.5, 0.5))
    assert told(folder(), tmp_path) == []


def test_a_unit_that_is_not_given_is_told(tmp_path: Path):
    for kind in ("images", "masks"):
        nifti(tmp_path / kind / "p.nii", np.eye(8, dtype=np.uint8)[..., None], RAS, "unknown")
    assert told(folder(), tmp_path) == [
        "NIfTI without a unit of length, taken to be mm: images/p.nii, masks/p.nii (2)"
    ]


def test_one_patient_has_one_spacing(tmp_path: Path):
    for name, size in (("p-1", 4.0), ("p-2", 5.0)):
        for kind in ("images", "masks"):
            array = np.eye(8, dtype=np.uint8)[..., None].repeat(2, 2)
            nifti(tmp_path / kind / f"{name}.nii", array, np.diag([1, 1, size, 1]))
    with pytest.raises(
        DataError, match=r"p-2\.nii: voxels .* of 5x1x1 mm, those of p-1\.nii .* 4x1x1"
    ):
        folder(patient="^(.+)-").cases("A", tmp_path)


def test_sform_and_qform_that_differ_are_told(tmp_path: Path):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), RAS)
    image.set_sform(RAS, 1)
    image.set_qform(np.diag([3, 3, 3, 1]), 1)
    nib.save(image, tmp_path / "x.nii")
    notes = Notes()
    _, grid = read_image("A", tmp_path / "x.nii", (3,), notes)
    assert grid.spacing == (1.5, 2.0, 4.0)
    assert any("sform and qform" in str(note) for note in notes.all())


# --- pictures ----------------------------------------------------------------------------------

DISC = ((np.mgrid[:16, :12] - np.array([6, 4])[:, None, None]) ** 2).sum(0) < 10


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_images_and_masks(tmp_path: Path, turn: int):
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = Image.fromarray((DISC * 200).astype(np.uint8))
    kind = "tif" if turn < 5 else "png"
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip
    stored = upright
    for step in undo.get(turn, []):
        stored = stored.transpose(step)
    picture(tmp_path / "images" / f"p.{kind}", stored, exif=exif)
    picture(tmp_path / "masks" / "p.png", DISC.astype(np.uint8))
    pair = read_pair("A", tmp_path / f"images/p.{kind}", tmp_path / "masks/p.png", BINARY, Notes())
    assert np.array_equal(pair.image[0] > 100, DISC) and np.array_equal(pair.labels[0] > 0, DISC)


def test_a_tiff_that_lies_on_its_side_is_refused(tmp_path: Path):
    """Pillow 13 gives other pixels for it; should that be mended, it can be read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images" / "p.tif", np.arange(6, dtype=np.uint8).reshape(2, 3), exif=exif)
    with pytest.raises(DataError, match=r"images/p\.tif: .*on its side by its orientation 6"):
        read_image("A", tmp_path / "images" / "p.tif", (2, 3), Notes())


def transparent(mode: str) -> tuple[Image.Image, dict[str, Any]]:
    alpha, full = (DISC * 255).astype(np.uint8), np.full(DISC.shape, 255, np.uint8)
    if mode == "palette":
        image = Image.fromarray(DISC.astype(np.uint8), "P")
        image.putpalette([255] * 6)
        return image, {"transparency": b"\x00\xff"}
    layers = {"RGBA": [full] * 3, "LA": [full]}[mode]
    return Image.fromarray(np.dstack([*layers, alpha]), mode), {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette"])
def test_a_mask_drawn_in_transparency_is_refused(tmp_path: Path, mode: str):
    picture(tmp_path / "images" / "p.png", (DISC * 9).astype(np.uint8))
    image, options = transparent(mode)
    picture(tmp_path / "masks" / "p.png", image, **options)
    with pytest.raises(DataError, match=r"masks/p\.png: .*transparent in part"):
        folder(labels=[0, 255]).cases("A", tmp_path)
    picture(tmp_path / "images" / "p.png", image, **options)
    picture(tmp_path / "masks" / "p.png", (DISC * 255).astype(np.uint8))
    said = told(folder(labels=[0, 255]), tmp_path)
    assert said == ["transparency of images is not looked at: p.png"]


def test_colours_are_classes_only_where_a_table_says_so(tmp_path: Path):
    red, green = DISC, np.roll(DISC, 5, 1) & ~DISC
    drawn = np.zeros((*DISC.shape, 3), np.uint8)
    drawn[red], drawn[green] = (255, 0, 0), (0, 130, 0)
    picture(tmp_path / "images" / "p.png", (DISC * 9).astype(np.uint8))
    picture(tmp_path / "masks" / "p.png", drawn)
    with pytest.raises(
        DataError, match=r"masks/p\.png: .*colour channels differ.*scenario\.labels"
    ):
        folder(labels=[0, 76]).cases("A", tmp_path)
    (case,) = folder(labels=["#000000", "#FF0000", "#008200"]).cases("A", tmp_path)
    assert np.array_equal(case.own[0][0], red + 2 * green)
    both = folder(labels=["#000000", ["#ff0000", "#008200"]]).cases("A", tmp_path)
    assert np.array_equal(both[0].own[0][0], red | green)
    with pytest.raises(DataError, match=r"mask colours #008200 are not in scenario\.labels"):
        folder(labels=["#000000", "#ff0000"]).cases("A", tmp_path)


def test_colour_images_are_told_to_be_turned_to_grey(tmp_path: Path):
    coloured = np.dstack([(DISC * 200).astype(np.uint8), *[np.zeros(DISC.shape, np.uint8)] * 2])
    picture(tmp_path / "images" / "p.bmp", coloured)
    picture(tmp_path / "masks" / "p.gif", (DISC * 255).astype(np.uint8))
    scenario = folder(labels=[0, 255])
    assert told(scenario, tmp_path) == ["colour images are turned to grey (luminance): p.bmp"]
    assert np.array_equal(scenario.cases("A", tmp_path)[0].own[0][0] > 0, DISC)


# --- files that are left out -------------------------------------------------------------------


def site(root: Path, names: str = "abc", value: int = 255) -> Path:
    for name in names:
        picture(root / "images" / f"{name}.png", (DISC * 90).astype(np.uint8))
        picture(root / "masks" / f"{name}.png", (DISC * value).astype(np.uint8))
    return root


def test_what_is_not_read_is_counted_and_named(tmp_path: Path):
    site(tmp_path)
    for name in ("x.dcm", "y.dcm", "._a.png", ".DS_Store"):
        (tmp_path / "images" / name).write_bytes(b"x")
    (tmp_path / "images" / "more").mkdir()
    assert told(folder(labels=[0, 255]), tmp_path) == [
        "images/: folders are not searched: more",
        "images/: files of a kind not read: x.dcm, y.dcm (2)",
    ]


def test_a_folder_without_a_readable_file_says_what_there_is(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for name in ("x.dcm", "y.dcm", "z.nrrd"):
        (tmp_path / "images" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"there is: 2 \.dcm, 1 \.nrrd"):
        folder().cases("A", tmp_path)


def test_a_lone_file_is_shown_the_nearest_name(tmp_path: Path):
    site(tmp_path)
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a_mask.png")
    with pytest.raises(
        DataError, match=r"images/a\.png: no file of this name in masks \(did you mean"
    ):
        folder(labels=[0, 255], patient="^(.)").cases("A", tmp_path)


def test_names_are_compared_in_one_form_of_unicode(tmp_path: Path):
    name = "Köln"
    root = site(tmp_path / unicodedata.normalize("NFD", name), "abc").parent
    for n in "ab":
        old = root / unicodedata.normalize("NFD", name) / "masks" / f"{n}.png"
        image = old.parent.parent / "images" / f"{n}.png"
        old.rename(old.with_name(unicodedata.normalize("NFD", f"{n}ü.png")))
        image.rename(image.with_name(unicodedata.normalize("NFC", f"{n}ü.png")))
    scenario = folder(root=str(root), labels=[0, 255])
    assert scenario.sites() == [unicodedata.normalize("NFC", name)]
    assert len(scenario.cases(name, scenario.location(scenario.sites()[0]))) == 3


def test_what_lies_in_root_and_is_no_site_is_named(tmp_path: Path, capsys):
    site(tmp_path / "A")
    site(tmp_path / "B")
    (tmp_path / "C" / "Images").mkdir(parents=True)
    (tmp_path / "README.md").write_text("x")
    common = [f"scenario.root={tmp_path}", "scenario.patient='^(.+)$'", "scenario.size=16"]
    assert main(["inspect", "scenario=folder", *common, "model.channels=[4,8]"]) == 0
    assert "not taken for sites, without images/: C, README.md (2)" in capsys.readouterr().out


# --- labels ------------------------------------------------------------------------------------


def test_several_values_may_mean_one_class_and_some_none():
    labels = Labels.of([0, [1, 2], 3], [255], "scenario.labels")
    mask = np.array([[0, 1, 2, 3, 255]], np.uint8)
    assert labels.classes == 3 and labels.encode(mask).tolist() == [[0, 1, 1, 2, IGNORED]]
    assert labels.absent([labels.encode(mask[:, :3])]) == ["3"]
    with pytest.raises(
        ValueError, match=r"mask values 4 are not in scenario\.labels \[0, \[1, 2\], 3\]"
    ):
        labels.encode(mask + np.uint8(4) * (mask == 3) - 3 * (mask == 3))


@pytest.mark.parametrize("value", [0.9999999, 1.00000006, 1.0004])
def test_labels_stored_as_floats_are_rounded(value: float):
    assert BINARY.encode(np.array([0.0, value])).tolist() == [0, 1]


@pytest.mark.parametrize("value", [0.99, 1.002, np.nan, np.inf, -1.0, 5e9])
def test_what_is_no_label_is_named(value: float):
    with pytest.raises(ValueError, match=re.escape(f"mask values {value:g} are not")):
        BINARY.encode(np.array([0.0, value]))


@pytest.mark.parametrize(
    ("given", "ignored", "said"),
    [
        ([0], [], "2 to 255 classes"),
        ([0, [1, 1]], [], "all different"),
        ([0, 1], [1], "all different"),
        ([0, []], [], "2 to 255"),
        ([0, "#ff0000"], [], "all values must be if one is"),
        (["#000000", "#ff00"], [], "written '#rrggbb'"),
        ([0, 1.5], [], "whole numbers"),
        ([0, True], [], "whole numbers"),
    ],
)
def test_labels_that_name_no_classes(given: list[Any], ignored: list[Any], said: str):
    with pytest.raises(ConfigError, match=rf"^scenario\.labels: .*{said}"):
        folder(labels=given, ignore=ignored)


def test_a_site_may_mark_classes_by_values_of_its_own(cli, tmp_path: Path):
    site(tmp_path / "A", "abc", 255)
    site(tmp_path / "B", "abc", 7)
    own = [o for o in TINY if not o.startswith("scenario.")]
    run = tmp_path / "run"
    assert cli(
        *own, "scenario=folder", f"scenario.root={tmp_path}", "scenario.patient='^(.+)$'",
        "scenario.size=16", "+scenario.site_labels.B=[0,7]", "strategy=finetune",
        f"run.dir={run}",
    ) == 0  # fmt: skip
    assert read(run)["notes"] == {}
    with pytest.raises(ConfigError, match=r"scenario\.site_labels\.B: 2 classes are needed"):
        folder(site_labels={"B": [0, 1, 2]})


def test_a_label_that_no_mask_has_is_told(tmp_path: Path):
    site(tmp_path)
    assert told(folder(labels=[0, 255, 9]), tmp_path) == ["no mask has the label 9"]


def test_ignored_pixels_count_nowhere(tmp_path: Path):
    from fedcl.tasks.segmentation import Segmentation

    logits, labels = torch.randn(2, 2, 8, 8), torch.randint(0, 2, (2, 1, 8, 8))
    plain, ignoring = Segmentation(1, 2), Segmentation(1, 2, ignores=True)
    torch.testing.assert_close(plain.loss(logits, labels), ignoring.loss(logits, labels))
    masked = labels.clone()
    masked[:, :, :4] = IGNORED
    changed = logits.clone()
    changed[:, :, :4] += 5 * torch.randn(2, 2, 4, 8)
    torch.testing.assert_close(ignoring.loss(logits, masked), ignoring.loss(changed, masked))
    # Over the other half, the loss is that of the other half alone.
    half = plain.loss(logits[:, :, 4:], labels[:, :, 4:])
    torch.testing.assert_close(ignoring.loss(logits, masked), half)


# --- the network's grid and the image's own ----------------------------------------------------


def test_masks_are_reduced_by_area():
    mask = np.zeros((1, 12, 12), np.uint8)
    mask[0, :3, :2] = 1  # 6 of the 9 pixels of a block of 3 x 3
    mask[0, 6:8, 6:8] = 1  # 4 of 9
    assert reduced(mask, 2, (4, 4))[0].nonzero().tolist() == [[0, 0]]
    even = np.zeros((1, 4, 4), np.uint8)
    even[0, :, ::2] = 1  # half of every block: a structure stays
    assert reduced(even, 2, (2, 2)).all()
    three = np.zeros((1, 6, 6), np.uint8)
    three[0, :, :3] = 2
    three[0, 0, 0] = IGNORED
    assert reduced(three, 3, (2, 2))[0].tolist() == [[2, 0], [2, 0]]


@pytest.mark.parametrize("size", [(8, 8), (12, 10), (5, 24), (16, 11), (20, 48)])
def test_shares_of_pixels_are_those_of_an_independent_computation(size: tuple[int, int]):
    mask = (ndimage.gaussian_filter(RNG.normal(size=(16, 24)), 2) > 0.02).astype(np.uint8)

    def weights(old: int, new: int) -> np.ndarray:
        edges = np.arange(new + 1) * old / new
        low, high = (
            np.maximum(edges[:-1, None], np.arange(old)),
            np.minimum(edges[1:, None], np.arange(old) + 1),
        )
        return (high - low).clip(0) * new / old

    share = weights(16, size[0]) @ mask @ weights(24, size[1]).T
    clear = np.abs(share - 0.5) > 0.01
    found = reduced(mask[None], 2, size)[0].numpy()
    assert np.array_equal(found[clear], share[clear] > 0.5)


def test_images_are_reduced_to_the_mean_of_what_a_pixel_covers():
    image = RNG.normal(size=(2, 12, 8)).astype(np.float32)
    means = image.reshape(2, 4, 3, 4, 2).mean((2, 4))
    np.testing.assert_allclose(scaled(image, (4, 4)).numpy(), means, atol=1e-6)
    assert np.array_equal(scaled(image, (12, 8)).numpy(), image)
    ramp = np.arange(8.0, dtype=np.float32)[None, None].repeat(4, 1)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(ramp)[None], (4, 20), mode="bilinear")
    np.testing.assert_allclose(scaled(ramp, (4, 20)), wanted[0].numpy(), atol=1e-6)
    spot = np.zeros((1, 768, 768), np.float32)
    spot[0, 7:10, 7:10] = 144
    assert scaled(spot, (64, 64))[0, 0, 0] == pytest.approx(9), "nothing small is passed over"


def test_a_perfect_answer_is_perfect_on_the_own_grid():
    label = torch.zeros(2, 24, 20, dtype=torch.long)
    label[:, 6:18, 4:16] = 1
    answers = torch.nn.functional.one_hot(label, 2).movedim(-1, 1).float()
    assert torch.equal(restored(answers, (24, 20)), label)
    small = torch.nn.functional.avg_pool2d(answers, 4)
    assert torch.equal(restored(small, (24, 20))[:, 8:16, 6:14], label[:, 8:16, 6:14])


def test_scores_are_taken_on_the_images_own_grid(tmp_path: Path):
    for n in range(3):
        image = RNG.normal(size=(48, 40, 4)).astype(np.float32)
        nifti(tmp_path / "images" / f"p{n}.nii", image)
        nifti(
            tmp_path / "masks" / f"p{n}.nii",
            (ndimage.gaussian_filter(image, 3) > 0).astype(np.uint8),
        )
    scenario = folder()
    case = scenario.cases("A", tmp_path)[0]
    answers = torch.rand(4, 2, 16, 16)
    got = scenario.task.score(answers, case, ("dice", "hd95"))
    up = torch.nn.functional.interpolate(answers, (40, 48), mode="bilinear", antialias=True)
    found = up.argmax(1).numpy().astype(bool)
    # Independently of the project's reader: nibabel's own array, (i, j, k), turned by hand.
    wanted = np.asarray(nib.load(tmp_path / "masks" / "p0.nii").dataobj).T > 0
    assert got["dice"] == pytest.approx(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))
    longer = (np.pad(m, [(1, 1), (0, 0), (0, 0)], mode="edge") for m in (found, wanted))
    surfaces = [(m & ~ndimage.binary_erosion(m))[1:-1] for m in longer]
    away = [ndimage.distance_transform_edt(~s, sampling=(4.0, 2.0, 1.5)) for s in surfaces]
    both = (np.percentile(away[1][surfaces[0]], 95), np.percentile(away[0][surfaces[1]], 95))
    assert got["hd95"] == pytest.approx(max(both))


def test_classes_lost_on_the_networks_grid_are_told_and_score_0(cli, tmp_path: Path, capsys):
    for s in "AB":
        for n in range(4):
            image, mask = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8)
            mask[100 + n : 103 + n, 50:53] = 255
            picture(tmp_path / "d" / s / "images" / f"p{n}.png", image)
            picture(tmp_path / "d" / s / "masks" / f"p{n}.png", mask)
    common = ["scenario=folder", f"scenario.root={tmp_path / 'd'}", "scenario.patient='^(.+)$'"]
    common += ["scenario.size=16", "model.channels=[4,8]"]
    assert main(["inspect", *common]) == 0
    out = capsys.readouterr().out
    lost = "class 1 is lost at scenario.size in cases that have it: p0, p1, p2, ... (4)"
    assert f"site A: {lost}" in out and "<0.1%" in out
    own = [o for o in TINY if not o.startswith(("scenario.", "model."))]
    run = tmp_path / "run"
    assert cli(*own, *common, "strategy=finetune", f"run.dir={run}", "learner.steps=30") == 0
    results = read(run)
    assert results["notes"] == {"A": [lost], "B": [lost]}
    assert lost in (run / "log.txt").read_text()
    assert results["metrics"]["avg"] < 0.1
    assert not vanished(folder(size=256, labels=[0, 255]).cases("A", tmp_path / "d" / "A"), 2)


def test_pictures_of_a_patient_are_scored_one_by_one():
    """Two photographs, predictions swapped: far apart in each, close in a stack of both."""
    from fedcl.data.cases import Case

    left, right = torch.zeros(32, 32, dtype=torch.uint8), torch.zeros(32, 32, dtype=torch.uint8)
    left[14:18, 2:4], right[14:18, 26:28] = 1, 1
    labels = torch.stack([left, right])
    swapped = torch.nn.functional.one_hot(labels.flip(0).long(), 2).movedim(-1, 1).float()
    task = folder().task
    pictures = Case("p", torch.zeros(2, 1, 32, 32), labels, own=(labels[:1], labels[1:]))
    volume = Case("p", torch.zeros(2, 1, 32, 32), labels)
    assert task.score(swapped, pictures, ("hd95",))["hd95"] == pytest.approx(24.0)
    assert task.score(swapped, volume, ("hd95",))["hd95"] == pytest.approx(1.0)
    perfect = torch.nn.functional.one_hot(labels.long(), 2).movedim(-1, 1).float()
    assert task.score(perfect, pictures, ("dice", "iou", "hd95")) == {
        "dice": 1,
        "iou": 1,
        "hd95": 0,
    }


# --- the Decathlon -----------------------------------------------------------------------------


def decathlon(root: Path, names: list[str], bom: bool = False) -> Path:
    listed = []
    for name in names:
        for kind in ("imagesTr", "labelsTr"):
            nifti(root / kind / f"{name}.nii.gz", np.eye(8, dtype=np.uint8)[..., None].repeat(3, 2))
        listed.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    text = json.dumps({"training": listed})
    (root / "dataset.json").write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    return root


def test_names_with_dots_byte_order_marks_and_links(tmp_path: Path):
    uids = ["1.2.840.113619.2", "1.2.840.113619.10", "1.2.840.7"]
    root = decathlon(tmp_path / "store", uids, bom=True)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "dataset.json").write_bytes((root / "dataset.json").read_bytes())
    for kind in ("imagesTr", "labelsTr"):  # as data management tools lay them
        (tmp_path / "task" / kind).mkdir()
        for file in (root / kind).iterdir():
            (tmp_path / "task" / kind / file.name).symlink_to(file)
    scenario = SCENARIO.make({"name": "decathlon", "size": 8, "cohorts": {"A": {}}})
    assert isinstance(scenario, Decathlon)
    cases = scenario.cases("A", tmp_path / "task")
    assert [case.name for case in cases] == ["1.2.840.7", "1.2.840.113619.2", "1.2.840.113619.10"]


def test_volumes_that_are_not_listed_are_told(tmp_path: Path):
    root = decathlon(tmp_path, ["a", "b", "c"])
    (root / "imagesTr" / "d.nii.gz").write_bytes((root / "imagesTr" / "a.nii.gz").read_bytes())
    (root / "imagesTr" / "._a.nii.gz").write_bytes(b"x")
    scenario = SCENARIO.make({"name": "decathlon", "size": 8, "cohorts": {"A": {}}})
    assert [str(note) for note in scenario.cases("A", root).notes] == [
        "imagesTr/: not listed for training in dataset.json: d.nii.gz"
    ]
    (root / "labelsTr" / "b.nii.gz").rename(root / "labelsTr" / "b_seg.nii.gz")
    with pytest.raises(DataError, match=r"which is not there \(did you mean b_seg\.nii\.gz\?\)"):
        scenario.cases("A", root)


def test_slices_kept_in_several_runs_are_no_single_volume(tmp_path: Path):
    label = np.zeros((8, 8, 9), np.uint8)
    label[2:4, 2:4, [1, 7]] = 1
    nifti(tmp_path / "imagesTr" / "a.nii.gz", label)
    nifti(tmp_path / "labelsTr" / "a.nii.gz", label)
    listed = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [listed]}))
    settings = {"name": "decathlon", "size": 8, "cohorts": {"A": {}}, "margin": 1}
    found = SCENARIO.make(settings).cases("A", tmp_path)
    assert [len(part) for part in found[0].own] == [3, 3]
    assert "slices beyond scenario.margin left out, in tests too: a 3" in map(str, found.notes)


# --- numbers that would be wrong without a word -------------------------------------------------


def test_pictures_that_pillow_would_cut_wrap_or_invert_are_refused(tmp_path: Path):
    """A PNG of 16 bits with transparency, say, is cut to 8 of them."""

    def png(colour: int) -> bytes:
        """Return a PNG of 2 x 2 pixels, 16 bits deep, of a colour type."""
        samples = {2: 3, 4: 2}[colour]
        rows = b"".join(b"\0" + struct.pack(f">{2 * samples}H", *[300] * 2 * samples) for _ in "ab")

        def chunk(kind: bytes, data: bytes) -> bytes:
            check = zlib.crc32(kind + data)
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

        head = struct.pack(">IIBBBBB", 2, 2, 16, colour, 0, 0, 0)
        body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + body

    files = {"rgb.png": png(2), "la.png": png(4)}
    files["deep.ppm"] = b"P6\n# made by hand\n2 2\n4095\n" + struct.pack(">12H", *[3000] * 12)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    plain = np.array([[3, 5], [7, 9]])
    inverted = {262: 0}
    picture(tmp_path / "white.tif", plain.astype(np.uint16), tiffinfo=inverted)
    for name in (*files, "white.tif"):
        with pytest.raises(DataError, match=f"{name}: cannot be read: .*(16|8) bits"):
            read_image("A", tmp_path / name, (2, 3), Notes())


def test_numbers_of_over_8_bits_are_no_colours(tmp_path: Path):
    picture(tmp_path / "images" / "p.png", np.eye(8, dtype=np.uint8))
    picture(tmp_path / "masks" / "p.png", np.eye(8, dtype=np.uint16) * 3000)
    with pytest.raises(DataError, match="classes are given as colours"):
        folder(labels=["#000000", "#ffffff"]).cases("A", tmp_path)


def test_turned_pictures_are_told(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 3
    picture(tmp_path / "images" / "p.png", np.eye(8, dtype=np.uint8), exif=exif)
    picture(tmp_path / "masks" / "p.png", np.eye(8, dtype=np.uint8))
    assert told(folder(), tmp_path) == ["pictures turned as their EXIF data say: p.png"]


def test_what_is_ignored_as_a_whole_is_left_out_and_told(tmp_path: Path):
    for n in range(3):
        picture(tmp_path / "images" / f"p{n}.png", np.eye(8, dtype=np.uint8))
        mask = np.full((8, 8), 7, np.uint8) if n == 1 else np.eye(8, dtype=np.uint8)
        picture(tmp_path / "masks" / f"p{n}.png", mask)
    cases = folder(ignore=[7]).cases("A", tmp_path)
    assert [case.name for case in cases] == ["p0", "p2"]
    assert "left out, since all of the mask is ignored: p1.png" in map(str, cases.notes)


@pytest.mark.parametrize("strategy", ["ted", "cauaug", "plop", "mib", "ewc", "mas", "tkrl"])
def test_every_strategy_knows_ignored_pixels(cli, tmp_path: Path, strategy: str):
    for name in "AB":
        for n in range(8):
            image = RNG.integers(0, 99, (16, 16)).astype(np.uint8)
            mask = (image > 50).astype(np.uint8)
            mask[:4] = 7
            picture(tmp_path / "d" / name / "images" / f"p{n}.png", image)
            picture(tmp_path / "d" / name / "masks" / f"p{n}.png", mask)
    own = [o for o in TINY if not o.startswith(("scenario.", "timeline."))]
    given = [
        *own, "scenario=folder", f"scenario.root={tmp_path / 'd'}", "scenario.patient='^(.+)$'",
        "scenario.size=16", "scenario.labels=[0,1]", "scenario.ignore=[7]", "timeline.rounds=1",
        f"strategy={strategy}",
    ]  # fmt: skip
    assert cli(*given, f"run.dir={tmp_path / 'run'}") == 0
    assert read(tmp_path / "run")["failures"] == []


def test_a_strategy_that_needs_every_pixel_refuses_ignored_ones(cli, tmp_path: Path, capsys):
    site(tmp_path / "A")
    given = [f"scenario.root={tmp_path}", "scenario.patient='^(.+)$'", "scenario.ignore=[7]"]
    run = tmp_path / "run"
    assert (
        cli("engine=inprocess", "scenario=folder", *given, "strategy=souvenir", f"run.dir={run}")
        == 2
    )
    assert "fedcl: scenario.ignore: souvenir" in capsys.readouterr().err and not run.exists()


def raw(file: Path, affine: Any = RAS, **fields: Any) -> Path:
    """Write a NIfTI file whose header says what nibabel would not write."""
    nifti(file, np.zeros((8, 8, 3), np.int16), affine)
    content = bytearray(file.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    content[:348] = header.binaryblock
    file.write_bytes(bytes(content))
    return file


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
def test_distances_that_are_none_are_refused_where_nothing_else_tells_them(tmp_path, size: float):
    pixdim = [1, 1, 1, size, 1, 1, 1, 1]
    file = raw(tmp_path / "x.nii", sform_code=0, qform_code=0, pixdim=pixdim)
    with pytest.raises(DataError, match=r"x\.nii: .*no valid spacing"):
        read_image("A", file, (3,), Notes())


def test_values_within_the_header_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"x\.nii: .*vox_offset"):
        read_image("A", raw(tmp_path / "x.nii", vox_offset=0), (3,), Notes())


@pytest.mark.parametrize(
    ("affine", "fields", "said"),
    [
        (np.diag([1, 1, 1, 1.0]), {"pixdim": [1, 1, 1, 5, 1, 1, 1, 1]}, "sform and pixdim"),
        (RAS + np.outer([0.8, 0, 0, 0], [0, 0, 1, 0]), {}, "not at right angles"),
    ],
)
def test_headers_at_odds_with_themselves_are_told(tmp_path: Path, affine, fields, said: str):
    notes = Notes()
    read_image("A", raw(tmp_path / "x.nii", affine, **fields), (3,), notes)
    assert said in " ".join(map(str, notes.all()))


def test_a_turn_that_moves_the_corners_is_told():
    image = Grid((256, 256, 3), (1.5, 2.0, 4.0), RAS)
    mask = Grid((256, 256, 3), (1.5, 2.0, 4.0), turned(0.4))
    assert apart(image, mask) is None and offset(image, mask) > 1


def test_millimetres_of_a_mask_count_where_its_image_has_none(tmp_path: Path):
    picture(tmp_path / "images" / "p.png", np.eye(8, dtype=np.uint8))
    file = nifti(tmp_path / "masks" / "p.nii", np.eye(8, dtype=np.uint8)[..., None])
    mask = nib.load(file)
    mask.header.set_zooms((0.5, 0.5, 5.0))
    plain = nib.Nifti1Image(np.asarray(mask.dataobj), None, mask.header)
    plain.set_sform(None, 0)
    plain.set_qform(None, 0)
    nib.save(plain, file)
    (case,) = folder().cases("A", tmp_path)
    assert case.spacing == (5.0, 0.5, 0.5)


def test_a_window_that_leaves_nothing_is_refused(tmp_path: Path):
    root = decathlon(tmp_path, ["a", "b"])
    text = json.loads((root / "dataset.json").read_text()) | {"modality": {"0": "MRI"}}
    (root / "dataset.json").write_text(json.dumps(text))
    settings = {"name": "decathlon", "size": 8, "cohorts": {"A": {}}}
    with pytest.raises(DataError, match=r"a\.nii\.gz: the window leaves nothing of it"):
        SCENARIO.make(settings | {"level": 500.0}).cases("A", root)
    found = SCENARIO.make(settings | {"level": 0.5, "width": 1.0}).cases("A", root)
    assert "dataset.json says MRI, not CT: a window in HU may not be meant" in map(str, found.notes)


@pytest.mark.parametrize(
    ("cohorts", "said"),
    [
        ({"A": {"cases": ["a", "a"]}}, "A and A both hold a"),
        ({"A": {"cases": ["a", "b"]}, "B": {"cases": ["b"]}}, "A and B both hold b"),
        ({"A": {}, "B": {}}, "A and B both hold a"),
    ],
)
def test_no_patient_is_at_two_hospitals(tmp_path: Path, cohorts: dict[str, Any], said: str):
    root = decathlon(tmp_path, ["a", "b", "c"])
    scenario = SCENARIO.make({"name": "decathlon", "root": str(root), "cohorts": cohorts})
    with pytest.raises(ConfigError, match=rf"^scenario\.cohorts: {said}"):
        scenario.sites()


def test_cases_of_no_hospital_are_told(tmp_path: Path):
    root = decathlon(tmp_path, ["a", "b", "c"])
    scenario = SCENARIO.make(
        {"name": "decathlon", "root": str(root), "cohorts": {"A": {"cases": ["b"]}}}
    )
    assert scenario.left_out() == ["scenario.cohorts: cases that no site holds: a, c (2)"]


def test_one_label_file_is_of_one_image(tmp_path: Path):
    root = decathlon(tmp_path, ["a", "b"])
    text = (root / "dataset.json").read_text().replace("labelsTr/b", "labelsTr/a")
    (root / "dataset.json").write_text(text)
    scenario = SCENARIO.make({"name": "decathlon", "size": 8, "cohorts": {"A": {}}})
    with pytest.raises(DataError, match="for two images"):
        scenario.cases("A", root)


@pytest.mark.parametrize(
    "root", ["~nobody_of_that_name/x", "x" * 300, "/" + "/".join(["y" * 300] * 3)]
)
@pytest.mark.parametrize("scenario", ["folder", "decathlon", "acdc"])
def test_folders_that_cannot_be_are_one_line(cli, tmp_path, capsys, root: str, scenario: str):
    run = tmp_path / "run"
    given = ["engine=inprocess", "tracking.enabled=false", f"scenario={scenario}"]
    assert cli(*given, f"scenario.root='{root}'", f"run.dir={run}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    assert "scenario.root" in line and not run.exists()


def test_names_that_are_no_text_are_one_line(tmp_path: Path):
    site(tmp_path)
    odd = os.fsencode(tmp_path / "images") + b"/p\xff1.png"
    with open(odd, "wb") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="a name that is no text") as error:
        folder(labels=[0, 255]).cases("A", tmp_path)
    assert str(error.value).encode()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300])
def test_labels_that_are_no_numbers_are_one_line(value: float):
    with pytest.raises(ConfigError, match=r"^scenario\.labels: mask values are whole numbers"):
        folder(labels=[0, value])


def test_labels_of_a_site_that_is_not_there(tmp_path: Path):
    site(tmp_path / "north")
    scenario = folder(root=str(tmp_path), site_labels={"nort": [0, 1]})
    with pytest.raises(
        ConfigError, match=r"site_labels\.nort: no such site \(did you mean north\?\)"
    ):
        scenario.sites()
