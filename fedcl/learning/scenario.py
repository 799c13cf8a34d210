"""What every scenario offers: named sites, and the cases each of them holds."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from fedcl.data.alone import Alone, read_unlabelled
from fedcl.data.cases import Case, SiteData, alike, one_by_one, split, vanished
from fedcl.data.notes import Note
from fedcl.data.preparing import Preparation
from fedcl.data.reading import Reader
from fedcl.errors import ConfigError, DataError
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

    @property
    def measures(self) -> str:
        """The setting whose value sites of the first stage have to measure; empty if none has."""
        return ""

    def measure(self, site: str, path: Path | None, seed: int) -> list[float]:
        """Return what a site says of that setting; arguments and errors as of `load`."""
        raise NotImplementedError(f"{type(self).__name__} measures nothing")

    def from_data(self) -> dict[str, Any]:
        """Return settings that the data themselves decide, as they stand there now.

        A run keeps them, so that its model can read images where the data are not.
        """
        return {}

    def alone(self, name: str, files: Sequence[Path], site: str) -> Alone:
        """Read one image that nobody has labelled, to be answered by a model.

        Args:
            name: of the case.
            files: one that has all channels, or one per channel.
            site: as which of the sites it is read.

        Raises:
            DataError: it cannot be used; names the file.
            ConfigError: the scenario reads no image files.
        """
        return read_unlabelled(name, files, *self.reading(site))

    def reading(self, site: str) -> tuple[Reader, Preparation]:
        """Return how an image file that nobody has labelled is read, and what is made of it.

        Args:
            site: as which of the sites it is read.

        Raises:
            ConfigError: the scenario reads no image files.
        """
        raise ConfigError(f"scenario: {type(self).__name__} reads no image files of its own")

    def left_out(self) -> list[str]:
        """Return what lies beside the sites' data and is of no site, a sentence each."""
        return []

    def arrivals(self) -> list[list[str]]:
        """Return the default order of arrival: `stages`, or else one site per stage."""
        return self.stages or [[site] for site in self.sites()]

    def case_names(self, site: str) -> list[str]:
        """Return the names of the cases of `site` where they are known without reading images.

        Raises:
            DataError, ConfigError: its files cannot be looked at.
        """
        return []

    def without(self, site: str) -> dict[str, Any]:
        """Return the settings that name `site`, as they are when it has no part.

        All that is said site by site (a mapping with its name among the keys, in a group of
        settings as well) and `stages` are taken care of. Where other sites' data would become
        others without it, as where each has a share of one folder, a scenario says here how they
        stay as they were.

        Raises:
            DataError, ConfigError: that cannot be.
        """
        changed = less(self, site)
        left = [[one for one in stage if one != site] for stage in self.stages]
        return changed | {"stages": [stage for stage in left if stage]}

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
    def task(self) -> Segmentation:
        """Segmentation of images of one channel."""
        return Segmentation(1, self.classes)

    def load(self, site: str, path: Path | None, seed: int) -> SiteData:
        """Read `site` and split its patients; see `Scenario.load`.

        Raises:
            DataError: too few patients for three non-empty parts, or one that is no case of this
                task, too.
        """
        try:
            cases = self.cases(site, path)
        except DataError as error:
            named = str(error).startswith("site ")
            raise error if named else DataError(f"site {site}: {error}") from error
        problem = misfit(cases, self.task)
        if problem is not None:
            raise DataError(f"site {site}: {problem}")
        absent = [
            Note(f"no mask has {self.called(site, number)}")
            for number in range(1, self.classes)
            if not any(scan.counts[number] for case in cases for scan in case.scans)
        ]
        bare = tuple(
            case.name
            for case in cases
            if not any(scan.counts[n] for scan in case.scans for n in range(1, self.classes))
        )
        if bare and len(bare) < len(cases):
            absent.append(Note("masks with nothing but background", bare))
        same = alike({case.name: case.marked for case in cases})
        if same:
            what = "the same image and mask in cases that count as others"
            absent.append(Note(what, tuple(" = ".join(names) for names in same)))
        found = split(cases, site, self.val, self.test, seed)
        notes = [*getattr(cases, "notes", ()), *one_by_one(cases), *absent]
        notes += vanished(cases, self.classes)
        return replace(found, notes=(*notes, *found.notes))

    def called(self, site: str, number: int) -> str:
        """Return how the users at a site call a class."""
        return f"class {number}"


def less(settings: Any, site: str) -> dict[str, Any]:
    """Return those settings of a group that are said site by site, less those of a site."""
    changed: dict[str, Any] = {}
    for name, value in asdict(settings).items():
        if is_dataclass(getattr(settings, name)):
            own = less(getattr(settings, name), site)
            changed |= {name: value | own} if own else {}
        elif isinstance(value, dict) and site in value:
            changed[name] = {key: one for key, one in value.items() if key != site}
    return changed


def misfit(cases: Any, task: Segmentation) -> str | None:
    """Return which of a site's cases is none of the task, and why; None where all are."""
    names: set[str] = set()
    if not isinstance(cases, Sequence):
        return f"`cases` must return a list of cases, it returned {type(cases).__name__}"
    for case in cases:
        if not isinstance(case, Case):
            return f"`cases` must return cases (fedcl.data.cases.Case), not {type(case).__name__}"
        if not isinstance(case.name, str) or not case.name:
            return f"a case's name must be text, one is {case.name!r}"
        if case.name in names:
            return f"two cases are called {case.name}; a name must be unique within the site"
        names.add(case.name)
        for scan in case.scans:
            if scan.shape[0] != task.channels:
                return (
                    f"case {case.name}: {scan.shape[0]} channels, the scenario's task is of "
                    f"{task.channels}"
                )
            if scan.kept.ignored and not task.ignores:
                return (
                    f"case {case.name}: label 255 in its mask, which counts nowhere; the "
                    "scenario's task must say so (Segmentation.ignores)"
                )
            beyond = max(len(counts.classes) for counts in (scan.counts, scan.kept))
            if beyond > task.classes:
                return (
                    f"case {case.name}: label {beyond - 1} in its mask; of {task.classes} classes "
                    f"the labels are 0 to {task.classes - 1}"
                )
    return None
