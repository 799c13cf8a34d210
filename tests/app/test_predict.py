"""`fedcl predict` sees in files what the run was scored by, wherever and however they lie."""

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests import published
from tests.conftest import read
from tests.images import nifti, picture, reoriented, turned
from tests.predicted import (
    AFFINE,
    LABELS,
    VALUES,
    copied,
    dice,
    hospitals,
    predict,
    simulated,
    upright,
    volume,
)

RUNS = {
    "slices": ["scenario.spacing=[1.3,1.3]"],
    "stretched": ["scenario.resize=[16,24]"],
    "patches": ["scenario.spatial_dims=3", "scenario.patch=[4,16,16]"],
    "through networks": ["strategy=cauaug", "strategy.test_networks=2", "scenario.size=18"],
    "volumes": ["scenario.spatial_dims=3", "scenario.spacing=auto", "augment=light"],
    "architectures": [
        "models.large.name=unet", "models.large.channels=[4,8,16]", "sites.B.model=large",
        "models.small.name=unet", "models.small.channels=[4,8]", "sites.A.model=small",
        "scenario.size=18",
    ],
}  # fmt: skip
Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the two hospitals."""
    return hospitals(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return what runs one of `RUNS`, once, and says where."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def made(name: str) -> Path:
        return simulated(folder / name, root, *LABELS, *RUNS[name])

    return made


def scored(folder: Path, masks: Path, out: Path, site: str, stage: int, cases: Any) -> None:
    """Check masks of a hospital's test patients against what a run's results say of them."""
    assert cases[site], "there are test patients"
    for case, scores in cases[site].items():
        found = upright(out / f"{case}.nii.gz")
        assert {*np.unique(found)} <= {0, *(values[0] for values in VALUES[site])}
        own = dice(found, upright(masks / f"{case}.nii.gz"), VALUES[site])
        assert own == pytest.approx(scores[stage - 1], abs=1e-6), (folder.name, case)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("site", ["A", "B"])
def test_masks_are_those_that_were_scored(
    root: Path, run: Run, tmp_path: Path, name: str, site: str
):
    """After each stage, of each hospital's architecture, by a Dice that is computed here."""
    results = read(run(name))
    images = copied((root / site / "images").iterdir(), tmp_path / "images")
    last = [scores[-1] for scores in results["cases"][site].values()]
    assert all(0 < score < 1 for score in last), "a score that would tell"
    for stage, more in ((1, ["--stage", "1"]), (2, ["--stage", "2"]), (2, [])):
        out = tmp_path / f"out{stage}{len(more)}"
        assert predict(run(name), images, out, "--site", site, *more) == 0
        scored(run(name), root / site / "masks", out, site, stage, results["cases"])


def test_samples_are_as_large_as_the_images_of_a_site(run: Run):
    """17 x 20 voxels of 1.2 x 1.5 mm are 16 x 23 of 1.3 mm; the U-Net takes even sizes."""
    assert read(run("slices"))["samples"] == {"A": [1, 16, 24], "B": [1, 20, 28]}
    assert read(run("stretched"))["samples"] == {"A": [1, 16, 24], "B": [1, 16, 24]}
    assert read(run("patches"))["samples"] == {"A": [1, 4, 16, 16], "B": [1, 4, 16, 16]}
    assert read(run("volumes"))["samples"] == {"A": [1, 6, 18, 20], "B": [1, 8, 22, 24]}
    assert read(run("architectures"))["samples"] == {"A": [1, 20, 20], "B": [1, 20, 20]}


def test_without_a_site_images_are_padded_to_the_largest(root: Path, run: Run, tmp_path: Path):
    """And written by the values of `scenario.labels`, whatever those of single sites."""
    images, found = root / "A" / "images", {}
    for name, more in (("none", []), ("A", ["--site", "A"]), ("B", ["--site", "B"])):
        assert predict(run("volumes"), images, tmp_path / name, *more) == 0
        found[name] = np.stack([upright(tmp_path / name / f"A{n}.nii.gz") for n in range(6)])
    as_b = np.select([found["B"] == 1, found["B"] == 2], [7, 3])
    assert np.array_equal(found["none"], as_b), "B has the largest samples"
    assert (found["none"] != found["A"]).any(), "a network sees how much is padding"


@pytest.mark.parametrize("name", ["large", "small"])
def test_of_several_architectures_the_one_asked_for_answers(
    root: Path, run: Run, tmp_path: Path, name: str
):
    """At all sites, also those that train the other one."""
    results = read(run("architectures"))
    one = results["architectures"][name]
    for site in VALUES:
        out = tmp_path / site
        more = ["--site", site, "--model", name]
        assert predict(run("architectures"), root / site / "images", out, *more) == 0
        scored(run("architectures"), root / site / "masks", out, site, 2, one["cases"])
    assert results["architectures"]["large"]["cases"] != results["architectures"]["small"]["cases"]


