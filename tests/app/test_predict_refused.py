"""What `fedcl predict` cannot do: one line, nothing written; of a folder, only what is damaged."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import simulate
from tests.conftest import ROOT, TINY, TINY_FIELD
from tests.images import nifti
from tests.predicted import AFFINE, LABELS, copied, hospitals, predict, simulated, volume
from tests.processes import kill, wait_for

PLAIN = ["scenario.spatial_dims=3", "scenario.patch=[4,16,16]"]
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the two hospitals."""
    return hospitals(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return what runs volumes of the hospitals with overrides, once, and says where."""
    folder, count = tmp_path_factory.mktemp("runs"), iter(range(100))

    @cache
    def made(*overrides: str) -> Path:
        return simulated(folder / f"run{next(count)}", root, *LABELS, *PLAIN, *overrides)

    return made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of three volumes."""
    for number in range(3):
        nifti(tmp_path / "images" / f"p{number}.nii", volume("A", number)[0], AFFINE)
    return tmp_path / "images"


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what checks that nothing comes of a command but one line, and returns that."""

    def check(run: Path, images: Path, *more: str) -> str:
        capsys.readouterr()
        assert predict(run, images, tmp_path / "out", *more) == 2
        assert not (tmp_path / "out").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return check


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--site", "X"], "fedcl: --site: there is no 'X'; there are: A, B"),
        (["--stage", "3"], "--stage: "),
        (["--stage", "0"], "--stage: "),
        (["--stage", "-1"], "--stage: "),
        (["--model", "dynunet"], "fedcl: --model: there is no 'dynunet'; there are: unet"),
        (["--pattern", "images"], "fedcl: --pattern: give a path "),
        (["--pattern", "../{case}"], "fedcl: --pattern: give a path "),
        (["--pattern", "{case}.mha"], "no file to read as {case}.mha (there is: 3 .nii)"),
        (["--pattern", "sub/{case}"], "images/sub: No such file or directory"),
    ],
)
def test_what_is_not_there_is_told(run: Run, images: Path, refused, more: list[str], said: str):
    line = refused(run(), images, *more)
    assert said in line and line.startswith("fedcl: ") and "site :" not in line


def test_images_must_be_a_folder_of_some(run: Run, images: Path, tmp_path: Path, refused):
    (tmp_path / "empty").mkdir()
    assert "--images: " in refused(run(), tmp_path / "nowhere")
    assert "--images: " in refused(run(), images / "p0.nii")
    assert f"folder {tmp_path / 'empty'}: no file" in refused(run(), tmp_path / "empty")


def test_two_images_of_one_name_are_refused(run: Run, images: Path, refused):
    """Their masks would lie in one place."""
    shutil.copy(images / "p1.nii", images / "p1.NII")
    assert "of case p1 like p1.NII; keep one" in refused(run(), images)


def test_nothing_is_written_over(run: Run, images: Path, tmp_path: Path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (images, file, file / "below"):
        before = sorted(path.name for path in images.iterdir())
        assert predict(run(), images, out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("fedcl: --out: ")
        assert sorted(path.name for path in images.iterdir()) == before
    assert file.read_text() == "mine"
    (tmp_path / "new").mkdir()
    assert predict(run(), images, tmp_path / "new") == 0, "a folder that is empty will do"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_without_cuda_it_is_told(run: Run, images: Path, tmp_path: Path, capsys):
    assert predict(run(), images, tmp_path / "out", "--device", "cuda") != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "no CUDA device is there" in line and not (tmp_path / "out").exists()


# --- the run ---------------------------------------------------------------------------------


def test_a_folder_without_a_run_or_without_results(run: Run, images: Path, tmp_path: Path, refused):
    assert "holds no run" in refused(tmp_path, images)
    begun = copied([run() / "config.yaml"], tmp_path / "begun")
    assert "has no results.json: the run has not ended" in refused(begun, images)
    shutil.copy(run() / "results.json", begun)
    assert "has no weights" in refused(begun, images), "they have been cleared away"


def test_fields_have_an_export_of_their_own(images: Path, tmp_path: Path, refused):
    field = [*TINY_FIELD, "timeline.rounds=1", "learner.steps=2", "strategy=finetune"]
    assert simulate.main([*field, f"run.dir={tmp_path / 'run'}"]) == 0
    said = refused(tmp_path / "run", images)
    assert "holds a field of coordinates, not images; fedcl export writes" in said


def test_imaginary_hospitals_are_no_use(images: Path, tmp_path: Path, refused):
    phantom = [*TINY, "timeline.rounds=1", "learner.steps=2", "strategy=finetune"]
    assert simulate.main([*phantom, f"run.dir={tmp_path / 'run'}"]) == 0
    assert "reads no image files of its own" in refused(tmp_path / "run", images)


@pytest.mark.parametrize(
    "overrides", [["strategy=individual"], ["strategy=fedbn", "model.norm=batch"]]
)
def test_weights_that_stay_at_hospitals_are_missed(
    run: Run, images: Path, refused, overrides: list[str]
):
    """In the run's folder lie those that these arrays began with: they have seen no image."""
    for site in ([], ["--site", "A"]):
        line = refused(run(*overrides), images, *site)
        assert line.startswith("fedcl: MODEL: ") and "hospitals" in line


# --- damaged images --------------------------------------------------------------------------


def test_only_what_is_damaged_is_missing(run: Run, images: Path, tmp_path: Path, capsys):
    whole = copied(images.iterdir(), tmp_path / "whole")
    assert predict(run(), whole, tmp_path / "all") == 0
    packed = nifti(tmp_path / "packed.nii.gz", volume("A", 0)[0], AFFINE).read_bytes()
    (images / "cut.nii.gz").write_bytes(packed[: len(packed) // 2])
    (images / "empty.nii").write_bytes(b"")
    (images / "junk.mha").write_bytes(b"junk" * 50)
    (images / "line\nbreak.png").write_bytes(b"junk")
    nifti(images / "infinite.nii", np.full((8, 8, 4), np.inf, np.float32), AFFINE)
    nifti(images / "two.nii", np.zeros((8, 8, 4, 2), np.int16), AFFINE)
    (images / "notes.txt").write_text("no image")
    capsys.readouterr()
    assert predict(run(), images, tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "3 masks in" in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith("fedcl: 6 of 9 images could not be used; ") and "failed.txt" in line
    failed = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    reasons = {
        "cut": "cut.nii.gz: cannot be read: ",
        "empty": "empty.nii: cannot be read: ",
        "infinite": "infinite.nii: pixel values that are not finite",
        "junk": "junk.mha: cannot be read: ",
        "line\\x0abreak": "cannot be read: ",
        "two": "two.nii: 2 channels",
    }
    for (name, reason), told in zip(sorted(reasons.items()), sorted(failed), strict=True):
        assert told.startswith(name) and reason in told and "site" not in told
    names = {"p0.nii", "p1.nii", "p2.nii", "predictions.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "failed.txt"}
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def test_of_nothing_that_can_be_read_there_is_a_list(
    run: Run, images: Path, tmp_path: Path, capsys
):
    for file in images.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    capsys.readouterr()
    assert predict(run(), images, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedcl: 3 of 3 images could not be used")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["failed.txt"]


def test_channels_are_those_of_the_other_cases(root: Path, tmp_path: Path):
    """Of a case whose files are numbered otherwise it is not known which channel is which."""
    data = tmp_path / "data"
    for file in root.rglob("*.nii.gz"):
        place = data / file.relative_to(root).parent
        names = [file.name]
        if place.name == "images":
            names = [file.name.replace(".", f"_{channel}.", 1) for channel in (0, 1)]
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(file, place / name)
    two = ["scenario.channels=2", "scenario.image='images/{case}_{channel}'"]
    folder = simulated(tmp_path / "run", data, *LABELS, *PLAIN, *two)
    (data / "A" / "images" / "A3_1.nii.gz").rename(data / "A" / "images" / "A3_2.nii.gz")
    (data / "A" / "images" / "A4_1.nii.gz").unlink()
    given = ["--pattern", "{case}_{channel}"]
    assert predict(folder, data / "A" / "images", tmp_path / "out", *given) == 1
    failed = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    assert [line[:2] for line in failed] == ["A3", "A4"]
    masks = {path.name[:2] for path in (tmp_path / "out").glob("*.nii.gz")}
    assert masks == {"A0", "A1", "A2", "A5"}


# --- interrupted -----------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no larger file, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("extension", ["nii", "nii.gz", "mha", "nrrd"])
def test_a_mask_that_cannot_be_written_is_not_written_in_part(
    run: Run, tmp_path: Path, extension: str
):
    from tests.volumes import sitk

    rng, images = np.random.default_rng(0), tmp_path / "images"
    images.mkdir()
    for name, shape in (("a", (6, 16, 16)), ("large", (40, 60, 60)), ("z", (6, 16, 16))):
        noise = sitk.GetImageFromArray(rng.integers(0, 200, shape).astype(np.int16))
        sitk.WriteImage(noise, str(images / f"{name}.{extension}"))
    folder = run()
    with largest_file(3000):
        assert predict(folder, images, tmp_path / "out") == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"a.{extension}", f"z.{extension}", "predictions.csv", "failed.txt"}
    (told,) = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    assert told.startswith("large: ")


def test_on_a_full_disk_it_ends_in_one_line(run: Run, images: Path, tmp_path: Path, capsys):
    folder = run()
    capsys.readouterr()
    with largest_file(0):
        assert predict(folder, images, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedcl: ") and "File too large" in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_killed_in_between_there_are_whole_masks(run: Run, tmp_path: Path):
    """Those in progress lie under a name that begins with a dot."""
    rng, images, out = np.random.default_rng(0), tmp_path / "images", tmp_path / "out"
    for number in range(60):
        nifti(images / f"p{number}.nii", rng.normal(100, 60, (40, 40, 20)).astype(np.float32))
    command = [sys.executable, "-m", "fedcl", "predict", run(), "--images", images, "--out", out]
    process = subprocess.Popen(
        [*map(str, command), "--device", "cpu"], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

    def masks() -> list[Path]:
        return [path for path in out.glob("*") if not path.name.startswith(".")]

    wait_for(lambda: len(masks()) >= 3, process)
    kill(process)
    assert 3 <= len(masks()) < 60
    for file in masks():
        assert file.stat().st_size == 352 + 40 * 40 * 20
        assert np.asarray(nib.load(file).dataobj).shape == (40, 40, 20)
