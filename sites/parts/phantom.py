"""What every phantom offers: hospitals of a table, and patients made on the spot."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fedcl.data.cases import Case
from fedcl.errors import DataError, some_of
from fedcl.learning.scenario import PatientScenario
from fedcl.settings import setting


@dataclass
class PhantomScenario(PatientScenario):
    """Patients made on the spot; there are no files.

    Attributes:
        scanners: what each hospital does, by name.
        seed: which patients.
        size: height and width of a slice, in pixels.
        patients: how many per hospital.
    """

    scanners: ClassVar[Mapping[str, Any]]

    val: float = setting(0.16, above=0, high=0.9)
    test: float = setting(0.42, above=0, high=0.9)
    seed: int = setting(0, low=0)
    size: int = setting(64, low=32, high=2048)
    patients: int = setting(24, low=3)

    @property
    def classes(self) -> int:
        """Background and the organ."""
        return 2

    def sites(self) -> list[str]:
        """Return the names of the hospitals."""
        return list(self.scanners)

    def cases(self, site: str, path: Path | None) -> list[Case]:
        """Make all patients of `site`; `path` plays no part.

        Raises:
            DataError: there is no such hospital.
        """
        if site not in self.sites():
            there = some_of(self.sites())
            raise DataError(f"site {site}: the phantom has no such hospital; there are: {there}")
        return [self.make(site, number) for number in range(self.patients)]

    @abstractmethod
    def make(self, site: str, number: int) -> Case:
        """Make a patient of `site`, by (seed, site, number) and the settings alone."""
