"""Files whose numbers would be wrong without a word are refused or told."""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedcl.data.grid import Grid, apart, offset
from fedcl.data.labels import IGNORED
from fedcl.data.notes import Notes
from fedcl.data.reading import Files, Reader, read_image, read_pair
from fedcl.errors import ConfigError, DataError
from fedcl.registry import SCENARIO
from tests.conftest import TINY, read
from tests.images import (
    BINARY,
    RAS,
    RNG,
    decathlon,
    folder,
    nifti,
    picture,
    reoriented,
    site,
    told,
    turned,
)


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
            read_image("A", tmp_path / name, Notes())


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
        "scenario.resize=16", "scenario.labels=[0,1]", "scenario.ignore=[7]", "timeline.rounds=1",
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
    assert "scenario.ignore: souvenir" in capsys.readouterr().err and not run.exists()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SLA"])
def test_what_lies_outside_of_a_region_counts_nowhere(tmp_path: Path, axes: str):
    image = nifti(tmp_path / "image.nii", RNG.normal(size=(8, 9, 4)).astype(np.float32))
    classes = RNG.integers(0, 2, (8, 9, 4)).astype(np.uint8)
    mask = nifti(tmp_path / "mask.nii", classes)
    inside = RNG.integers(0, 3, (8, 9, 4)).astype(np.uint8)
    region = nifti(tmp_path / "region.nii", *reoriented(inside, RAS, axes))
    pair = read_pair(Files((image,), mask, region), Reader("A", BINARY), Notes())
    assert np.array_equal(pair.labels, np.where(inside > 0, classes, IGNORED).T)
    assert pair.region is not None and np.array_equal(pair.region, inside.T > 0)
    shifted = nifti(tmp_path / "region.nii", inside, RAS + np.outer([9, 0, 0, 0], [0, 0, 0, 1]))
    with pytest.raises(DataError, match=r"region\.nii: origins in the headers differ: .* 6 voxels"):
        read_pair(Files((image,), mask, shifted), Reader("A", BINARY), Notes())


def test_one_frame_of_a_file_of_several(tmp_path: Path):
    frames = RNG.normal(size=(8, 9, 4, 3)).astype(np.float32)
    image = nifti(tmp_path / "image.nii", frames)
    mask = nifti(tmp_path / "mask.nii", np.zeros((8, 9, 4), np.uint8))
    pair = read_pair(Files((image,), mask, frame=2), Reader("A", BINARY), Notes())
    assert np.array_equal(pair.image, frames[..., 2].T[None])
    with pytest.raises(DataError, match=r"image\.nii: 3 frames, none of number 3 from 0"):
        read_pair(Files((image,), mask, frame=3), Reader("A", BINARY), Notes())


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
        read_image("A", file, Notes())


def test_values_within_the_header_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"x\.nii: .*vox_offset"):
        read_image("A", raw(tmp_path / "x.nii", vox_offset=0), Notes())


@pytest.mark.parametrize(
    ("affine", "fields", "said"),
    [
        (np.diag([1, 1, 1, 1.0]), {"pixdim": [1, 1, 1, 5, 1, 1, 1, 1]}, "sform and pixdim"),
        (RAS + np.outer([0.8, 0, 0, 0], [0, 0, 1, 0]), {}, "not at right angles"),
    ],
)
def test_headers_at_odds_with_themselves_are_told(tmp_path: Path, affine, fields, said: str):
    notes = Notes()
    read_image("A", raw(tmp_path / "x.nii", affine, **fields), notes)
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
    assert case.scans[0].spacing == (5.0, 0.5, 0.5)


def test_a_window_that_leaves_nothing_is_refused(tmp_path: Path):
    root = decathlon(tmp_path, ["a", "b"])
    text = json.loads((root / "dataset.json").read_text()) | {"modality": {"0": "MRI"}}
    (root / "dataset.json").write_text(json.dumps(text))
    settings = {"name": "decathlon", "resize": 8, "cohorts": {"A": {}}}
    settings["normalise"] = "window"
    with pytest.raises(DataError, match=r"a\.nii\.gz: the window leaves nothing of it"):
        SCENARIO.make(settings | {"window": [300.0, 700.0]}).cases("A", root)
    found = SCENARIO.make(settings | {"window": [0.0, 1.0]}).cases("A", root)
    assert "dataset.json says MRI, not CT: a window in HU may not be meant" in map(str, found.notes)
    assert found[0].images.unique().tolist() == [-1, 1]


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
    scenario = SCENARIO.make({"name": "decathlon", "resize": 8, "cohorts": {"A": {}}})
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
