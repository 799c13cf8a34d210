"""Files that say one thing and hold another, values that would change in silence, lack of room."""

import gzip
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcl.data.labels import IGNORED
from fedcl.data.preparing import Preparation
from fedcl.data.reading import Pair
from fedcl.errors import ConfigError, DataError
from fedcl.settings import parse
from fedcl.tasks.metrics import case_scores
from sites.folder import Folder
from sites.nnunet import NNUNet
from tests import published
from tests.images import nifti, picture

RNG = np.random.default_rng(5)
MASK = (RNG.random((6, 7, 8)) > 0.6).astype(np.uint8)


def scenario(**values: Any) -> Folder:
    defaults = {"patient": "^(.+)$", "labels": [0, 1], "spatial_dims": 3}
    return parse(Folder, defaults | values, "scenario")


def volumes(site: Path, count: int = 3) -> Path:
    for n in range(count):
        image = RNG.integers(0, 200, MASK.shape).astype(np.uint8)
        for kind, array in (("images", image), ("masks", MASK)):
            file = nifti(site / kind / f"p{n}.nii.gz", array)
            os.utime(file, (time.time() - 60, time.time() - 60))
    return site


def pair(labels: np.ndarray) -> Pair:
    image = RNG.normal(size=(1, *labels.shape)).astype(np.float32)
    return Pair(image, labels, (1.0, 1.0, 1.0), "axial", None)


def test_what_is_ignored_is_no_background_that_was_left_alone():
    found = torch.tensor([[[1, 0, 1, 1, 1, 1, 1, 1]]])
    truth = torch.tensor([[[0, 0, 1, 1, *[IGNORED] * 4]]])
    scores = case_scores(found, truth, 2, (1.0, 1.0, 1.0), ("sensitivity", "specificity"))
    assert scores == {"sensitivity": 1.0, "specificity": 0.5}


def test_a_margin_is_about_labels_not_about_what_is_ignored():
    labels = np.zeros((10, 4, 4), np.uint8)
    labels[5, 1:3, 1:3] = 1
    labels[:, 0] = IGNORED
    (scan,) = Preparation(margin=1)(pair(labels))
    assert scan.shape == (1, 3, 4, 4)


def test_every_channel_is_normalised_as_it_was_taken():
    image = np.stack([np.full((2, 3, 3), 60.0), np.full((2, 3, 3), 5.0)]).astype(np.float32)
    image[:, 0] += np.float32(10)
    labels = np.ones((2, 3, 3), np.uint8)
    both = Pair(image, labels, (1.0, 1.0, 1.0), "axial", None)
    (scan,) = Preparation(normalise=("window", "zscore"), window=(60.0, 80.0))(both)
    found = scan.content.image()
    assert found[0].unique().tolist() == [-1.0, 0.0] and found[1].unique().tolist() == [-1.0, 1.0]
    with pytest.raises(ValueError, match=r"2 channels, .*dataset\.json.* names 1"):
        Preparation(normalise=("window",))(both)


def test_an_image_is_not_blown_up_beyond_what_can_be_meant(tmp_path: Path):
    site = volumes(tmp_path / "A")
    with pytest.raises(DataError, match=r"images/p0\.nii\.gz: scenario\.spacing: 8x7x6 voxels"):
        scenario(spacing=0.001).cases("A", site)
    with pytest.raises(ConfigError, match=r"^scenario\.size: "):
        scenario(size=[2048, 2048, 2048])


def test_a_header_that_tells_of_more_than_there_is_gets_no_room(tmp_path: Path):
    site = volumes(tmp_path / "A")
    file = site / "images" / "p0.nii.gz"
    raw = bytearray(gzip.decompress(file.read_bytes()))
    raw[42:48] = np.array([2000, 2000, 375], "<i2").tobytes()
    file.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(DataError, match=r"p0\.nii\.gz: cannot be read: its header tells of 15000"):
        scenario().cases("A", site)


