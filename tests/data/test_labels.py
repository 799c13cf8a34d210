"""Mask values as classes, and the way to the network's grid and back."""

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from fedcl.app.cli import main
from fedcl.data.cases import Case, vanished
from fedcl.data.labels import IGNORED, Labels
from fedcl.data.resampling import reduced, restored, scaled
from fedcl.data.scans import Scan
from fedcl.errors import ConfigError
from tests.conftest import TINY, read
from tests.images import BINARY, RNG, folder, nifti, picture, site

# --- labels ----------------------------------------------------------------------------------


def test_several_values_may_mean_one_class_and_some_none():
    labels = Labels.of([0, [1, 2], 3], [255], "scenario.labels")
    mask = np.array([[0, 1, 2, 3, 255]], np.uint8)
    assert labels.classes == 3 and labels.encode(mask).tolist() == [[0, 1, 1, 2, IGNORED]]
    assert [labels.written(number) for number in range(3)] == ["0", "1 or 2", "3"]
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
        "scenario.resize=16", "scenario.site_labels.B=[0,7]", "strategy=finetune",
        f"run.dir={run}",
    ) == 0  # fmt: skip
    assert read(run)["notes"] == {}
    with pytest.raises(ConfigError, match=r"scenario\.site_labels\.B: 2 classes are needed"):
        folder(site_labels={"B": [0, 1, 2]})


def test_a_label_that_no_mask_has_is_told(tmp_path: Path):
    site(tmp_path)
    for labels, said in (([0, 255, 9], "9"), ([0, [7, 9], 255], "7 or 9"), ([0, [255, 9]], "")):
        notes = folder(labels=labels).load("A", tmp_path, 0).notes
        assert [str(note) for note in notes] == [f"no mask has the label {said}"] * bool(said)


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


# --- the network's grid and the image's own --------------------------------------------------


def test_masks_are_reduced_by_area():
    mask = np.zeros((1, 12, 12), np.uint8)
    mask[0, :3, :2] = 1  # 6 of the 9 pixels of a block of 3 x 3
    mask[0, 6:8, 6:8] = 1  # 4 of 9
    assert reduced(mask, (1, 4, 4))[0].nonzero().tolist() == [[0, 0]]
    even = np.zeros((1, 4, 4), np.uint8)
    even[0, :, ::2] = 1  # half of every block: a structure stays
    assert reduced(even, (1, 2, 2)).all()
    three = np.zeros((1, 6, 6), np.uint8)
    three[0, :, :3] = 2
    three[0, 0, 0] = IGNORED
    assert reduced(three, (1, 2, 2))[0].tolist() == [[2, 0], [2, 0]]


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
    found = reduced(mask[None], (1, *size))[0].numpy()
    assert np.array_equal(found[clear], share[clear] > 0.5)


def test_images_are_reduced_to_the_mean_of_what_a_pixel_covers():
    image = RNG.normal(size=(2, 12, 8)).astype(np.float32)
    means = image.reshape(2, 4, 3, 4, 2).mean((2, 4))
    np.testing.assert_allclose(scaled(image[None], (2, 4, 4))[0].numpy(), means, atol=1e-6)
    assert np.array_equal(scaled(image[None], (2, 12, 8))[0].numpy(), image)
    ramp = np.arange(8.0, dtype=np.float32)[None, None].repeat(4, 1)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(ramp)[None], (4, 20), mode="bilinear")
    np.testing.assert_allclose(scaled(ramp[None], (1, 4, 20)), wanted.numpy(), atol=1e-6)
    spot = np.zeros((1, 768, 768), np.float32)
    spot[0, 7:10, 7:10] = 144
    assert scaled(spot[None], (1, 64, 64))[0, 0, 0, 0] == pytest.approx(9), (
        "nothing small is passed over"
    )


def test_a_perfect_answer_is_perfect_on_the_own_grid():
    label = torch.zeros(2, 24, 20, dtype=torch.long)
    label[:, 6:18, 4:16] = 1
    answers = torch.nn.functional.one_hot(label, 2).movedim(-1, 0).float()
    assert torch.equal(restored(answers, (2, 24, 20)).max(0).indices, label)
    small = torch.nn.functional.avg_pool2d(answers, 4)
    found = restored(small, (2, 24, 20)).max(0).indices
    assert torch.equal(found[:, 8:16, 6:14], label[:, 8:16, 6:14])


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
    got = scenario.task.score([answers.movedim(1, 0)], case, ("dice", "hd95"))
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
    common += ["scenario.resize=16", "model.channels=[4,8]"]
    assert main(["inspect", *common]) == 0
    out = capsys.readouterr().out
    lost = "class 1 is lost by resampling in cases that have it: p0, p1, p2, ... (4)"
    assert f"site A: {lost}" in out and "<0.1%" in out
    own = [o for o in TINY if not o.startswith(("scenario.", "model."))]
    run = tmp_path / "run"
    assert cli(*own, *common, "strategy=finetune", f"run.dir={run}", "learner.steps=30") == 0
    results = read(run)
    assert results["notes"] == {"A": [lost], "B": [lost]}
    assert lost in (run / "log.txt").read_text()
    assert results["metrics"]["avg"] < 0.1
    assert not vanished(folder(resize=256, labels=[0, 255]).cases("A", tmp_path / "d" / "A"), 2)


def test_pictures_of_a_patient_are_scored_one_by_one():
    """Two photographs, predictions swapped: far apart in each, close in a stack of both."""
    left, right = torch.zeros(32, 32, dtype=torch.uint8), torch.zeros(32, 32, dtype=torch.uint8)
    left[14:18, 2:4], right[14:18, 26:28] = 1, 1
    labels = torch.stack([left, right])
    swapped = torch.nn.functional.one_hot(labels.flip(0).long(), 2).movedim(-1, 0).float()
    task = folder().task
    scans = [Scan.of(torch.zeros(1, 1, 32, 32), labels[n : n + 1]) for n in (0, 1)]
    pictures = Case("p", tuple(scans))
    volume = Case.of("p", torch.zeros(1, 2, 32, 32), labels)
    assert task.score(swapped.split(1, 1), pictures, ("hd95",))["hd95"] == pytest.approx(24.0)
    assert task.score([swapped], volume, ("hd95",))["hd95"] == pytest.approx(1.0)
    perfect = torch.nn.functional.one_hot(labels.long(), 2).movedim(-1, 0).float()
    assert task.score(perfect.split(1, 1), pictures, ("dice", "iou", "hd95")) == {
        "dice": 1,
        "iou": 1,
        "hd95": 0,
    }