# --- wherever they lie -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slices", "patches"])
def test_the_same_volume_has_the_same_mask_however_it_is_stored(
    run: Run, tmp_path: Path, name: str
):
    """Flipped, along other axes, and by a header that says that the patient lay askew."""
    image, _ = volume("B", 9)
    for axes in ("RAS", "LPS", "LAS", "RAI", "PIR", "SLA", "ILP", "ASR"):
        nifti(tmp_path / "images" / f"{axes}.nii.gz", *reoriented(image, AFFINE, axes))
    askew = turned(25) @ np.diag([1 / 1.5, 1 / 2, 1 / 4, 1]) @ AFFINE
    askew[:3, 3] = [-30, 12, 8]
    nifti(tmp_path / "images" / "askew.nii.gz", image, askew)
    assert predict(run(name), tmp_path / "images", tmp_path / "out") == 0
    plain = upright(tmp_path / "out" / "RAS.nii.gz")
    assert {*np.unique(plain)} == {0, 3, 7}
    files = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert len(files) == 9
    for file in files:
        assert np.array_equal(upright(file), plain), file.name
        found, given = nib.load(file), nib.load(tmp_path / "images" / file.name)
        assert np.array_equal(found.affine, given.affine) and found.shape == given.shape


def test_other_formats_have_the_same_mask(run: Run, tmp_path: Path):
    """MetaImage, NRRD and, with a pattern that ends in a slash, folders of DICOM slices."""
    from tests.volumes import DIRECTIONS, series, sitk, write

    image, _ = volume("A", 9)
    stored = np.rint(image).astype(np.int16).T
    write(tmp_path / "images" / "a.mha", stored, DIRECTIONS["as ITK"])
    write(tmp_path / "images" / "b.nhdr", stored, DIRECTIONS["as ITK"])
    write(tmp_path / "images" / "c.nii.gz", stored, DIRECTIONS["as ITK"])
    write(tmp_path / "images" / "d.nrrd", stored[:, ::-1], np.diag([1.0, -1.0, 1.0]))
    series(tmp_path / "images" / "e" / "ct", stored, DIRECTIONS["as ITK"])
    assert predict(run("patches"), tmp_path / "images", tmp_path / "out") == 0
    ct = ["--pattern", "{case}/ct/"]
    assert predict(run("patches"), tmp_path / "images", tmp_path / "ct", *ct) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.mha", "b.nrrd", "c.nii.gz", "d.nrrd", "predictions.csv"}
    assert {path.name for path in (tmp_path / "ct").iterdir()} == {"e.nii.gz", "predictions.csv"}
    files = [*(tmp_path / "out" / name for name in sorted(names)[:4]), tmp_path / "ct" / "e.nii.gz"]
    masks = [sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files]
    masks[3] = masks[3][:, ::-1]
    assert {*np.unique(masks[0])} == {0, 3, 7}
    assert [int((mask != masks[0]).sum()) for mask in masks] == [0] * 5


# --- predictions.csv -------------------------------------------------------------------------


def test_the_table_has_voxels_millilitres_and_intensities(root: Path, run: Run, tmp_path: Path):
    """In mm whatever the header's unit; of a class that is nowhere there is no intensity."""
    images = copied((root / "A" / "images").glob("A[012].nii.gz"), tmp_path / "images")
    image, _ = volume("A", 1)
    nifti(images / "micron.nii.gz", image, np.diag([1500, 1200, 4000, 1]), "micron")
    nifti(images / "same.nii.gz", image, AFFINE)
    nifti(images / "nothing.nii.gz", image[10:, :, 5:], AFFINE)
    assert predict(run("patches"), images, tmp_path / "out") == 0
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    cases = ["A0", "A1", "A2", "micron", "nothing", "same"]
    wanted = [(case, label) for case in cases for label in ("7", "3 or 4")]
    assert [(row["case"], row["label"]) for row in table] == wanted
    assert [*table[0]] == ["case", "label", "voxels", "ml", "mean"]
    absent = 0
    for row in table:
        mask = np.asarray(nib.load(tmp_path / "out" / f"{row['case']}.nii.gz").dataobj)
        values = nib.load(images / f"{row['case']}.nii.gz").get_fdata()
        inside = mask == int(row["label"][0])
        assert row["voxels"] == str(int(inside.sum()))
        assert float(row["ml"]) == pytest.approx(inside.sum() * 1.5 * 1.2 * 4 / 1000, rel=1e-5)
        absent += not inside.any()
        if inside.any():
            assert float(row["mean"]) == pytest.approx(values[inside].mean(), rel=1e-5)
        else:
            assert row["mean"] == ""
    assert absent and table[6]["ml"] == table[10]["ml"] != "0"


