"""The pictures and the page that `fedcl predict` leaves, and images that fail in odd ways."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fedcl.data.alone import Alone
from fedcl.release.trained import Trained
from fedcl.reporting.gallery import Answered, gallery
from tests.conftest import ROOT
from tests.images import nifti, picture
from tests.predicted import AFFINE, LABELS, copied, hospitals, shown, simulated, volume
from tests.processes import kill, wait_for

EVIL = "<img src=x onerror=document.title='caught'>#&?%20'\""
"""What a case may be called."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the two hospitals."""
    return hospitals(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on their volumes."""
    given = [*LABELS, "scenario.spatial_dims=3", "scenario.patch=[4,16,16]"]
    return simulated(tmp_path_factory.mktemp("run") / "run", root, *given)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of four volumes, one of an odd name."""
    for number, name in enumerate(("p0", "p1", "p2", EVIL)):
        nifti(tmp_path / "images" / f"{name}.nii", volume("A", number)[0], AFFINE)
    return tmp_path / "images"


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


# --- what comes out --------------------------------------------------------------------------


def test_beside_every_mask_lies_a_picture_and_a_page_refers_to_them(
    run: Path, images: Path, tmp_path: Path, capsys
):
    assert shown(run, images, tmp_path / "out") == 0
    names = ["p0", "p1", "p2", EVIL]
    wanted = {f"{name}.nii" for name in names} | {f"overlays/{name}.png" for name in names}
    assert files(tmp_path / "out") == wanted | {"predictions.csv", "index.html"}
    assert f"look through them: {tmp_path / 'out' / 'index.html'}" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "overlays" / "p0.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    blue = np.abs(pixels - (0x00, 0x72, 0xB2)).sum(-1) < 30
    orange = np.abs(pixels - (0xE6, 0x9F, 0x00)).sum(-1) < 30
    assert blue.sum() > 50 and orange.sum() > 50, "outlines of both classes"
    page = (tmp_path / "out" / "index.html").read_text()
    assert EVIL not in page and "<img src=x" not in page
    assert "http:" not in page and "https:" not in page and "//" not in page.replace("// ", "")


def test_without_overlays_nothing_shows_a_patient(run: Path, images: Path, tmp_path: Path):
    assert shown(run, images, tmp_path / "out", "--no-overlays") == 0
    assert {Path(name).suffix for name in files(tmp_path / "out")} == {".nii", ".csv"}


def test_the_masks_are_the_same_with_and_without(run: Path, images: Path, tmp_path: Path):
    assert shown(run, images, tmp_path / "with") == 0
    assert shown(run, images, tmp_path / "without", "--no-overlays") == 0
    for name in files(tmp_path / "without"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def test_photographs_are_shown_in_their_colours(tmp_path: Path):
    rng = np.random.default_rng(0)
    for site in "AB":
        for number in range(4):
            image = rng.integers(0, 90, (18, 26, 3), dtype=np.uint8)
            image[3:9, 4:12] = (250, 0, 0)
            mask = np.zeros((18, 26), np.uint8)
            mask[3:9, 4:12] = 255
            picture(tmp_path / "data" / site / "images" / f"{site}{number}.png", image)
            picture(tmp_path / "data" / site / "masks" / f"{site}{number}.png", mask)
    folder = simulated(tmp_path / "run", tmp_path / "data", "scenario.channels=3")
    images = copied((tmp_path / "data" / "A" / "images").iterdir(), tmp_path / "images")
    assert shown(folder, images, tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "overlays" / "A0.png") as drawn:
        red, green, blue = np.moveaxis(np.asarray(drawn.convert("RGB")).astype(int), -1, 0)
        assert drawn.size[0] > drawn.size[1], "wider than high, as the photograph"
    share = ((red > 200) & (green < 60) & (blue < 60)).mean()
    assert 0.04 < share < 0.2, "a block of 48 of 468 pixels, less what a frame takes"


def test_a_thousand_cases_make_a_small_page():
    rows = [{"label": str(n), "voxels": "12345", "ml": "1.234", "mean": "56.7"} for n in range(4)]
    cases = [Answered(f"case_{n}", f"case_{n}.nii.gz", rows, ["a note"]) for n in range(1000)]
    assert len(gallery("masks", [], cases, {})) < 2_000_000


# --- images that fail ------------------------------------------------------------------------


def test_exactly_the_damaged_ones_are_listed_on_the_page_as_in_the_file(
    run: Path, images: Path, tmp_path: Path
):
    (images / "cut.nii").write_bytes((images / "p0.nii").read_bytes()[:900])
    (images / "empty.nii").write_bytes(b"")
    (images / "<b>junk.png").write_bytes(b"junk")
    assert shown(run, images, tmp_path / "out") == 1
    names = {"p0", "p1", "p2", EVIL}
    assert {path.stem for path in (tmp_path / "out" / "overlays").iterdir()} == names
    assert {path.stem for path in (tmp_path / "out").glob("*.nii")} == names
    failed = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    assert sorted(line.split(":")[0] for line in failed) == ["<b>junk", "cut", "empty"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "3 images could not be used" in page and "&lt;b&gt;junk" in page
    assert page.count("<article") == 4


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what has answers to some images fail."""
    answer = Trained.answer

    def fail(error: Exception, *names: str) -> None:
        def other(self: Trained, alone: Alone, device: torch.device) -> np.ndarray:
            if not names or alone.case.name in names:
                raise error
            return answer(self, alone, device)

        monkeypatch.setattr(Trained, "answer", other)

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "too large for the memory there is"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"),
            "too large for the memory there is",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
            "too large for the memory of the GPU; --device cpu may have more",
        ),
        (
            RuntimeError("Given groups=1\nmore"),
            "RuntimeError: Given groups=1 (test_predict_page.py, line ",
        ),
    ],
)
def test_an_image_that_cannot_be_answered_costs_itself_alone(
    run: Path, images: Path, tmp_path: Path, capsys, failing, error: Exception, said: str
):
    failing(error, "p1")
    capsys.readouterr()
    assert shown(run, images, tmp_path / "out") == 1
    (told,) = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    assert told.startswith(f"p1: {said}")
    assert {path.stem for path in (tmp_path / "out").glob("*.nii")} == {"p0", "p2", EVIL}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedcl: 1 of 4 images could not be used; ") and said in line


def test_what_fails_for_all_is_said_to_be_no_images_fault(
    run: Path, images: Path, tmp_path: Path, capsys, failing
):
    failing(torch.OutOfMemoryError("CUDA out of memory"))
    capsys.readouterr()
    assert shown(run, images, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "4 of 4 images could not be used" in line
    assert "all for one reason, which is hardly the images': too large for the memory of" in line
    assert "--device cpu" in line
    assert files(tmp_path / "out") == {"failed.txt", "index.html"}


def test_a_header_that_claims_a_monstrous_image_costs_itself_alone(
    run: Path, images: Path, tmp_path: Path
):
    whole = bytearray((images / "p0.nii").read_bytes())
    whole[40:56] = np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], "<i2").tobytes()
    (images / "monster.nii").write_bytes(whole)
    assert shown(run, images, tmp_path / "out") == 1
    (told,) = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    assert told.startswith("monster: ")
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 4


@pytest.mark.slow
def test_killed_in_between_there_are_whole_pictures_and_masks(run: Path, tmp_path: Path):
    rng, images, out = np.random.default_rng(0), tmp_path / "images", tmp_path / "out"
    for number in range(40):
        nifti(images / f"p{number}.nii", rng.normal(100, 60, (30, 30, 12)).astype(np.float32))
    command = [sys.executable, "-m", "fedcl", "predict", run, "--images", images, "--out", out]
    process = subprocess.Popen(
        [*map(str, command), "--device", "cpu"], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: len(list(out.glob("p*.nii"))) >= 3, process)
    kill(process)
    masks, pictures = list(out.glob("p*.nii")), list(out.glob("overlays/*.png"))
    assert 3 <= len(masks) < 40 and len(masks) <= len(pictures) <= len(masks) + 1
    for file in pictures:
        with Image.open(file) as drawn:
            drawn.load()
    assert not (out / "index.html").exists()


# --- in a browser ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_in_a_browser(
    run: Path, images: Path, tmp_path: Path, browser: webdriver.Chrome, width: int
):
    (images / "<b>empty.nii").write_bytes(b"")
    shutil.copy(images / "p0.nii", images / "q.nii")
    assert shown(run, images, tmp_path / "out") == 1
    browser.get_log("browser")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get((tmp_path / "out" / "index.html").as_uri())

    def case() -> str:
        """Return the one case that is shown; its picture must have been loaded."""
        (article,) = (a for a in browser.find_elements(By.TAG_NAME, "article") if a.is_displayed())
        loaded = "return arguments[0].querySelector('img').decode().then(() => true, () => false)"
        assert browser.execute_script(loaded, article), "its picture is there"
        heading: str = article.find_element(By.TAG_NAME, "h2").text
        return heading

    def press(key: str) -> str:
        browser.find_element(By.TAG_NAME, "body").send_keys(key)
        return case()

    def place() -> str:
        return str(browser.find_element(By.ID, "place").text)

    assert case() == EVIL and place() == "1 of 5"
    assert [press(Keys.ARROW_RIGHT), press(Keys.ARROW_RIGHT)] == ["p0", "p1"]
    assert place() == "3 of 5"
    assert press(Keys.END) == "q" and press(Keys.ARROW_RIGHT) == "q", "the last one stays"
    assert press(Keys.HOME) == EVIL and press(Keys.ARROW_LEFT) == EVIL
    browser.find_element(By.ID, "after").click()
    assert case() == "p0"
    assert browser.current_url.endswith("#case-2"), "a case has an address"
    cells = browser.find_elements(By.CSS_SELECTOR, "#case-2 tbody tr:first-child td")
    with (tmp_path / "out" / "predictions.csv").open() as table:
        row = next(line for line in table if line.startswith("p0,7,")).strip().split(",")
    assert [cell.text for cell in cells] == row[1:]
    failed = browser.find_element(By.ID, "failed").text
    assert "1 image could" in failed and "<b>empty: " in failed
    assert "caught" not in browser.title, "a name is no code"
    mask = browser.find_element(By.CSS_SELECTOR, "#case-1 a[href$='.nii']").get_attribute("href")
    assert mask == (tmp_path / "out" / f"{EVIL}.nii").as_uri().replace("'", "%27")
    overflow = browser.execute_script("return document.documentElement.scrollWidth")
    assert overflow <= width, "the page itself never scrolls sideways"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    asked = "return JSON.stringify(performance.getEntriesByType('resource').map((e) => e.name))"
    assert all(name.startswith("file:") for name in json.loads(browser.execute_script(asked)))
