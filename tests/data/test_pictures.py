"""Pictures, and files that are left out, whatever the layout."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedcl.app.cli import main
from fedcl.data.notes import Notes
from fedcl.data.reading import Files, Reader, read_image, read_pair
from fedcl.errors import DataError
from fedcl.registry import SCENARIO
from sites.decathlon import Decathlon
from tests.images import BINARY, DISC, decathlon, folder, nifti, picture, site, told

# --- pictures --------------------------------------------------------------------------------


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
    files = Files((tmp_path / f"images/p.{kind}",), tmp_path / "masks/p.png")
    pair = read_pair(files, Reader("A", BINARY), Notes())
    assert np.array_equal(pair.image[0, 0] > 100, DISC) and np.array_equal(pair.labels[0] > 0, DISC)


def test_a_tiff_that_lies_on_its_side_is_refused(tmp_path: Path):
    """Pillow 13 gives other pixels for it; should that be mended, it can be read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images" / "p.tif", np.arange(6, dtype=np.uint8).reshape(2, 3), exif=exif)
    with pytest.raises(DataError, match=r"images/p\.tif: .*on its side by its orientation 6"):
        read_image("A", tmp_path / "images" / "p.tif", Notes())


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
    assert np.array_equal(case.scans[0].content.truth()[0], red + 2 * green)
    both = folder(labels=["#000000", ["#ff0000", "#008200"]]).cases("A", tmp_path)
    assert np.array_equal(both[0].scans[0].content.truth()[0], red | green)
    with pytest.raises(DataError, match=r"mask colours #008200 are not in scenario\.labels"):
        folder(labels=["#000000", "#ff0000"]).cases("A", tmp_path)


def test_colour_images_are_turned_to_grey_only_where_that_is_asked_for(tmp_path: Path):
    coloured = np.dstack([(DISC * 200).astype(np.uint8), *[np.zeros(DISC.shape, np.uint8)] * 2])
    picture(tmp_path / "images" / "p.bmp", coloured)
    picture(tmp_path / "masks" / "p.gif", (DISC * 255).astype(np.uint8))
    with pytest.raises(
        DataError, match=r"images/p\.bmp: 3 channels, scenario\.channels asks for 1"
    ):
        folder(labels=[0, 255]).cases("A", tmp_path)
    scenario = folder(labels=[0, 255], channels="luminance", normalise="none", resize=None)
    assert told(scenario, tmp_path) == []
    (scan,) = scenario.cases("A", tmp_path)[0].scans
    assert np.array_equal(scan.content.truth()[0] > 0, DISC)
    red = torch.from_numpy(DISC * 200 * 0.299).float()  # ITU-R 601
    torch.testing.assert_close(scan.content.image()[0, 0], red)


# --- files that are left out -----------------------------------------------------------------


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
    for name in ("x.dcm", "y.dcm", "z.npz"):
        (tmp_path / "images" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"there is: 2 \.dcm, 1 \.npz"):
        folder().cases("A", tmp_path)


def test_a_lone_file_is_shown_the_nearest_name(tmp_path: Path):
    site(tmp_path)
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a_mask.png")
    with pytest.raises(
        DataError,
        match=r"images/a\.png: scenario.mask finds no file masks/a \(did you mean a_mask.png",
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
    common = [f"scenario.root={tmp_path}", "scenario.patient='^(.+)$'", "scenario.resize=16"]
    assert main(["inspect", "scenario=folder", *common, "model.channels=[4,8]"]) == 0
    assert "not taken for sites, without images/: C, README.md (2)" in capsys.readouterr().out


# --- the Decathlon ---------------------------------------------------------------------------


def test_names_with_dots_byte_order_marks_and_links(tmp_path: Path):
    uids = ["1.2.840.113619.2", "1.2.840.113619.10", "1.2.840.7"]
    root = decathlon(tmp_path / "store", uids, bom=True)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "dataset.json").write_bytes((root / "dataset.json").read_bytes())
    for kind in ("imagesTr", "labelsTr"):  # as data management tools lay them
        (tmp_path / "task" / kind).mkdir()
        for file in (root / kind).iterdir():
            (tmp_path / "task" / kind / file.name).symlink_to(file)
    scenario = SCENARIO.make({"name": "decathlon", "resize": 8, "cohorts": {"A": {}}})
    assert isinstance(scenario, Decathlon)
    cases = scenario.cases("A", tmp_path / "task")
    assert [case.name for case in cases] == ["1.2.840.7", "1.2.840.113619.2", "1.2.840.113619.10"]


def test_volumes_that_are_not_listed_are_told(tmp_path: Path):
    root = decathlon(tmp_path, ["a", "b", "c"])
    (root / "imagesTr" / "d.nii.gz").write_bytes((root / "imagesTr" / "a.nii.gz").read_bytes())
    (root / "imagesTr" / "._a.nii.gz").write_bytes(b"x")
    scenario = SCENARIO.make({"name": "decathlon", "resize": 8, "cohorts": {"A": {}}})
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
    settings = {"name": "decathlon", "resize": 8, "cohorts": {"A": {}}, "margin": 1}
    found = SCENARIO.make(settings).cases("A", tmp_path)
    assert [len(scan.content.truth()) for scan in found[0].scans] == [3, 3]
    assert [scan.own for scan in found[0].scans] == [(3, 8, 8)] * 2
    assert "slices beyond scenario.margin left out, in tests too: a.nii.gz 3" in map(
        str, found.notes
    )
