"""Which channels of an image networks are shown: colours, and volumes of several."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcl.data.channels import Channels
from fedcl.data.notes import Notes
from fedcl.data.reading import Files, Reader, read_pair
from fedcl.data.scans import Scan
from fedcl.errors import ConfigError, DataError
from tests.images import BINARY, RAS, RNG, folder, nifti, picture, reoriented, told

COLOURS = RNG.integers(0, 256, (9, 12, 3)).astype(np.uint8)
MASK = (COLOURS[..., 0] > 120).astype(np.uint8)


def read(site: Path, **settings: Any) -> Scan:
    """Return the only image of a site, its intensities as they are unless settings differ."""
    given = {"normalise": "none", "resize": None} | settings
    (case,) = folder(**given).cases("A", site)
    (scan,) = case.scans
    return scan


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    picture(tmp_path / "images" / "p.png", COLOURS)
    picture(tmp_path / "masks" / "p.png", MASK)
    return tmp_path


@pytest.fixture
def volume(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A NIfTI volume with three channels along its last axis; the array is (i, j, k, channel)."""
    array = RNG.normal(size=(6, 7, 4, 3)).astype(np.float32)
    nifti(tmp_path / "images" / "p.nii.gz", array)
    nifti(tmp_path / "masks" / "p.nii.gz", (array[..., 0] > 0).astype(np.uint8))
    return tmp_path, array


def test_all_colours_of_a_picture_are_channels(coloured: Path):
    scan = read(coloured, channels=3)
    assert scan.shape == (3, 1, 9, 12)
    assert np.array_equal(scan.content.image()[:, 0], np.moveaxis(COLOURS, -1, 0))
    assert np.array_equal(scan.content.labels()[0], MASK)
    assert folder(channels=3).task.channels == 3 and told(folder(channels=3), coloured) == []


@pytest.mark.parametrize("chosen", [[1], [2, 0], [0, 1, 2]])
def test_channels_are_chosen_by_number_and_in_the_order_given(coloured: Path, chosen: list[int]):
    image = read(coloured, channels=chosen).content.image()
    assert np.array_equal(image[:, 0], np.moveaxis(COLOURS, -1, 0)[chosen])
    assert folder(channels=chosen).task.channels == len(chosen)


def test_luminance_is_the_brightness_of_colours(coloured: Path):
    image = read(coloured, channels="luminance").content.image()
    expected = COLOURS.astype(np.float64) @ [0.299, 0.587, 0.114]  # ITU-R 601
    np.testing.assert_allclose(image[0, 0], expected, rtol=1e-6)
    assert image.shape == (1, 1, 9, 12) and image.dtype == torch.float32


@pytest.mark.parametrize("channels", [3, "luminance", [1]])
def test_a_grey_picture_among_coloured_ones_is_taken(coloured: Path, channels: Any):
    grey = COLOURS[..., :1].repeat(3, 2)  # stored in colours, all of them alike
    picture(coloured / "images" / "q.png", grey)
    picture(coloured / "masks" / "q.png", MASK)
    scenario = folder(channels=channels, normalise="none", resize=None)
    _, case = scenario.cases("A", coloured)
    image = case.scans[0].content.image()
    assert len(image) == scenario.task.channels
    for channel in image:
        np.testing.assert_allclose(channel[0], COLOURS[..., 0], rtol=1e-6)


def test_every_channel_is_normalised_by_itself(coloured: Path):
    image = read(coloured, channels=3, normalise="zscore").content.image()[:, 0].double()
    flat = np.moveaxis(COLOURS.astype(np.float64), -1, 0)
    mean, deviation = flat.mean((1, 2), keepdims=True), flat.std((1, 2), keepdims=True)
    np.testing.assert_allclose(image, (flat - mean) / deviation, atol=1e-5)


