"""What methods make of volumes, in numpy; runs of all of them are in tests/app/test_runs.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strategies.parts.anatomy import REGIONS, places, quantiles, regions, reshape
from tests.conftest import TINY, read
from tests.images import nifti
from tests.small import make

RNG = np.random.default_rng(4)


def box(shape: tuple[int, int, int], *spans: tuple[int, int]) -> torch.Tensor:
    """Return the labels of an organ that is a box, shape (1, 1, D, H, W)."""
    labels = torch.zeros(1, 1, *shape, dtype=torch.int64)
    labels[0, 0][tuple(slice(*span) for span in spans)] = 1
    return labels


def test_plop_embeds_windows_along_every_axis():
    feature = RNG.normal(size=(2, 3, 4, 6, 8)).astype(np.float32)
    found = make("plop", windows=[1, 2]).embed(torch.from_numpy(feature))
    parts = []
    for count in (1, 2):
        for axis in (4, 3, 2):
            halves = np.split(feature, count, axis)
            means = np.concatenate([half.mean(axis, keepdims=True) for half in halves], axis)
            parts.append(means.reshape(2, -1))
    expected = np.concatenate(parts, 1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_place_of_an_organ_in_a_volume():
    labels = box((8, 12, 16), (2, 5), (6, 12), (1, 3))
    found = places(labels)[0].numpy()
    at = np.argwhere(labels[0, 0].numpy())[:, ::-1]  # x, y, z
    coordinates = (2 * at + 1) / np.array([16, 12, 8]) - 1
    np.testing.assert_allclose(found[:3], coordinates.mean(0), atol=1e-6)
    extents = 0.5 * np.log(coordinates.var(0) + 1e-4)
    np.testing.assert_allclose(found[3:], extents, atol=1e-5)
    assert not places(torch.zeros_like(labels)).any()


def test_an_organ_that_is_alike_in_every_slice_has_the_regions_of_its_slices():
    slices = box((1, 32, 32), (0, 1), (8, 20), (10, 26))[:, :, 0]
    whole = regions(slices[:, :, None].expand(-1, -1, 5, -1, -1))
    assert whole.shape == (1, 5, 32, 32)
    for number in range(5):
        assert torch.equal(whole[:, number], regions(slices))


def test_quantiles_of_regions_of_volumes_are_numpys():
    region = regions(box((6, 20, 20), (2, 5), (6, 14), (5, 12)))
    images = torch.from_numpy(RNG.normal(size=(1, 2, 6, 20, 20)).astype(np.float32))
    found, pixels = quantiles(images, region, 5)
    seen = 0
    for number in range(REGIONS):
        values = images[0][:, region[0] == number].numpy()
        assert pixels[0, number] == values.shape[1]
        if values.size:
            seen += 1
            expected = np.quantile(values, np.linspace(0, 1, 5), axis=1).T
            np.testing.assert_allclose(found[0, :, number], expected, atol=1e-6)
    assert seen > REGIONS / 2


def test_reshaping_moves_an_organ_along_all_axes():
    labels = box((16, 24, 24), (4, 10), (5, 13), (9, 19))
    wanted = places(box((16, 24, 24), (5, 13), (8, 18), (6, 16)))
    place = torch.stack([torch.zeros_like(wanted), wanted], dim=1)
    known = torch.ones(1, dtype=torch.bool)
    moved, marks = reshape(labels.float() * 5, labels, place, known, torch.Generator())
    torch.testing.assert_close(places(marks), wanted, atol=0.08, rtol=0.1)
    assert ((moved > 2.5).long() == marks).float().mean() > 0.97


@pytest.mark.parametrize("name", ["replay", "souvenir", "tkrl"])
def test_methods_that_keep_or_report_something_take_patches(cli: Any, tmp_path: Path, name: str):
    """Samples that are drawn anew each time: buffers, reports and probes are made of some."""
    for site in "AB":
        for n in range(8):
            mask = np.zeros((10, 12, 6), np.uint8)
            mask[3:7, 3:7, 2:4] = 1
            image = RNG.normal(size=mask.shape) + 3 * mask
            nifti(tmp_path / "d" / site / "images" / f"p{n}.nii", image.astype(np.float32))
            nifti(tmp_path / "d" / site / "masks" / f"p{n}.nii", mask)
    own = [o for o in TINY if not o.startswith(("scenario.", "timeline."))]
    probes = ["strategy.probes.steps=2"] if name == "tkrl" else []
    asked = [
        "scenario=folder", f"scenario.root={tmp_path / 'd'}", "scenario.patient='^(.+)$'",
        "scenario.spatial_dims=3", "scenario.labels=[0,1]", "scenario.patch=[4,8,8]",
        "timeline.rounds=1", f"strategy={name}", *probes,
    ]  # fmt: skip
    assert cli(*own, *asked, f"run.dir={tmp_path / 'run'}") == 0
    results = read(tmp_path / "run")
    assert results["status"] == "completed" and results["failures"] == []
    assert (name == "replay") == (results["stored"] != {})
