"""A hospital runs the code that it has installed, and compares what a run brings along with it."""

import io
import shutil
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fedcl.errors import RunError
from fedcl.hospital.installed import PACKAGES, bundled, different, installed, short
from tests.conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    place = tmp_path / "checkout"
    for top in (*PACKAGES, "conf"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / top, place / top, ignore=leave)
    return place


def test_what_flower_bundles_of_this_checkout_is_what_is_installed():
    brought = bundled(build_fab_from_disk(ROOT))
    assert different(brought, installed()) == []
    assert short(brought) == short(installed())
    assert {
        "fedcl/hospital/message_loop.py",
        "strategies/parts/distillation.py",
        "conf/config.yaml",
    } <= {*brought}


def test_in_an_installed_package_the_configuration_lies_elsewhere_and_is_the_same(checkout: Path):
    (checkout / "conf").rename(checkout / "fedcl" / "conf")
    assert different(installed(checkout), installed()) == []


def test_a_file_changed_added_or_missing_makes_another_version(checkout: Path):
    with (checkout / "strategies" / "lwf.py").open("a") as file:
        file.write("# other\n")
    (checkout / "sites" / "mine.py").write_text("")
    (checkout / "conf" / "config.yaml").unlink()
    files = ["conf/config.yaml", "sites/mine.py", "strategies/lwf.py"]
    assert different(installed(checkout), installed()) == files
    assert short(installed(checkout)) != short(installed())


def test_a_bundle_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch):
    for content in (b"", b"no zip", build_fab_from_disk(ROOT)[:-4000]):
        with pytest.raises(RunError, match="the run's code cannot be read"):
            bundled(content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("fedcl/bomb.py", bytes(2**20))
    monkeypatch.setattr("fedcl.hospital.installed.LARGEST", 2**19)
    with pytest.raises(RunError, match="more than"):
        bundled(buffer.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bundle_with_any_byte_changed_is_read_or_refused(method: int):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as bundle:
        bundle.writestr("fedcl/one.py", "one = 1\n" * 20)
    whole = bundled(buffer.getvalue())
    for place in range(len(buffer.getvalue())):
        content = bytearray(buffer.getvalue())
        content[place] ^= 0xFF
        try:
            found = bundled(bytes(content))
        except RunError:
            continue
        assert found == {} or found == whole, place  # what says where it lies may be ignored
