"""Files of a case by patterns: names, folders and channels as data sets are published."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcl.errors import ConfigError, DataError
from fedcl.settings import parse
from sites.folder import Folder
from sites.prostate import Prostate
from tests.conftest import read
from tests.images import nifti, picture

RNG = np.random.default_rng(5)


def folder(**values: Any) -> Folder:
    return parse(Folder, {"patient": "^(.+)$", "labels": [0, 255], **values}, "scenario")


def fundus(file: Path, seed: int = 0, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)
    picture(file, image)
    return image


def vessels(file: Path, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[5:9, 3:25] = 255
    picture(file, mask)
    return mask


def drive(root: Path) -> Path:
    """Write DRIVE as it is published: TIFF pictures, GIF masks, folders for training and test."""
    for part, suffix, numbers in (("training", "training", (21, 22, 23)), ("test", "test", (1, 2))):
        for n in numbers:
            fundus(root / part / "images" / f"{n:02d}_{suffix}.tif", n)
            vessels(root / part / "1st_manual" / f"{n:02d}_manual1.gif")
            field = np.zeros((20, 30), np.uint8)
            field[2:18, 2:28] = 255
            picture(root / part / "mask" / f"{n:02d}_{suffix}_mask.gif", field)
        (root / part / "2nd_manual").mkdir()
    return root


DRIVE = {
    "image": "{part}/images/{case}_*.tif", "mask": "{part}/1st_manual/{case}_manual1.gif",
    "region": "{part}/mask/{case}_*_mask.gif", "channels": 3,
}  # fmt: skip


def test_drive_is_read_from_its_own_tree(tmp_path: Path):
    root = drive(tmp_path / "DRIVE")
    scenario = folder(**DRIVE, normalise="zscore")
    data = scenario.load("DRIVE", root, 0)
    assert [case.name for case in data.test] == ["01", "02"]
    assert sorted(case.name for case in (*data.train, *data.val)) == ["21", "22", "23"]
    (scan,) = data.test[0].scans
    truth, image = scan.content.truth()[0], scan.content.image()[:, 0]
    assert (truth[2:18, 2:28] != 255).all() and (truth == 255).sum() == 20 * 30 - 16 * 26
    assert image.shape == (3, 20, 30)
    stored = np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    inside = stored[2:18, 2:28, 1].astype(float)
    wanted = (inside - inside.mean()) / inside.std()
    np.testing.assert_allclose(image[1, 2:18, 2:28], wanted, rtol=1e-4, atol=1e-4)
    assert scenario.task.ignores


def test_sites_whose_files_lie_each_in_another_way_are_run_together(cli, tmp_path: Path):
    drive(tmp_path / "DRIVE")
    for n in range(4):
        fundus(tmp_path / "CHASE" / f"Image_0{n}L.jpg", n)
        vessels(tmp_path / "CHASE" / f"Image_0{n}L_1stHO.png")
        fundus(tmp_path / "STARE" / "stare-images" / f"im000{n}.ppm", n)
        vessels(tmp_path / "STARE" / "labels-ah" / f"im000{n}.ah.png")
    files = "scenario.site_files"
    asked = [
        "scenario=folder", f"scenario.root={tmp_path}", "scenario.patient='^(.+)$'",
        "scenario.channels=[1]", "scenario.patch=[16,16]", "strategy=lwf", "timeline.rounds=1",
        f"{files}.DRIVE.image='{DRIVE['image']}'", f"{files}.DRIVE.mask='{DRIVE['mask']}'",
        f"{files}.DRIVE.region='{DRIVE['region']}'",
        f"{files}.CHASE.image='{{case}}.jpg'", f"{files}.CHASE.mask='{{case}}_1stHO.png'",
        f"{files}.STARE.image='stare-images/{{case}}'",
        f"{files}.STARE.mask='labels-ah/{{case}}.ah'",
        "engine=inprocess", "tracking.enabled=false", "run.figures=false", "learner.steps=2",
        "model.channels=[4,8]",
    ]  # fmt: skip
    assert cli(*asked, f"run.dir={tmp_path / 'run'}") == 0
    results = read(tmp_path / "run")
    assert results["sites"] == ["CHASE", "DRIVE", "STARE"]
    assert sorted(results["cases"]["DRIVE"]) == ["01", "02"]


def test_channels_in_files_of_their_own(tmp_path: Path):
    for n in range(3):
        image = RNG.normal(size=(6, 5, 4)).astype(np.float32)
        for channel in (0, 1, 10):
            nifti(tmp_path / "A" / "scans" / f"p{n}_{channel:04d}.nii.gz", image + channel)
        nifti(tmp_path / "A" / "marks" / f"p{n}.nii.gz", (image > 0).astype(np.uint8))
    scenario = folder(
        image="scans/{case}_{channel}", mask="marks/{case}", channels=3, labels=[0, 1],
        normalise="none", spatial_dims=3,
    )  # fmt: skip
    case = scenario.cases("A", tmp_path / "A")[0]
    image = case.scans[0].content.image()
    torch.testing.assert_close(image[1] - image[0], torch.ones_like(image[0]))
    torch.testing.assert_close(image[2] - image[0], torch.full_like(image[0], 10))


def test_sites_by_a_pattern(tmp_path: Path):
    for site in ("north", "south"):
        for n in range(3):
            fundus(tmp_path / "all" / f"{site}_{n}.png", n)
            vessels(tmp_path / "all" / f"{site}_{n}_mask.png")
    scenario = folder(
        root=str(tmp_path), image="all/{site}_{case}.png", mask="all/{site}_{case}_mask.png",
        channels="luminance",
    )  # fmt: skip
    assert scenario.sites() == ["north", "south"]
    place = scenario.location("south")
    assert place is not None
    assert [case.name for case in scenario.cases("south", place)] == ["0", "1", "2"]


SITES = ["BIDMC", "BMC", "HK", "I2CVB", "RUNMC", "UCL"]


def test_prostates_of_six_sites_as_published_and_as_prepared(cli, tmp_path: Path):
    marks = ("segmentation", "Segmentation", "gt")
    for number, site in enumerate(SITES):
        for n in range(3):
            image = RNG.normal(size=(10, 9, 4)).astype(np.float32)
            nifti(tmp_path / "d" / site / f"Case{n:02d}.nii.gz", image)
            name = f"Case{n:02d}_{marks[number % 3]}.nii.gz"
            labels = (image > 0.5).astype(np.uint8) + (image > 1.5).astype(np.uint8)
            nifti(tmp_path / "d" / site / name, labels)
    scenario = parse(Prostate, {"root": str(tmp_path / "d")}, "scenario")
    assert scenario.sites() == SITES
    assert scenario.arrivals() == [[s] for s in ("RUNMC", "BMC", "I2CVB", "UCL", "BIDMC", "HK")]
    case = scenario.cases("HK", tmp_path / "d" / "HK")[0]
    assert case.name == "Case00" and case.labels.unique().tolist() == [0, 1]
    asked = ["scenario=prostate", f"scenario.root={tmp_path / 'd'}", "timeline.rounds=1",
             "engine=inprocess", "tracking.enabled=false", "run.figures=false", "learner.steps=1",
             "model.channels=[4,8]", "strategy=ted"]  # fmt: skip
    assert cli(*asked, f"run.dir={tmp_path / 'run'}") == 0
    assert len(read(tmp_path / "run")["stages"]) == 6


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": "images/*.png"}, "scenario.image: give a path within the site's folder"),
        ({"image": "../{case}"}, "scenario.image: give a path"),
        ({"image": "/x/{case}"}, "scenario.image: give a path"),
        ({"mask": "{case}/{case}"}, "scenario.mask: give a path"),
        ({"mask": "{name}_{case}"}, "scenario.mask: give a path"),
        ({"mask": None}, "scenario.mask: give a pattern"),
        ({"site_files": {"A": {"mask": 3}}}, "scenario.site_files.A.mask: give a pattern"),
    ],
)
def test_patterns_that_are_none_are_refused(values: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        folder(**values)


def test_what_has_no_partner_or_two_is_named(tmp_path: Path):
    for n in range(3):
        fundus(tmp_path / f"p{n}.png", n)
        vessels(tmp_path / f"p{n}_mask.png")
    scenario = folder(image="{case}.png", mask="{case}_mask*", channels=3)
    assert [case.name for case in scenario.cases("A", tmp_path)] == ["p0", "p1", "p2"]
    vessels(tmp_path / "p1_mask2.png")
    with pytest.raises(DataError, match=r"p1\.png: scenario\.mask finds several: p1_mask"):
        scenario.cases("A", tmp_path)
    (tmp_path / "p1_mask2.png").unlink()
    (tmp_path / "p1_mask.png").unlink()
    with pytest.raises(DataError, match=r"p1\.png: scenario\.mask finds no file p1_mask\*"):
        scenario.cases("A", tmp_path)
    vessels(tmp_path / "p9_mask.png")
    vessels(tmp_path / "p1_mask.png")
    with pytest.raises(DataError, match=r"p9_mask\.png: a mask without image"):
        scenario.cases("A", tmp_path)


def test_sites_that_differ_in_capitals_alone_have_each_its_own(tmp_path: Path):
    for n in range(3):
        picture(tmp_path / "seg" / f"p{n}.png", np.eye(16, dtype=np.uint8) * 255)
        for site in ("ucl", "UCL"):
            content = np.full((16, 16), 50 if site == "ucl" else 90, np.uint8)
            picture(tmp_path / "img" / f"{site}_p{n}.png", content)
    values = {"image": "img/{site}_{case}", "mask": "seg/{case}", "normalise": "none", "size": 16}
    one = folder(root=str(tmp_path), **values)
    for site, value in (("ucl", 50), ("UCL", 90)):
        cases = one.cases(site, one.location(site))
        assert [case.name for case in cases] == ["p0", "p1", "p2"]
        assert all(case.images.eq(value).all() for case in cases)


def test_names_that_read_alike_are_refused(tmp_path: Path):
    for name in ("u\u0308", "\u00fc"):
        for kind in ("images", "masks"):
            picture(tmp_path / kind / f"{name}.png", np.eye(16, dtype=np.uint8))
    if len(list((tmp_path / "images").iterdir())) < 2:
        pytest.skip("the file system takes the two names for one")
    with pytest.raises(DataError, match=r"another name reads alike \(Unicode\)"):
        folder(size=16).cases("A", tmp_path)


def test_a_folder_that_is_for_nothing_known_is_named(tmp_path: Path):
    for part in ("training", "extra"):
        fundus(tmp_path / part / "image" / f"of_{part}.png")
        vessels(tmp_path / part / "mask" / f"of_{part}.png")
    scenario = folder(image="{part}/image/{case}", mask="{part}/mask/{case}", channels=3)
    with pytest.raises(DataError, match=r"\{part\} is 'extra'"):
        scenario.cases("A", tmp_path)


def test_one_name_in_two_folders_is_told_with_both(tmp_path: Path):
    for part in ("training", "test"):
        fundus(tmp_path / part / "image" / "a.png")
        vessels(tmp_path / part / "mask" / "a.png")
    scenario = folder(image="{part}/image/{case}", mask="{part}/mask/{case}", channels=3)
    with pytest.raises(DataError, match=r"image/a\.png: of case a like (test|training)/image/a"):
        scenario.cases("A", tmp_path)


def test_pictures_may_be_compressed_as_stare_publishes_them(tmp_path: Path):
    for n in range(3):
        plain = tmp_path / "x.ppm"
        fundus(plain, n)
        stored = tmp_path / "A" / "images" / f"im{n}.ppm.gz"
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(gzip.compress(plain.read_bytes()))
        vessels(tmp_path / "A" / "masks" / f"im{n}.png")
    case = folder(channels=3, normalise="none").cases("A", tmp_path / "A")[2]
    wanted = np.random.default_rng(2).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(case.images[0].numpy(), np.moveaxis(wanted, -1, 0))


def test_channels_are_in_the_order_of_their_numbers_and_the_same_for_all(tmp_path: Path):
    for n in range(3):
        for channel in (1, 2, 10):
            image = np.full((6, 5), 10 * channel + n, np.uint8)
            picture(tmp_path / "images" / f"p{n}_{channel}.png", image)
        picture(tmp_path / "masks" / f"p{n}.png", np.zeros((6, 5), np.uint8))
    asked = {"image": "images/{case}_{channel}", "channels": 3, "normalise": "none"}
    case = folder(**asked).cases("A", tmp_path)[1]
    assert case.images[0, :, 0, 0].tolist() == [11, 21, 101]
    (tmp_path / "images" / "p2_10.png").rename(tmp_path / "images" / "p2_3.png")
    with pytest.raises(DataError, match="case p2 has the channels 1, 2, 3, the first 1, 2, 10"):
        folder(**asked).cases("A", tmp_path)


def test_what_is_guessed_or_cut_is_told(tmp_path: Path):
    """A grey picture among coloured ones, a split without validation, images beyond the size."""
    for n in range(5):
        fundus(tmp_path / "images" / f"p{n}.png", n)
        vessels(tmp_path / "masks" / f"p{n}.png")
    deep = (np.arange(600).reshape(20, 30) * 100).astype(np.uint16)
    picture(tmp_path / "images" / "p0.png", deep)
    parts = {"train": ["p0", "p1", "p2", "p3"], "test": ["p4"]}
    scenario = folder(channels=3, size=16, assigned=parts)
    data = scenario.load("A", tmp_path, 0)
    told = " | ".join(map(str, data.notes))
    assert "grey images, whose one channel is taken for all three colours: p0.png" in told
    assert "no case named for val is here: drawn from those for training: p" in told
    assert scenario.task.describe(data)["trained on"] == "16x16 cut"
    patches = folder(channels=3, patch=[8, 16], assigned=parts)
    assert patches.task.describe(data)["trained on"] == "8x16 drawn"


def test_pictures_have_no_millimetres_to_be_brought_to(tmp_path: Path):
    for n in range(3):
        fundus(tmp_path / "images" / f"p{n}.png", n)
        vessels(tmp_path / "masks" / f"p{n}.png")
    with pytest.raises(DataError, match=r"p0\.png: it does not say how large its voxels are"):
        folder(channels=3, spacing=0.5).cases("A", tmp_path)
