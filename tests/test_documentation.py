"""The documentation: what it copies is up to date; the site is built and opened in a browser."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.conftest import ROOT

RENEW = "python docs/settings_page.py"


def test_the_page_of_settings_is_up_to_date():
    command = [sys.executable, "-c", "from settings_page import page; print(page(), end='')"]
    # A process of its own: plug-ins that other tests have found are none of fedcl's.
    done = subprocess.run(command, cwd=ROOT / "docs", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert page == done.stdout, f"docs/reference/settings.md is out of date: run {RENEW}"
    elsewhere = re.findall(r"see `[^`]+`", page)
    assert not elsewhere, "a reader of the page cannot look up what is only in the code"


@pytest.mark.parametrize("name", ["rings", "by_patient"])
def test_the_page_on_layouts_has_the_files_of_the_examples(name: str):
    page = (ROOT / "docs" / "howto" / "own_layout.md").read_text()
    file = ROOT / "examples" / "plugins" / "sites" / f"{name}.py"
    assert f"```python\n{file.read_text()}```" in page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*command, str(ROOT / "docs"), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_settings_are_those_of_the_dataclasses(site: Path):
    text = (site / "reference" / "settings.html").read_text()
    for key in ("learner.batch_size", "strategy.weight.akt", "scenario.site_labels", "sites.SITE"):
        assert key in text
    assert "passes over the site" in text, "what a docstring says of a setting"


@pytest.mark.slow
def test_a_reader_finds_the_way(site: Path, browser: webdriver.Chrome):
    browser.get((site / "index.html").as_uri())
    browser.find_element(By.LINK_TEXT, "tutorial").click()
    assert "fedcl compare" in browser.find_element(By.TAG_NAME, "article").text
    browser.get((site / "methods" / "ted.html").as_uri())
    assert "Zhu" in browser.find_element(By.TAG_NAME, "article").text
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [entry for entry in severe if "file:" in entry["message"]] == []
