"""The documentation site: built without a warning, and opened in a browser."""

import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # the site is built


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*command, str(ROOT / "docs"), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_settings_are_those_of_the_dataclasses(site: Path):
    text = (site / "reference" / "settings.html").read_text()
    for key in ("learner.batch_size", "strategy.weight.akt", "scenario.site_labels", "sites.SITE"):
        assert key in text
    assert "weights sent back" in text, "what a docstring says of a setting"


def test_a_reader_finds_the_way(site: Path, browser: webdriver.Chrome):
    browser.get((site / "index.html").as_uri())
    browser.find_element(By.LINK_TEXT, "tutorial").click()
    assert "fedcl compare" in browser.find_element(By.TAG_NAME, "article").text
    browser.get((site / "methods" / "ted.html").as_uri())
    assert "Zhu" in browser.find_element(By.TAG_NAME, "article").text
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [entry for entry in severe if "file:" in entry["message"]] == []