@pytest.mark.parametrize("most", [100, 4095])
def test_pictures_whose_values_would_be_stretched_are_refused(tmp_path: Path, most: int):
    grey = MASK[0].astype(">u2" if most > 255 else "u1")
    head = f"P5 {grey.shape[1]} {grey.shape[0]} {most}\n".encode()
    picture(tmp_path / "A" / "masks" / "p0.png", MASK[0] * 1)
    (tmp_path / "A" / "images").mkdir()
    (tmp_path / "A" / "images" / "p0.pgm").write_bytes(head + grey.tobytes())
    with pytest.raises(DataError, match=rf"p0\.pgm: .*values up to {most}"):
        scenario(spatial_dims=2).cases("A", tmp_path / "A")


@pytest.mark.parametrize(
    "head", ["ElementDataFile = LIST\nv.raw\n", "ElementDataFile = ../B/v.raw\n"]
)
def test_values_in_several_or_distant_files_are_refused(tmp_path: Path, head: str):
    pytest.importorskip("SimpleITK", reason="SimpleITK reads MetaImage")
    site = volumes(tmp_path / "A")
    (site / "images" / "p0.nii.gz").unlink()
    about = "ObjectType = Image\nNDims = 3\nDimSize = 6 7 8\nElementType = MET_UCHAR\n"
    for folder in ("A/images", "A/B"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "v.raw").write_bytes(MASK.T.tobytes())
    (site / "images" / "p0.mha").write_text(about + head)
    with pytest.raises(DataError, match=r"p0\.mha: cannot be read: its values lie in"):
        scenario().cases("A", site)


def test_images_that_change_under_a_run_are_not_taken_for_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path / "cache"))
    site = volumes(tmp_path / "A")
    held = scenario(cache="disk").cases("A", site)
    for path in (tmp_path / "cache").glob("*.safetensors"):
        path.unlink()
    nifti(site / "images" / "p1.nii.gz", MASK * 9)
    assert held[0].scans[0].content.image().shape == (1, 8, 7, 6), "made again of what it was"
    with pytest.raises(DataError, match=r"p1\.nii\.gz: .* has changed during the run"):
        held[1].scans[0].content.image()


def test_notes_of_digests_that_are_damaged_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path / "cache"))
    site = volumes(tmp_path / "A")
    scenario(cache="disk").cases("A", site)
    there = {path.name for path in (tmp_path / "cache").glob("*.safetensors")}
    for content in (b"\0" * 64, b"\xff" * 64):
        for note in (tmp_path / "cache" / "known").iterdir():
            note.write_bytes(content)
        scenario(cache="disk").cases("A", site)
        assert {path.name for path in (tmp_path / "cache").glob("*.safetensors")} == there


def test_cases_that_are_not_assigned_are_trained_on_and_strange_names_are_told(tmp_path: Path):
    volumes(tmp_path / "A", 5)
    one = scenario(root=str(tmp_path), assigned={"test": ["p4", "p44"]})
    found = one.load("A", tmp_path / "A", 0)
    assert [case.name for case in found.test] == ["p4"]
    assert len(found.train) + len(found.val) == 4
    assert one.left_out() == ["scenario.splits: cases that no site has: p44 (1)"]


def test_a_site_may_have_no_region_where_others_have(tmp_path: Path):
    volumes(tmp_path / "A")
    volumes(tmp_path / "B")
    for n in range(3):
        nifti(tmp_path / "A" / "seen" / f"p{n}.nii.gz", np.ones_like(MASK))
    own = {"B": {"region": ""}}
    one = scenario(root=str(tmp_path), region="seen/{case}", site_files=own)
    assert [len(one.cases(site, tmp_path / site)) for site in one.sites()] == [3, 3]


def test_what_nnunet_ignores_is_ignored(tmp_path: Path):
    root = published.nnunet(tmp_path / "set")
    told = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(told.replace('"c": 3', '"ignore": 3'))
    one = parse(NNUNet, {"root": str(root)}, "scenario")
    assert one.labels == [0, 1, 2] and one.ignore == [3] and one.task.ignores


def test_a_case_without_any_label_is_told(tmp_path: Path):
    site = volumes(tmp_path / "A", 4)
    nifti(site / "masks" / "p2.nii.gz", MASK * 0)
    told = [str(note) for note in scenario().load("A", site, 0).notes]
    assert "masks with nothing but background: p2" in told
