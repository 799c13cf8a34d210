"""Data sets as nnU-Net takes them: `imagesTr/CASE_0000.EXTENSION`, `labelsTr/CASE.EXTENSION`.

Of both versions of `dataset.json` (Isensee et al., Nature Methods 2021); folds are those of
`splits_final.json`, given as `splits`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcl.data.files import text_of
from fedcl.data.layouts import Layout
from fedcl.data.notes import Notes
from fedcl.data.reading import Files
from fedcl.errors import ConfigError, DataError
from fedcl.settings import setting
from sites.parts.cohorts import CohortScenario

LAYOUT = Layout.of("imagesTr/{case}_{channel}", "labelsTr/{case}", None, "nnU-Net")


@dataclass
class NNUNet(CohortScenario):
    """One data set of nnU-Net, its cases shared out among sites.

    Attributes:
        labels: as of other layouts; empty for those of dataset.json, in their order.
        channels: as of other layouts; null for all that dataset.json names.
    """

    channels: Any = None
    labels: list[Any] = setting(factory=list)

    def __post_init__(self) -> None:
        """Take from dataset.json what is not given."""
        if self.root is not None and (not self.labels or self.channels is None):
            told = _dataset(self._root)
            self.labels, self.ignore = self.labels or _labels(told), self.ignore or _ignored(told)
            names = told.get("channel_names", told.get("modality"))
            if self.channels is None:
                self.channels = len(names) if isinstance(names, dict) and names else 1
        if not self.labels or self.channels is None:
            raise ConfigError("scenario.labels and scenario.channels: give both, or scenario.root")
        super().__post_init__()

    def modalities(self, site: str, path: Path) -> list[str]:
        """Return what dataset.json says of the channels; empty where it says nothing."""
        told = _dataset(path)
        names = told.get("channel_names", told.get("modality"))
        if not isinstance(names, dict):
            return []
        return [str(names.get(str(number), "")) for number in range(len(names))]

    def from_data(self) -> dict[str, Any]:
        """See `Scenario.from_data`: what of the settings dataset.json may have given, too."""
        told = {"labels": self.labels, "ignore": self.ignore, "channels": self.channels}
        return super().from_data() | (told if self.root is not None else {})

    def found(self, site: str, path: Path, notes: Notes) -> dict[str, list[Files]]:
        """Return the files of every case; see `CohortScenario.found`.

        Raises:
            DataError: see `Layout.found`.
        """
        found = LAYOUT.found(site, path, notes)
        return {case: [one.files] for case, one in found.items()}


def _dataset(root: Path) -> dict[str, Any]:
    """Return dataset.json.

    Raises:
        DataError: it is missing or damaged.
    """
    file = root / "dataset.json"
    try:
        told = json.loads(text_of(file))
        if not isinstance(told, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"scenario.root: {file} cannot be read ({reason})") from None
    return told


def _ignored(told: dict[str, Any]) -> list[Any]:
    """Return the value that nnU-Net leaves out of everything, if dataset.json names one."""
    labels = told.get("labels")
    return [labels["ignore"]] if isinstance(labels, dict) and "ignore" in labels else []


def _labels(told: dict[str, Any]) -> list[Any]:
    """Return the labels of dataset.json, background first: {name: value} or {value: name}.

    Raises:
        ConfigError: they are none, or regions of several values.
    """
    labels = told.get("labels")
    if isinstance(labels, dict):
        values = [value for name, value in labels.items() if name != "ignore"]
        if all(isinstance(value, int) for value in values):
            return sorted(values)
        if all(str(name).isdecimal() for name in labels):
            return sorted(map(int, labels))
    raise ConfigError(
        "scenario.labels: those of dataset.json are no single values (regions?); give them, such "
        "as [0,[1,2],3]"
    )
