"""Files that say which cases are for training, which for validation and which for testing."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedcl.data.files import composed, text_of
from fedcl.errors import ConfigError

PARTS = ("train", "val", "test")
KEY = "scenario.splits"


def read(file: Path, fold: int = 0) -> dict[str, list[str]]:
    """Return the cases of every part.

    Args:
        file: JSON, {"train": [...], "val": [...], "test": [...]} or a list of such folds; nnU-Net's
            splits_final.json is such a list, and the "val" of a fold, on which it reports, is
            for testing here. Or CSV with two columns, case and part.
        fold: which of several.

    Raises:
        ConfigError: it cannot be read, or says nothing of the kind.
    """
    try:
        if file.suffix.lower() == ".json":
            parts = _of_json(json.loads(text_of(file)), fold)
        else:
            parts = _of_csv(file)
    except (OSError, ValueError, TypeError, RecursionError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"{KEY}: {file}: {reason}") from None
    return {part: list(map(composed, names)) for part, names in parts.items()}


def check(parts: Mapping[str, list[str]]) -> None:
    """Raise `ConfigError` for a part that there is not, or a case of two."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ConfigError(f"{KEY}: no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    seen: set[str] = set()
    for names in parts.values():
        for name in names:
            if name in seen:
                raise ConfigError(f"{KEY}: {name} is named twice")
            seen.add(name)


def _of_json(content: Any, fold: int) -> dict[str, list[str]]:
    if isinstance(content, list):
        if fold >= len(content):
            raise ValueError(f"there are {len(content)} folds, none of number {fold} from 0")
        content = dict(content[fold]) if isinstance(content[fold], dict) else {}
        if content and "test" not in content:
            content["test"] = content.pop("val", [])
    if not isinstance(content, dict) or not content:
        raise ValueError('give {"train": [...], "val": [...], "test": [...]}, or a list of such')
    for part, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{part}: a list of names of cases is needed")
    return dict(content)


def _of_csv(file: Path) -> dict[str, list[str]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.reader(stream, strict=True))
    parts: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        meant = len(row) == 2 and row[1].strip().lower().startswith(PARTS)  # "Test" is no header
        if len(row) != 2 or (row[1] not in PARTS and (number > 1 or meant)):
            raise ValueError(f"line {number}: give a case and its part, {', '.join(PARTS)}")
        if row[1] in PARTS:
            parts.setdefault(row[1], []).append(row[0])
    return parts