@pytest.mark.parametrize(("channels", "chosen"), [(3, [0, 1, 2]), ([1], [1]), ([2, 0], [2, 0])])
def test_the_last_axis_of_a_nifti_volume_is_its_channels(volume, channels: Any, chosen: list[int]):
    site, array = volume
    scan = read(site, channels=channels, spatial_dims=3)
    assert scan.shape == (len(chosen), 4, 7, 6)
    expected = array.transpose(3, 2, 1, 0)[chosen]  # (channel, slice, row, column)
    np.testing.assert_allclose(scan.content.image(), expected, atol=1e-6)
    assert scan.lowest == pytest.approx(expected.min((1, 2, 3)).tolist())
    slices = read(site, channels=channels)
    assert np.array_equal(slices.content.image(), scan.content.image())
    samples = folder(channels=channels, resize=None).task.samples(
        folder(channels=channels, resize=None, normalise="none").cases("A", site),
        torch.device("cpu"),
    )
    assert np.array_equal(samples.inputs, scan.content.image().movedim(0, 1))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
def test_channels_in_files_of_their_own_are_turned_to_the_first(tmp_path: Path, axes: str):
    one, two = RNG.normal(size=(2, 6, 7, 4)).astype(np.float32)
    first = nifti(tmp_path / "t1.nii", one)
    second = nifti(tmp_path / "t2.nii", *reoriented(two, RAS, axes))
    mask = nifti(tmp_path / "mask.nii", (one > 0).astype(np.uint8))
    pair = read_pair(Files((first, second), mask), Reader("A", BINARY, Channels(2)), Notes())
    assert np.array_equal(pair.image, [one.T, two.T])
    assert np.array_equal(pair.labels, one.T > 0)


def test_a_channel_that_lies_elsewhere_is_refused(tmp_path: Path):
    array = RNG.normal(size=(6, 7, 4)).astype(np.float32)
    there = RAS + np.outer([8, 0, 0, 0], [0, 0, 0, 1])
    files = Files(
        (nifti(tmp_path / "t1.nii", array), nifti(tmp_path / "t2.nii", array, there)),
        nifti(tmp_path / "mask.nii", np.zeros((6, 7, 4), np.uint8)),
    )
    with pytest.raises(DataError, match=r"t2\.nii: origins .* 5\.33 voxels from its image"):
        read_pair(files, Reader("A", BINARY, Channels(2)), Notes())


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (
            1,
            "3 channels, scenario.channels asks for 1; store those that are meant, or have a run "
            "with scenario.channels=3 for all of them",
        ),
        (2, "3 channels, scenario.channels asks for 2; "),
        (4, "3 channels, scenario.channels asks for 4; "),
        ([3], "scenario.channels asks for channel 3, counted from 0, but there are 3"),
        ([0, 7], "scenario.channels asks for channel 7, counted from 0, but there are 3"),
    ],
)
def test_other_channels_than_asked_for_are_refused_by_the_settings_name(
    coloured: Path, channels: Any, said: str
):
    with pytest.raises(DataError, match=r"^site A: images/p\.png: ") as error:
        read(coloured, channels=channels)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_has_no_colours_has_no_luminance_and_no_second_channel(tmp_path: Path):
    nifti(tmp_path / "images" / "p.nii", RNG.normal(size=(6, 7, 4, 2)).astype(np.float32))
    nifti(tmp_path / "masks" / "p.nii", np.zeros((6, 7, 4), np.uint8))
    with pytest.raises(DataError, match=r"2 channels, scenario\.channels asks for .*luminance"):
        read(tmp_path, channels="luminance")
    nifti(tmp_path / "images" / "p.nii", RNG.normal(size=(6, 7, 4)).astype(np.float32))
    with pytest.raises(DataError, match=r"asks for channel 1, counted from 0, but there is one"):
        read(tmp_path, channels=[1])


@pytest.mark.parametrize(
    "given", [0, -1, 65, True, 1.5, "grey", [], [-1], [0, 0], [0, "1"], [True], None, {"a": 1}]
)
def test_settings_that_choose_no_channels(given: Any):
    with pytest.raises(ConfigError, match=r"^scenario\.channels: give how many channels"):
        Channels.of(given)
    with pytest.raises(ConfigError, match=r"^scenario\.channels: "):
        folder(channels=given)
