"""Layouts in which the cases of all sites lie in one folder: who holds which of them."""

import csv
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcl.data.files import composed, folder_of
from fedcl.data.notes import Notes
from fedcl.data.reading import Files
from fedcl.errors import ConfigError, DataError
from fedcl.settings import closest, setting
from sites.parts.images import ImageScenario, Patient


@dataclass
class Cohort:
    """The cases of one site.

    Attributes:
        share: of all cases in the order of their names: every site's share follows on that of
            the site before.
        cases: or their names (the file's, without extension); of neither, all there are.
    """

    share: float | None = setting(None, above=0, high=1)
    cases: list[str] = setting(factory=list)


@dataclass
class CohortScenario(ImageScenario):
    """One folder of cases, shared out among sites.

    Attributes:
        root: the folder, the same for all sites; a deployed site brings its own.
        cohorts: which cases each site holds, by its name.
        table: a CSV that says it instead: a row per case.
        table_case, table_site: its columns; by default the first one, and the other of two.
    """

    cohorts: dict[str, Cohort] = setting(factory=dict)
    table: str | None = setting(None, travels=False)
    table_case: str = ""
    table_site: str = ""

    def __post_init__(self) -> None:
        """Read the table; check shares and labels."""
        if self.table is not None:
            self.cohorts = self._tabled(folder_of(self.table, "scenario.table"))
        for site, cohort in self.cohorts.items():
            if cohort.share is not None and cohort.cases:
                raise ConfigError(f"scenario.cohorts.{site}: give share or cases, not both")
        total = sum(cohort.share or 0.0 for cohort in self.cohorts.values())
        if total > 1 + 1e-9:
            raise ConfigError(f"scenario.cohorts: the shares add up to {total:g}, more than 1")
        super().__post_init__()  # which may ask for the sites

    def _tabled(self, file: Path) -> dict[str, Cohort]:
        """Return the sites of a table, in the order in which they come up."""
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                rows = list(csv.DictReader(stream, strict=True))
        except (OSError, csv.Error, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise ConfigError(f"scenario.table: {file}: {reason}") from None
        columns = list(rows[0]) if rows else []
        case = self.table_case or next(iter(columns), "")
        others = [name for name in columns if name != case]
        site = self.table_site or (others[0] if len(others) == 1 else "")
        for key, column in (("table_case", case), ("table_site", site)):
            if column not in columns:
                raise ConfigError(
                    f"scenario.{key}: {file} has no column {column!r}; give one of "
                    f"{', '.join(map(str, columns)) or '(there are none)'}"
                )
        cohorts: dict[str, Cohort] = {}
        for number, row in enumerate(rows, start=2):
            if not row[case] or not row[site]:
                raise ConfigError(f"scenario.table: {file}, line {number}: no case or no site")
            cohorts.setdefault(row[site], Cohort()).cases.append(composed(row[case]))
        return cohorts

    def sites(self) -> list[str]:
        """Return the sites of `cohorts`, in order.

        Raises:
            ConfigError: there are none.
        """
        there = list(self.cohorts) or sorted({*self.grouped(self._root).values()})
        if not there:
            raise ConfigError("scenario.cohorts: empty; say which cases each site holds")
        self.check_sites(there)
        holders: dict[str, str] = {}
        for site, names in self._shared_out().items():
            for name in names:
                other = holders.setdefault(name, site)
                if other != site or names.count(name) > 1:
                    raise ConfigError(
                        f"scenario.cohorts: {other} and {site} both hold {name}, or one of them "
                        "holds it twice: a patient would be trained on and tested"
                    )
        return there

    def grouped(self, path: Path) -> Mapping[str, str]:
        """Return the site of every case as the layout itself tells it; empty if it does not.

        It counts where no `cohorts` are given.

        Raises:
            DataError, ConfigError: what tells it is missing or damaged.
        """
        return {}

    def left_out(self) -> list[str]:
        """Return which cases no site holds, and what a split names in vain."""
        shared, lost = self._shared_out(), super().left_out()
        held = {name for names in shared.values() for name in names}
        if not shared:
            return lost
        every = list(self.found(next(iter(shared)), self._root, Notes()))
        lone = [name for name in every if name not in held]
        if not lone:
            return lost
        return [*lost, f"scenario.cohorts: cases that no site holds: {self.counted(lone)}"]

    def without(self, site: str) -> dict[str, Any]:
        """See `Scenario.without`; shares become lists of cases, for they follow on one another.

        Raises:
            ConfigError: there are shares, and no folder of all cases to count them in.
        """
        changed = super().without(site)
        others = {other: cohort for other, cohort in self.cohorts.items() if other != site}
        shared = self._shared_out()
        if not shared and any(cohort.share is not None for cohort in others.values()):
            raise ConfigError(
                "scenario.cohorts: shares count the cases of all sites, which are known only with "
                "scenario.root; give every site its cases"
            )
        listed = {
            other: {"share": None, "cases": cohort.cases or shared.get(other, [])}
            for other, cohort in others.items()
            # A share of no case at all must not become an empty list, which means every case.
            if cohort.share is None or shared.get(other)
        }
        return changed | {"cohorts": listed, "table": None}

    @property
    def _root(self) -> Path:
        return folder_of(self.root or "", "scenario.root")

    def _shared_out(self) -> dict[str, list[str]]:
        """Return the cases of every site where all lie in one folder, as in a simulation."""
        if self.root is None:
            return {}
        there = list(self.cohorts) or sorted({*self.grouped(self._root).values()})
        if not there:
            return {}
        names = list(self.found(there[0], self._root, Notes()))
        return {site: self._chosen(site, names, self._root) for site in there}

    def location(self, site: str) -> Path | None:
        """Return the folder of all cases; None where no root is set."""
        return None if self.root is None else self._root

    @abstractmethod
    def found(self, site: str, path: Path, notes: Notes) -> Mapping[str, list[Files]]:
        """Return the images of every case in a folder by its name, in the order of the names.

        Raises:
            DataError: files missing or at odds; names the site and the file.
        """

    def patients(self, site: str, path: Path, notes: Notes) -> list[Patient]:
        """Return the files of the cases of `site`; see `ImageScenario.patients`.

        Raises:
            DataError: see `found`; or none is its own.
        """
        found = self.found(site, path, notes)
        chosen = self._chosen(site, list(found), path)
        if not chosen:
            raise DataError(
                f"site {site}: of the {len(found)} cases in {path} none is its own; give it some "
                "in scenario.cohorts, or leave it out of timeline.stages"
            )
        return [Patient(name, found[name], self.part(found[name])) for name in chosen]

    def part(self, files: Sequence[Files]) -> str:
        """Return the part that a case is meant for by where its files lie; see `Patient.part`."""
        return ""

    def _chosen(self, site: str, names: list[str], path: Path) -> list[str]:
        """Return which of the cases in a folder belong to `site`."""
        if not self.cohorts:
            grouped = self.grouped(path)
            return [name for name in names if grouped.get(name) == site]
        cohort = self.cohorts.get(site)
        if cohort is None:
            raise DataError(f"site {site}: scenario.cohorts does not name it")
        if cohort.cases:
            missing = [name for name in cohort.cases if name not in names]
            if missing:
                near = closest(missing[0], names)
                many = f" ({len(missing)} such)" if len(missing) > 1 else ""
                raise DataError(
                    f"site {site}: there is no case {missing[0]}{near}{many}; change "
                    f"scenario.cohorts.{site}.cases"
                )
            return cohort.cases
        if cohort.share is None:
            return names
        before = 0.0
        for other, one in self.cohorts.items():
            if other == site:
                break
            before += one.share or 0.0
        first, end = (round(share * len(names)) for share in (before, before + cohort.share))
        return names[first:end]
