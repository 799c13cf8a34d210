"""Layouts in which it can be given who is trained on, and what lies about may be of no site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedcl.data import splits
from fedcl.data.files import folder_of
from fedcl.learning.scenario import PatientScenario
from fedcl.settings import setting


@dataclass
class PartedScenario(PatientScenario):
    """Patients in files, whose parts in training and tests may be given.

    Attributes:
        root: folder of the data, for a simulation; a deployed site brings its own path.
        splits: a YAML or CSV file that says which cases are for training, validation and testing.
            Cases that it does not name are left out.
        fold: of such a file that has several.
        assigned: the same by the names of the parts; what `splits` says takes its place.
        name_left_out: whether what lies in `root` and is of no site is told by name; `fedcl forget`
            takes false, for it may be of the hospital that is to be forgotten.
    """

    root: str | None = setting(None, travels=False)
    splits: str | None = setting(None, travels=False)
    fold: int = setting(0, low=0)
    assigned: dict[str, list[str]] = setting(factory=dict)
    name_left_out: bool = setting(True, effect=False)

    def __post_init__(self) -> None:
        """Read the split."""
        if self.splits is not None:
            file = folder_of(self.splits, "scenario.splits")
            self.assigned = splits.read(file, self.fold)
        splits.check(self.assigned)

    def left_out(self) -> list[str]:
        """Return which cases a given split names that no site has."""
        if not self.assigned or self.root is None:
            return []
        there = {name for site in self.sites() for name in self.case_names(site)}
        lone = [name for names in self.assigned.values() for name in names if name not in there]
        return [f"scenario.splits: cases that no site has: {self.counted(lone)}"] if lone else []

    def counted(self, names: Sequence[str]) -> str:
        """Return the first of several names and how many there are; or the latter alone."""
        if not self.name_left_out:
            return str(len(names))
        return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") + f" ({len(names)})"

    def without(self, site: str) -> dict[str, Any]:
        """See `Scenario.without`; a given split is left with the cases of the other sites."""
        changed = super().without(site) | {"name_left_out": False}
        if not self.assigned or self.root is None:
            return changed
        held = {name for other in self.sites() if other != site for name in self.case_names(other)}
        kept = {part: [n for n in names if n in held] for part, names in self.assigned.items()}
        return changed | {"splits": None, "assigned": kept}
