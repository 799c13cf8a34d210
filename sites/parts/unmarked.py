"""Layouts whose sites mark some of the classes only."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedcl.data.cases import Case, SiteData
from fedcl.data.hidden import hidden
from fedcl.data.notes import Note
from fedcl.errors import ConfigError
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from sites.parts.parted import PartedScenario


@dataclass
class UnmarkedScenario(PartedScenario):
    """Sites whose masks may leave classes unmarked.

    Attributes:
        unmarked: by site, the classes that its masks do not mark, by number, the background's being
            0: what is background in them may be one of these. Where masks do mark them, that is
            taken for background.
        unmarked_as: what such background is in training: "unknown", so that no class that it may be
            is held against it, or "background", as if all classes were marked.
        full_tests: whether test masks mark all classes, so that all are scored at every site;
            otherwise they are as those trained on.
        unmarked_sets: all lists of classes that some site does not mark, in the order in which they
            are told apart; `fedcl forget` gives them, so that what hospitals keep stays right.
    """

    unmarked: dict[str, list[int]] = setting(factory=dict)
    unmarked_as: str = setting("unknown", choices=("unknown", "background"))
    full_tests: bool = False
    unmarked_sets: list[list[int]] = setting(factory=list)

    def __post_init__(self) -> None:
        """Raise a ConfigError where what a site does not mark cannot be."""
        for site, classes in self.unmarked.items():
            key, foreground = f"scenario.unmarked.{site}", range(1, self.classes)
            if not {*classes} <= {*foreground} or len({*classes}) < len(classes):
                raise ConfigError(
                    f"{key}: give different classes from 1 to {self.classes - 1}, got {classes}"
                )
            if len(classes) == len(foreground):
                raise ConfigError(f"{key}: its masks would mark no class; leave some out")
        super().__post_init__()

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes, background included."""

    def partly_marked(self, task: Segmentation) -> Segmentation:
        """Return a task with what its sites do not mark.

        Raises:
            ConfigError: its loss has no form for voxels of unknown class.
        """
        if any(self.unmarked.values()) and self.unmarked_as == "unknown" and task.form != "dice_ce":
            raise ConfigError(
                f"scenario.loss: {task.form} has no form for sites that leave classes unmarked; "
                "take dice_ce, or scenario.unmarked_as=background"
            )
        sets = [tuple(sorted(one)) for one in self.unmarked_sets]
        sets += sorted({tuple(sorted(one)) for one in self.unmarked.values() if one} - {*sets})
        return replace(
            task,
            unmarked={site: tuple(classes) for site, classes in self.unmarked.items()},
            candidates=tuple((0, *one) for one in sets),
            naive=self.unmarked_as == "background",
            full_tests=self.full_tests,
        )

    def load(self, site: str, path: Path | None, seed: int) -> SiteData:
        """Read `site`; see `Scenario.load`. What it does not mark is background in its masks."""
        data = super().load(site, path, seed)
        unmarked = tuple(sorted(self.unmarked.get(site, ())))
        if not unmarked:
            return data
        changed = [*data.train, *data.val, *(() if self.full_tests else data.test)]
        return replace(
            data,
            train=_less(data.train, unmarked),
            val=_less(data.val, unmarked),
            test=data.test if self.full_tests else _less(data.test, unmarked),
            notes=(*data.notes, *self._told(site, unmarked, changed)),
        )

    def _told(self, site: str, unmarked: Sequence[int], cases: Sequence[Case]) -> list[Note]:
        """Return what a site does not mark, and what of its masks is not used therefore."""
        names = [self.called(site, number) for number in unmarked]
        told = [Note(f"background may be {' or '.join(names)}, not marked (scenario.unmarked)")]
        for number, name in zip(unmarked, names, strict=True):
            found = [(sum(s.counts[number] for s in case.scans), case.name) for case in cases]
            voxels = sum(count for count, _ in found)
            if voxels:
                what = f"{voxels} voxels of {name} hidden (scenario.unmarked)"
                told.append(Note(what, tuple(case for count, case in found if count)))
        return told

    def without(self, site: str) -> dict[str, Any]:
        """See `Scenario.without`; what is kept of other sites is still understood."""
        sets = [list(one[1:]) for one in self.task.candidates]
        return super().without(site) | {"unmarked_sets": sets}


def _less(cases: Sequence[Case], unmarked: tuple[int, ...]) -> tuple[Case, ...]:
    """Return cases whose masks do not mark some classes."""
    return tuple(
        replace(case, scans=tuple(hidden(s, unmarked) for s in case.scans), unmarked=unmarked)
        for case in cases
    )
