"""Prepared images on disk: the same as in memory, by content and settings, whatever happens."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from fedcl.data import cached
from fedcl.errors import DataError
from fedcl.settings import parse
from sites.folder import Folder
from tests.images import nifti

RNG = np.random.default_rng(3)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder."""
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return the folder of a site with four volumes, long enough ago to be known by their time."""
    for n in range(4):
        image = RNG.normal(size=(12, 10, 6)).astype(np.float32)
        for kind, array in (("images", image), ("masks", (image > 0.5).astype(np.uint8))):
            file = nifti(tmp_path / "A" / kind / f"p{n}.nii.gz", array)
            os.utime(file, (time.time() - 60, time.time() - 60))
    return tmp_path / "A"


def scenario(**values: Any) -> Folder:
    defaults = {"patient": "^(.+)$", "labels": [0, 1], "spatial_dims": 3, "cache": "disk"}
    return parse(Folder, defaults | values, "scenario")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.safetensors")}


def equal(one: Any, other: Any) -> bool:
    """Return whether cases have the same arrays and facts, read whole and in part."""
    box = (slice(1, 3), slice(2, 9), slice(0, 5))
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a.scans, b.scans, strict=True):
            same = [
                torch.equal(x.content.image(), y.content.image()),
                torch.equal(x.content.image(box), y.content.image(box)),
                torch.equal(x.content.labels(box), y.content.labels(box)),
                torch.equal(x.content.truth(), y.content.truth()),
                torch.equal(x.content.places(), y.content.places()),
                (x.shape, x.own, x.spacing, x.plane) == (y.shape, y.own, y.spacing, y.plane),
                (x.counts, x.kept, x.lowest, x.digest) == (y.counts, y.kept, y.lowest, y.digest),
            ]
            if not all(same):
                return False
    return True


def test_what_is_read_from_disk_is_what_was_in_memory(site: Path, kept: Path):
    memory = scenario(cache="memory").cases("A", site)
    assert not kept.exists()
    cold = scenario().cases("A", site)
    assert len(files(kept)) == 4 and not list(kept.rglob("*.part"))
    warm = scenario().cases("A", site)
    assert equal(memory, cold) and equal(memory, warm)
    assert list(map(str, memory.notes)) == list(map(str, cold.notes)) == list(map(str, warm.notes))


def test_another_content_or_setting_is_another_file(site: Path, kept: Path):
    scenario().cases("A", site)
    before = files(kept)
    scenario(normalise="minmax").cases("A", site)
    scenario(spacing=[2.0, 2.0, 2.0]).cases("A", site)
    scenario(spatial_dims=2).cases("A", site)
    scenario(labels=[[0], [1]]).cases("A", site)
    assert len(files(kept)) == 4 * 4, "labels that mean the same are the same"
    image = RNG.normal(size=(12, 10, 6)).astype(np.float32)
    nifti(site / "images" / "p0.nii.gz", image)
    (case, *_) = scenario().cases("A", site)
    assert len(files(kept)) == 4 * 4 + 1 and before < files(kept)
    fresh = scenario(cache="memory").cases("A", site)[0]
    assert equal([case], [fresh])


@pytest.mark.parametrize("damage", ["gone", "cut", "other", "empty"])
def test_a_damaged_file_is_made_again(
    site: Path, kept: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    """Before a run looks, and under a run that has looked already; that is said once."""
    memory = scenario(cache="memory").cases("A", site)
    held = scenario().cases("A", site)
    for path in kept.glob("*.safetensors"):
        content = {"cut": path.read_bytes()[:-7], "other": b"PK\3\4" * 99, "empty": b""}
        path.unlink()
        if damage != "gone":
            path.write_bytes(content[damage])
    assert equal(held, memory)
    assert caplog.text.count("prepared anew each time") == 1
    assert equal(scenario().cases("A", site), memory)


def test_the_least_recently_used_go_first(site: Path, kept: Path):
    scenario().cases("A", site)
    size = next(kept.glob("*.safetensors")).stat().st_size
    first = files(kept)
    for path in kept.glob("*.safetensors"):
        os.utime(path, (1, 1))
    cases = scenario(normalise="minmax", cache_gb=4.5 * size / 2**30).cases("A", site)
    assert len(files(kept)) == 4 and not files(kept) & first
    held = scenario(normalise="minmax", cache_gb=1.5 * size / 2**30).cases("A", site)
    assert len(files(kept)) == 1
    assert equal(held, cases), "what was removed is made again when it is needed"


def _fill(site: Path) -> None:
    scenario().cases("A", site)


@pytest.mark.slow
def test_two_processes_may_fill_one_folder(site: Path, kept: Path):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_fill, args=(site,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(files(kept)) == 4 and not list(kept.rglob("*.part"))
    assert equal(scenario().cases("A", site), scenario(cache="memory").cases("A", site))


def test_a_folder_that_cannot_be_written_to_is_one_line(site: Path, kept: Path):
    kept.write_text("a file")
    with pytest.raises(DataError, match=r"scenario\.cache: .*FEDCL_CACHE names another folder"):
        scenario().cases("A", site)


def test_a_file_that_may_yet_change_is_looked_at_again(site: Path, kept: Path):
    """Within the resolution of its time a file can change without showing it."""
    scenario().cases("A", site)
    there = len(list((kept / "known").iterdir()))
    assert there == 8
    now = site / "images" / "p0.nii.gz"
    os.utime(now)
    scenario().cases("A", site)
    assert len(list((kept / "known").iterdir())) == there, "nothing is noted of a fresh file"
    assert time.time() - now.stat().st_mtime < cached.FRESH


def test_a_file_whose_time_was_set_back_is_looked_at_again(site: Path, kept: Path):
    mask = site / "masks" / "p0.nii"
    (site / "masks" / "p0.nii.gz").rename(site / "p0.nii.gz")
    nib.save(nib.load(site / "p0.nii.gz"), mask)
    os.utime(mask, (time.time() - 60, time.time() - 60))
    before, known = scenario().cases("A", site), mask.stat()
    content = bytearray(mask.read_bytes())
    content[352:] = reversed(content[352:])
    mask.write_bytes(bytes(content))
    os.utime(mask, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert (mask.stat().st_size, mask.stat().st_mtime_ns) == (known.st_size, known.st_mtime_ns)
    after = scenario().cases("A", site)
    assert after[0].scans[0].digest != before[0].scans[0].digest


def test_too_small_a_folder_and_what_was_left_half_written_are_told_and_removed(
    site: Path, kept: Path
):
    scenario().cases("A", site)
    size = next(kept.glob("*.safetensors")).stat().st_size
    for name, age in (("old", 2 * cached.ABANDONED), ("new", 1.0)):
        (kept / f"{name}.part").write_bytes(b"x")
        os.utime(kept / f"{name}.part", (time.time() - age,) * 2)
    cases = scenario(cache_gb=2.5 * size / 2**30).cases("A", site)
    assert "scenario.cache_gb has no room for, made each time anew: 2" in str(cases.notes[-1])
    assert sorted(path.name for path in kept.glob("*.part")) == ["new.part"]
    assert equal(cases, scenario(cache="memory").cases("A", site))
