"""Federations of real processes, which end with the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.federation import Federation


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[[list[str]], Federation]]:
    opened: list[Federation] = []

    def make(sites: list[str]) -> Federation:
        opened.append(Federation(tmp_path / "federation", sites))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
