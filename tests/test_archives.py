"""Every section of the results is written anew from the archive beside it, letter by letter."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks.running import archive, check_whole
from tests.conftest import ROOT
from tests.predicted import LABELS, hospitals, simulated

PARTS = ("benchmarks", "conf", "docs", "fedcl", "sites", "strategies", "README.md")
COMMANDS = {
    "comparison": ["--report"],
    "contrastive": ["--report"],
    "drift": ["--report"],
    "fields": ["--report"],
    "hippocampus": ["--table", "outputs/hippocampus", "--write"],
}
DATA = {"fields": ROOT.parent / "shared" / "data" / "sunnybrook"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a copy of what the sections are written by."""
    copy = tmp_path / "main"
    for part in PARTS:
        target = copy / part
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target, ignore=shutil.ignore_patterns("_build"))
        else:
            shutil.copy(ROOT / part, target)
    (tmp_path / "shared").symlink_to(ROOT.parent / "shared")
    (copy / "outputs").mkdir()
    return copy


def written(repository: Path, name: str) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", f"benchmarks.{name}", *COMMANDS[name]]
    return subprocess.run(asked, cwd=repository, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("comparison", marks=pytest.mark.exhaustive),  # most of a minute
        *(name for name in COMMANDS if name != "comparison"),
    ],
)
def test_the_archive_gives_the_section_as_it_stands(repository: Path, name: str):
    if name in DATA and not DATA[name].is_dir():
        pytest.skip(f"{DATA[name]} is missing")
    with tarfile.open(ROOT / "benchmarks" / f"{name}.tar.xz") as kept:
        kept.extractall(repository / "outputs", filter="data")
    told = written(repository, name)
    assert told.returncode == 0, told.stderr
    methods = [one.relative_to(ROOT) for one in (ROOT / "docs" / "methods").glob("*.md")]
    for page in (Path("benchmarks/RESULTS.md"), Path("README.md"), *methods):
        assert (repository / page).read_text() == (ROOT / page).read_text(), page
    for one in (ROOT / "benchmarks").glob("*.tar.xz"):
        assert (repository / "benchmarks" / one.name).read_bytes() == one.read_bytes()


@pytest.mark.parametrize("name", COMMANDS)
def test_no_section_is_written_from_fewer_runs_than_its_archive_has(repository: Path, name: str):
    told = written(repository, name)
    assert told.returncode != 0 and f"unpack benchmarks/{name}.tar.xz" in told.stderr
    page = "benchmarks/RESULTS.md"
    assert (repository / page).read_text() == (ROOT / page).read_text()


def test_an_archive_keeps_the_scores_asked_for_and_is_not_replaced_by_less(tmp_path: Path):
    root, out = hospitals(tmp_path / "data"), tmp_path / "out"
    for number in range(2):
        simulated(out / "method" / str(number), root, *LABELS, f"seed={number}")
    file = tmp_path / "kept.tar.xz"
    archive(out, file, scores=["iou"])
    with tarfile.open(file) as kept:
        kept.extractall(tmp_path, filter="data")
    check_whole(tmp_path / "kept", file)
    found = sorted(one.relative_to(tmp_path) for one in (tmp_path / "kept").rglob("results.json"))
    assert [str(one) for one in found] == [f"kept/method/{n}/results.json" for n in range(2)]
    assert '"iou"' in (tmp_path / found[0]).read_text()
    assert '"hd95"' not in (tmp_path / found[0]).read_text().partition('"secondary"')[2]
    shutil.rmtree(out / "method" / "1")
    with pytest.raises(RuntimeError, match=r"lacks 1 of the 2 runs .* such as kept/method/1: "):
        archive(out, file)
    file.unlink()
    shutil.rmtree(out / "method" / "0")
    with pytest.raises(RuntimeError, match="has no complete run"):
        archive(out, file)