# --- pictures, channels ----------------------------------------------------------------------


def photograph(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of a red block and a green one, and its mask in other colours."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 90, (18, 26, 3), dtype=np.uint8)
    mask = np.zeros((18, 26, 3), np.uint8)
    image[3:9, 4 : 10 + number, 0] += 150
    mask[3:9, 4 : 10 + number] = (255, 0, 1)
    image[10:16, 14:22, 1] += 150
    mask[10:16, 14:22] = (16, 32, 255)
    return image, mask


def test_pictures_are_answered_in_the_colours_of_their_masks(tmp_path: Path):
    for site in "AB":
        for number in range(5):
            image, mask = photograph(number)
            picture(tmp_path / "data" / site / "images" / f"{site}{number}.png", image)
            picture(tmp_path / "data" / site / "masks" / f"{site}{number}.png", mask)
    colours = "scenario.labels=['#000000','#ff0001','#1020ff']"
    folder = simulated(tmp_path / "run", tmp_path / "data", "scenario.channels=3", colours)
    cases = read(folder)["cases"]
    images = copied((tmp_path / "data").glob("*/images/*.png"), tmp_path / "images")
    image, _ = photograph(0)
    for kind in ("tif", "bmp"):
        picture(images / f"{kind}.{kind}", image)
    picture(images / "jpg.jpg", image, quality=90)
    picture(images / "grey.png", image[..., 0])
    assert predict(folder, images, tmp_path / "out") == 0
    found = {}
    for file in (tmp_path / "out").glob("*.png"):
        with Image.open(file) as one:
            assert one.mode == "RGB" and one.size == (26, 18)
            red, green, blue = np.moveaxis(np.asarray(one).astype(int), -1, 0)
            found[file.stem] = red << 16 | green << 8 | blue
    assert len(found) == 14 and {*np.unique(found["A1"])} == {0, 0xFF0001, 0x1020FF}
    for site in "AB":
        for case, scores in cases[site].items():
            _, mask = photograph(int(case[1]))
            wanted = mask.astype(int) @ [1 << 16, 1 << 8, 1]
            own = dice(found[case], wanted, [[0xFF0001], [0x1020FF]])
            assert 0 < own < 1 and own == pytest.approx(scores[-1], abs=1e-6)
    assert np.array_equal(found["tif"], found["A0"]) and np.array_equal(found["bmp"], found["A0"])
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = {(row["case"], row["label"]): row for row in csv.DictReader(file)}
    assert {row["ml"] for row in rows.values()} == {""}, "a picture has no volume"
    inside = found["A1"] == 0xFF0001
    row = rows["A1", "#ff0001"]
    assert row["voxels"] == str(inside.sum())
    red = photograph(1)[0][..., 0]
    assert float(row["mean"]) == pytest.approx(red[inside].mean(), rel=1e-5)


def test_a_file_per_channel_and_a_window_for_ct(tmp_path: Path, capsys):
    """In nnU-Net's layout, whose dataset.json says which images are CT."""
    data = published.nnunet(tmp_path / "data")
    told = json.loads((data / "dataset.json").read_text())
    told["channel_names"] = {"0": "CT", "1": "PET"}
    (data / "dataset.json").write_text(json.dumps(told))
    folder = simulated(tmp_path / "run", data, "scenario=nnunet", "scenario.window=[80,230]")
    cases, names = read(folder)["cases"], {path.name[:9] for path in data.glob("labelsTr/*")}
    assert len(names) == 6
    out, pattern = tmp_path / "out", ["--pattern", "{case}_{channel}.nii.gz"]
    assert predict(folder, data / "imagesTr", out, *pattern) == 0
    assert {path.name for path in out.glob("*.nii.gz")} == {f"{name}.nii.gz" for name in names}
    for site in "AB":
        for case, scores in cases[site].items():
            file = f"{case}.nii.gz"
            own = dice(upright(out / file), upright(data / "labelsTr" / file), [[1], [2], [3]])
            assert 0 < own < 1 and own == pytest.approx(scores[-1], abs=1e-6)
    capsys.readouterr()
    out = tmp_path / "lone"
    assert predict(folder, data / "imagesTs", out, *pattern) == 1, "its second channel is not there"
    assert "unseen_0000.nii.gz: 1 channels" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["failed.txt"]
