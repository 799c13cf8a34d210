"""What every scenario offers: named sites, and the cases each of them holds."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

from fedcl.data.cases import Case, SiteData, split, vanished
from fedcl.settings import setting
from fedcl.tasks.base import Task
from fedcl.tasks.segmentation import Segmentation


@dataclass
class Scenario(ABC):
    """A family of hospitals; a data layout is one subclass whose fields are its settings.

    Attributes:
        stages: the sites that arrive in each stage, in order of arrival.
    """

    stages: list[list[str]] = setting(factory=list)

    @property
    @abstractmethod
    def task(self) -> Task:
        """What is learned here."""

    @abstractmethod
    def sites(self) -> list[str]:
        """Return the names of the sites there are.

        Raises:
            DataError, ConfigError: the scenario cannot be used as configured.
        """

    @abstractmethod
    def load(self, site: str, path: Path | None, seed: int) -> SiteData:
        """Read or make the data of `site`; all randomness comes from (seed, site).

        Args:
            site: name of the site.
            path: the site's own folder, as its node configuration gives it; None for a
                scenario that needs no files.
            seed: the run's.

        Raises:
            DataError: the data cannot be used; names the site and the file.
        """

    def left_out(self) -> list[str]:
        """Return what lies beside the sites' data and is of no site, a sentence each."""
        return []

    def arrivals(self) -> list[list[str]]:
        """Return the default order of arrival: `stages`, or else one site per stage."""
        return self.stages or [[site] for site in self.sites()]

    def location(self, site: str) -> Path | None:
        """Return where `site` lies in a simulation; None where no files are needed."""
        return None


@dataclass
class PatientScenario(Scenario):
    """Hospitals that hold patients, segmented slice by slice and split at random.

    Attributes:
        val, test: share of a site's patients kept for validation and for testing.
    """

    val: float = setting(0.15, above=0, high=0.9)
    test: float = setting(0.25, above=0, high=0.9)

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of label values, background included."""

    @abstractmethod
    def cases(self, site: str, path: Path | None) -> list[Case]:
        """Read or make all patients of `site`, in a fixed order; arguments as for `load`.

        Of files `Cases` says what was left out.

        Raises:
            DataError: the data cannot be used; names the site and the file.
        """

    @property
    def task(self) -> Task:
        """Segmentation of images of one channel."""
        return Segmentation(1, self.classes)

    def load(self, site: str, path: Path | None, seed: int) -> SiteData:
        """Read `site` and split its patients; see `Scenario.load`.

        Raises:
            DataError: too few patients for three non-empty parts, too.
        """
        cases = self.cases(site, path)
        notes = [*getattr(cases, "notes", ()), *vanished(cases, self.classes)]
        return replace(split(cases, site, self.val, self.test, seed), notes=tuple(notes))
