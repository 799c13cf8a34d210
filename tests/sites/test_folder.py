"""The folder layout: what is read, and what is refused with which message."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from fedcl.config.hydra import compose
from fedcl.errors import ConfigError, DataError
from fedcl.settings import parse
from sites.folder import Folder
from sites.prostate import Prostate
from tests.conftest import ROOT
from tests.layouts import IMAGE, MASK, RNG, folder, pair, refusal, write

DATA = ROOT.parent / "shared" / "data"


def scaled(image: np.ndarray) -> torch.Tensor:
    """Return what `minmax` makes of an image."""
    image = image.astype(np.float64)
    return torch.tensor((image - image.min()) / np.ptp(image), dtype=torch.float32)


@pytest.mark.parametrize("extension", ["png", "tif", "TIFF", "ppm", "nii", "nii.gz"])
def test_values_and_labels_are_kept(tmp_path: Path, extension: str) -> None:
    pair(tmp_path, name=f"p1-IM-1.{extension}")
    (case,) = folder().cases("A", tmp_path)
    assert case.name == "p1"
    assert type(case.images) is type(case.labels) is torch.Tensor
    assert (case.images.dtype, case.labels.dtype) == (torch.float32, torch.uint8)
    torch.testing.assert_close(case.images, scaled(IMAGE)[None, None])
    assert torch.equal(case.labels[0], torch.from_numpy(MASK // 255))
    assert case.scans[0].spacing == (1.0, 1.0, 1.0)


def test_jpeg_image_with_png_mask(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(16), 4 * np.arange(16)).astype(np.uint8)
    write(tmp_path / "images" / "p1-IM-1.jpg", smooth, quality=100)
    write(tmp_path / "masks" / "p1-IM-1.png", MASK)
    (case,) = folder().cases("A", tmp_path)
    torch.testing.assert_close(case.images[0, 0], scaled(smooth), atol=0.03, rtol=0)


@pytest.mark.parametrize("extension", ["png", "tif", "jpg", "ppm", "nii.gz"])
def test_rows_stay_rows(tmp_path: Path, extension: str) -> None:
    image, mask = np.zeros((16, 48), np.uint8), np.zeros((16, 48), np.uint8)
    image[:8, :16], mask[:8, :16] = 200, 255  # the upper left corner
    write(tmp_path / "images" / f"p1-IM-1.{extension}", image)
    write(tmp_path / "masks" / "p1-IM-1.png", mask)
    (case,) = folder(resize=12).cases("A", tmp_path)
    expected = torch.zeros(12, 12)
    expected[:6, :4] = 1
    torch.testing.assert_close(case.images[0, 0], expected, atol=0.05, rtol=0)
    assert torch.equal(case.labels[0], expected.to(torch.uint8))


def test_mask_and_image_shrink_alike(tmp_path: Path) -> None:
    down, across = np.mgrid[:48, :48] - 23.5
    disc = (down**2 + across**2 < 15**2).astype(np.uint8)
    pair(tmp_path, 200 * disc, 255 * disc)
    (case,) = folder().cases("A", tmp_path)
    assert torch.equal(case.labels, case.labels.flip(1, 2))  # no shift by half a pixel
    assert torch.equal(case.images[:, 0] > 0.5, case.labels > 0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "I", "F", "1"])
def test_other_pictures_become_grey(tmp_path: Path, mode: str) -> None:
    values = np.where(IMAGE > 50, 255, 0).astype(np.uint8) if mode == "1" else IMAGE
    if mode in ("I;16", "I", "F"):
        image = Image.fromarray(values.astype({"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
    else:
        image = Image.fromarray(values).convert(mode)
    assert image.mode == mode
    write(tmp_path / "images" / "p1-IM-1.tif", image)
    write(tmp_path / "masks" / "p1-IM-1.tif", Image.fromarray(MASK).convert("RGB"))
    (case,) = folder().cases("A", tmp_path)
    torch.testing.assert_close(case.images[0, 0], scaled(values))
    assert torch.equal(case.labels[0], torch.from_numpy(MASK // 255))


def test_colours_of_a_palette(tmp_path: Path) -> None:
    index = (MASK // 255).astype(np.uint8)
    picture = Image.fromarray(index).convert("P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    pair(tmp_path, picture, picture)
    # colour: the index is the label
    (case,) = folder(labels=[0, 1], channels="luminance").cases("A", tmp_path)
    assert torch.equal(case.labels[0], torch.from_numpy(index))
    assert torch.equal(case.images[0, 0], torch.from_numpy(index).float())

    picture.putpalette([255, 255, 255, 0, 0, 0])
    pair(tmp_path, picture, picture)
    (case,) = folder().cases("A", tmp_path)  # greys: the grey value is the label
    assert torch.equal(case.labels[0], torch.from_numpy(1 - index))


@pytest.mark.parametrize("labels", [[0, 3, 7], [7, 0, 3], [0, 3, 7, 9]])
def test_labels_become_class_indices(tmp_path: Path, labels: list[int]) -> None:
    mask = np.array([0, 3, 7], np.uint8)[IMAGE % 3]
    pair(tmp_path, mask=mask)
    scenario = folder(labels=labels)
    (case,) = scenario.cases("A", tmp_path)
    assert scenario.classes == len(labels)
    assert np.array_equal(np.array(labels)[case.labels[0]], mask)


def test_patients_and_slices_in_name_order(tmp_path: Path) -> None:
    for value, name in enumerate(["b-IM-10", "a-IM-1", "b-IM-2", "c-IM-1-IM-7", "b-IM-1"]):
        image = np.zeros((16, 16), np.uint8)
        image[value] = 9
        pair(tmp_path, image, name=f"{name}.png")
    cases = folder().cases("A", tmp_path)
    found = {case.name: case.images[:, 0, :, 0].argmax(1).tolist() for case in cases}
    assert found == {"a": [1], "b": [4, 2, 0], "c": [3]}
    assert list(found) == ["a", "b", "c"]
    by_number = folder(patient=r"\d+$").cases("A", tmp_path)  # no group: the whole match
    assert sorted(case.name for case in by_number) == ["1", "10", "2", "7"]


def test_volume_spacing_and_slices(tmp_path: Path) -> None:
    volume = RNG.integers(0, 99, (32, 8, 3)).astype(np.int16)
    affine = np.diag([0.5, 2.0, 7.0, 1.0])  # column, row, slice
    mask = (volume > 50).astype(np.uint8)
    pair(tmp_path, volume, mask, name="p1.nii.gz", affine=affine)
    (case,) = folder(patient="^(.+)$", labels=[0, 1]).cases("A", tmp_path)
    assert case.name == "p1"
    assert case.images.shape == (3, 1, 16, 16)
    assert case.scans[0].spacing == pytest.approx((7.0, 2.0, 0.5))

    square = RNG.integers(0, 99, (16, 16, 3)).astype(">i2")
    pair(tmp_path, square, (square > 50).astype(">i2"), name="p1.nii.gz", affine=affine)
    (case,) = folder(patient="^(.+)$", labels=[0, 1]).cases("A", tmp_path)
    for depth in range(3):
        torch.testing.assert_close(case.images[depth, 0], scaled(square)[..., depth])
        assert np.array_equal(case.labels[depth], square[..., depth] > 50)


@pytest.mark.parametrize("normalise", ["zscore", "minmax"])
def test_normalised_over_the_whole_volume(tmp_path: Path, normalise: str) -> None:
    volume = np.stack([IMAGE, 3000 + 5.0 * IMAGE.T, np.full(IMAGE.shape, 0.1)], -1)
    pair(tmp_path, volume, np.zeros((16, 16, 3)), name="p1-IM-1.nii")
    (case,) = folder(normalise=normalise, resize=24).cases("A", tmp_path)
    found = case.images[:, 0].double()
    slices = torch.from_numpy(volume.astype(np.float32)).movedim(-1, 0).double()
    larger = torch.nn.functional.interpolate(slices[None], (24, 24), mode="bilinear")[0].numpy()
    if normalise == "zscore":
        expected = (larger - larger.mean()) / larger.std()
        assert found.mean().item() == pytest.approx(0, abs=1e-5)
        assert found.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    else:
        expected = (larger - larger.min()) / np.ptp(larger)
        assert (found.min(), found.max()) == (0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(found[2].unique()) == 1, "what is constant stays so"


@pytest.mark.parametrize("normalise", ["zscore", "minmax", "percentile"])
def test_a_constant_volume_is_zero(tmp_path: Path, normalise: str) -> None:
    pair(tmp_path, np.full((16, 16, 3), 0.1), np.zeros((16, 16, 3)), name="p1-IM-1.nii")
    for resize in (24, 9):
        (case,) = folder(normalise=normalise, resize=resize).cases("A", tmp_path)
        assert torch.equal(case.images, torch.zeros(3, 1, resize, resize))


def test_other_files_are_ignored_and_links_followed(tmp_path: Path) -> None:
    pair(tmp_path / "elsewhere")
    for name in (".p2-IM-1.png", "README", "Thumbs.db", "notes.txt", "._x.nii.gz"):
        write(tmp_path / "elsewhere" / "images" / name, b"x")
    (tmp_path / "root" / ".hidden" / "images").mkdir(parents=True)
    (tmp_path / "root" / "no-site").mkdir()
    (tmp_path / "root" / "B").symlink_to(tmp_path / "elsewhere")
    pair(tmp_path / "root" / "A")
    scenario = folder(root=str(tmp_path / "root"))
    assert scenario.sites() == ["A", "B"]
    for site in scenario.sites():
        assert len(scenario.cases(site, scenario.location(site))) == 1
    assert folder().location("A") is None


def test_folders_missing_or_empty(tmp_path: Path) -> None:
    site = tmp_path / "A"
    refusal(site, "images", "No such file")
    (site / "images").mkdir(parents=True)
    write(site / "images" / "README", b"x")
    refusal(site, "images", ".png", ".nii.gz")
    write(site / "images" / "p1-IM-1.png", IMAGE)
    refusal(site, "masks", "No such file")
    (site / "masks").mkdir()
    refusal(site, "scenario.mask finds no file masks/p1-IM-1")
    with pytest.raises(DataError, match=r"site A: .*scenario\.root"):
        folder().cases("A", None)


def test_lone_image_and_lone_mask(tmp_path: Path) -> None:
    pair(tmp_path)
    lone = write(tmp_path / "images" / "p2-IM-1.png", IMAGE)
    refusal(tmp_path, "images/p2-IM-1.png", "scenario.mask finds no file masks/p2-IM-1")
    lone.unlink()
    write(tmp_path / "masks" / "p3-IM-1.png", MASK)
    refusal(tmp_path, "masks/p3-IM-1.png", "a mask without image (did you mean p1-IM-1.png?)")


def test_one_name_twice(tmp_path: Path) -> None:
    pair(tmp_path)
    write(tmp_path / "images" / "p1-IM-1.tif", IMAGE)
    refusal(tmp_path, "images/p1-IM-1.tif", "p1-IM-1.png")


def test_names_without_patient(tmp_path: Path) -> None:
    pair(tmp_path)
    pair(tmp_path, name="odd.png")
    refusal(tmp_path, "images/odd.png", "scenario.patient", "1 of 2")
    refusal(tmp_path, "images/odd.png", "scenario.patient", patient="^(p1)?")  # empty
    refusal(tmp_path, "scenario.patient", "2 of 2", kind=ConfigError, patient="nowhere")


@pytest.mark.parametrize("name", ["p1-IM-1.png", "p1-IM-1.nii.gz"])
def test_shapes_differ(tmp_path: Path, name: str) -> None:
    pair(tmp_path, np.zeros((16, 20), np.uint8), np.zeros((20, 16), np.uint8), name=name)
    refusal(tmp_path, f"masks/{name}", "mask (1, 20, 16)", "image (1, 16, 20)")


def test_orientations_differ(tmp_path: Path) -> None:
    pair(tmp_path, name="p1-IM-1.nii")
    write(tmp_path / "masks" / "p1-IM-1.nii", MASK, affine=np.diag([-1, 1, 1, 1]))
    refusal(tmp_path, "masks/p1-IM-1.nii", "origins in the headers differ", "15 voxels")
    # Stored from right to left, column 0 lies where column 15 of the image does.
    there = np.diag([-1.0, 1, 1, 1])
    there[0, 3] = 15
    write(tmp_path / "masks" / "p1-IM-1.nii", MASK[:, ::-1], affine=there)
    found = folder().cases("A", tmp_path)
    assert torch.equal(found[0].labels[0], torch.from_numpy(MASK // 255))
    assert [str(note) for note in found.notes if "unit" not in note.what] == [
        "masks stored along other axes than their images, turned by their headers: "
        "p1-IM-1.nii LAS, image RAS"
    ]


@pytest.mark.parametrize("value", [1, 0.5, np.nan])
def test_mask_values_outside_the_classes(tmp_path: Path, value: float) -> None:
    mask = MASK.astype(np.float32)
    mask[3, 4] = value
    pair(tmp_path, mask=mask, name="p1-IM-1.nii")
    refusal(tmp_path, "masks/p1-IM-1.nii", f"values {value:g} are", "scenario.labels [0, 255]")


# --- sites and settings ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "../A", "a/b", "a\\b", "/etc", "a\0"])
def test_site_names_stay_in_root(tmp_path: Path, name: str) -> None:
    pair(tmp_path / "A")
    scenario = folder(root=str(tmp_path / "A"))
    for act in (scenario.location, lambda site: scenario.cases(site, tmp_path / "A")):
        with pytest.raises(DataError, match="a site is named like its folder"):
            act(name)


def test_root(tmp_path: Path) -> None:
    for root in (None, str(tmp_path / "missing"), str(tmp_path)):
        with pytest.raises(ConfigError, match=r"^scenario\.root: .*images/\{case\} and masks/"):
            folder(root=root).sites()
    with pytest.raises(ConfigError, match=r"one folder per site, each with \{case\}\.nii\.gz and "):
        Prostate(root=str(tmp_path)).sites()
    with pytest.raises(ConfigError, match=r"the folder that holds \{site\}/\{case\} and \{site\}"):
        folder(root=str(tmp_path), image="{site}/{case}", mask="{site}_masks/{case}").sites()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patient", "("),
        ("labels", [0]),
        ("labels", [0, 1, 0]),
        ("labels", list(range(257))),
        ("size", 0),
        ("resize", 0),
        ("resize", [16, 16, 16]),
        ("patch", [16, 0]),
        ("spacing", 0),
        ("spacing", [1.0, 1.0, 1.0]),
        ("channels", 0),
        ("channels", [1, 1]),
        ("channels", "grey"),
        ("window", [3, 3]),
        ("spatial_dims", 4),
        ("normalise", "max"),
    ],
)
def test_settings_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^scenario\.{key}: "):
        folder(**{key: value})


def test_configuration_gives_every_field_its_default() -> None:
    values = compose(["scenario=folder"])["scenario"]
    assert values.pop("name") == "folder"
    assert set(values) == {field.name for field in fields(Folder)}
    assert parse(Folder, values, "scenario") == Folder()


@pytest.mark.skipif(not (DATA / "sunnybrook").is_dir(), reason="no ../shared/data/sunnybrook")
def test_sunnybrook() -> None:
    scenario = Folder(root=str(DATA / "sunnybrook"), resize=64)
    found = {}
    for site in scenario.sites():
        cases = scenario.cases(site, scenario.location(site))
        found[site] = (len(cases), sum(len(case.images) for case in cases))
        for case in cases:
            assert case.name.startswith(f"SC-{site}-")
            assert case.images.shape == (len(case.images), 1, 64, 64)
            assert case.labels.shape == (len(case.images), 64, 64)
            assert case.images.isfinite().all()
            assert set(case.labels.unique().tolist()) == {0, 1}
            # The ventricle is full of blood, which is brighter than what lies around it.
            inside = case.labels[:, None] > 0
            assert case.images[inside].mean() > case.images[~inside].mean()
    assert found == {"HF-I": (12, 245), "HF-NI": (12, 234), "HYP": (12, 184), "N": (9, 142)}


@pytest.mark.skipif(not (DATA / "Task09_Spleen").is_dir(), reason="no ../shared/data/Task09_Spleen")
def test_spleen_volume(tmp_path: Path) -> None:
    for ours, theirs in (("images", "imagesTr"), ("masks", "labelsTr")):
        (tmp_path / ours).symlink_to(DATA / "Task09_Spleen" / theirs)
    (case,) = folder(patient="^(.+)$", labels=[0, 1]).cases("A", tmp_path)
    header = nib.load(DATA / "Task09_Spleen" / "imagesTr" / "spleen_2.nii.gz").header
    across, down, along = map(float, header.get_zooms())
    assert case.name == "spleen_2"
    assert case.images.shape == (26, 1, 16, 16)
    assert case.scans[0].spacing == pytest.approx((along, down, across))
    assert set(case.labels.unique().tolist()) == {0, 1}
