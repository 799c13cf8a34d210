"""What is found of plug-ins that other distributions declare."""

import time
from pathlib import Path

import pytest

from fedcl.errors import ConfigError
from fedcl.registry import STRATEGY
from tests.plugins import install, uninstall

CODE = """
from fedcl.learning.strategy import Strategy


class Own(Strategy):
    pass
"""


def test_what_is_installed_or_removed_under_a_living_process_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    assert "late" not in STRATEGY.available()
    time.sleep(0.02)  # a file system's clock ticks every few milliseconds
    metadata = install(tmp_path, "strategy", "late", CODE)
    assert "late" in STRATEGY.available() and STRATEGY.find("late").__name__ == "Own"
    time.sleep(0.02)
    uninstall(metadata)
    assert "late" not in STRATEGY.available()
    with pytest.raises(ConfigError, match="there is no 'late'"):
        STRATEGY.find("late")


def test_a_relative_entry_of_the_path_follows_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install(tmp_path, "strategy", "here", CODE)
    monkeypatch.syspath_prepend("")
    assert "here" not in STRATEGY.available()
    monkeypatch.chdir(tmp_path)
    assert "here" in STRATEGY.available()
