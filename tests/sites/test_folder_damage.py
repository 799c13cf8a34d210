"""Damaged files in the folder layout are named, with what is wrong."""

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.layouts import IMAGE, MASK, RNG, pair, refusal, write


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e300])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    image = IMAGE.astype(np.float64)
    image[3, 4] = value
    write(tmp_path / "images" / "p1-IM-1.nii.gz", image)
    write(tmp_path / "masks" / "p1-IM-1.png", MASK)
    refusal(tmp_path, "images/p1-IM-1.nii.gz", "finite", resize=8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize(
    ("name", "options", "tail"),
    [
        ("a.png", {}, 4),  # checksum of nothing
        ("a.tif", {}, 0),
        ("a.tif", {"compression": "tiff_lzw"}, 4),  # address of the next picture
        ("a.jpg", {"quality": 100}, 2),  # end mark
        ("a.jpg", {"progressive": True}, 2),
        ("a.ppm", {}, 0),
        ("a.nii", {}, 0),
        ("a.nii.gz", {}, 0),
    ],
)
def test_truncated_files(
    tmp_path: Path, kind: str, name: str, options: dict[str, Any], tail: int
) -> None:
    """Cut a file anywhere before its `tail`, the bytes that add nothing to the values."""
    site = tmp_path / "A"
    for part, picture in (("images", IMAGE), ("masks", MASK)):
        write(site / part / (name if part == kind else "a.png"), picture, **options)
    whole = (site / kind / name).read_bytes()
    end = len(whole) - tail
    for size in (0, 1, 10, end // 3, end // 2, end - 40, end - 9, end - 1):
        (site / kind / name).write_bytes(whole[:size])
        refusal(site, f"{kind}/{name}", "cannot be read", patient="a")


def test_damaged_files(tmp_path: Path) -> None:
    pair(tmp_path, np.tile(IMAGE, (8, 8)), np.tile(MASK, (8, 8)))
    file = tmp_path / "images" / "p1-IM-1.png"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    file.write_bytes(damaged)
    refusal(tmp_path, "images/p1-IM-1.png", "cannot be read")
    file.write_text("not a picture")
    refusal(tmp_path, "images/p1-IM-1.png", "cannot be read")
    file.unlink()
    file.mkdir()
    refusal(tmp_path, "no file to read as images/{case}", "there is: folders p1-IM-1.png")


def test_compressed_volume_without_its_checksum(tmp_path: Path) -> None:
    volume = RNG.integers(0, 999, (64, 64, 30)).astype(np.int16)  # larger than read buffers
    pair(tmp_path, volume, np.zeros_like(volume), name="p1-IM-1.nii.gz")
    file = tmp_path / "images" / "p1-IM-1.nii.gz"
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-9], whole[:-8] + bytes(8)):
        file.write_bytes(damaged)
        refusal(tmp_path, "images/p1-IM-1.nii.gz", "cannot be read")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "PCX")
    pages = io.BytesIO()
    page = Image.fromarray(IMAGE)
    page.save(pages, "TIFF", save_all=True, append_images=[page])
    flat = bytearray(nib.Nifti1Image(IMAGE, np.eye(4)).to_bytes())
    flat[280:296] = bytes(16)  # the first row of the affine matrix
    colours = IMAGE.repeat(3).view([("R", "u1"), ("G", "u1"), ("B", "u1")]).reshape(16, 16)
    for name, content, reason in (
        ("a.png", buffer.getvalue(), "none of PNG"),
        ("a.tif", pages.getvalue(), "several pictures"),
        ("a.nii", nib.Nifti1Image(np.zeros(4), np.eye(4)).to_bytes(), "(4,)"),
        ("a.nii", nib.Nifti1Image(colours, np.eye(4)).to_bytes(), "numbers"),
        ("a.nii", bytes(flat), "spacing"),
        ("a.nii.gz", gzip.compress(b"x" * 500), "cannot be read"),
    ):
        site = tmp_path / f"{name}-{reason[:3].strip('(')}"
        write(site / "images" / name, content)
        write(site / "masks" / "a.png", MASK)
        refusal(site, f"images/{name}", "cannot be read", reason, patient="a")


def test_a_fourth_axis_is_channels_of_an_image_and_none_of_a_mask(tmp_path: Path) -> None:
    frames = nib.Nifti1Image(np.zeros((16, 16, 1, 2)), np.eye(4)).to_bytes()
    write(tmp_path / "images" / "a.nii", frames)
    write(tmp_path / "masks" / "a.png", MASK)
    refusal(tmp_path, "images/a.nii", "2 channels, scenario.channels asks for 1", patient="a")
    write(tmp_path / "images" / "a.nii", IMAGE)
    (tmp_path / "masks" / "a.png").unlink()
    write(tmp_path / "masks" / "a.nii", frames)
    refusal(tmp_path, "masks/a.nii", "cannot be read", "(16, 16, 1, 2)", patient="a")
