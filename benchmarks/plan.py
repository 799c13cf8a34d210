"""What the comparison of methods runs, and what of it is complete."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.methods import METHODS, Values
from benchmarks.running import Planned, finished, slug
from benchmarks.streams import Stream
from fedcl.analysis.runs import Group, Run
from fedcl.analysis.sources import read

AUGMENTS = ("none", "light")
"""Nobody's images are varied, everybody's are."""


@dataclass
class Work:
    """The runs of one stream, in `folder`."""

    name: str
    stream: Stream
    folder: Path

    def methods(self, part: str = "") -> list[str]:
        """Return the methods of a part of the report, or all, that are run on this stream."""
        found = []
        for name, method in METHODS.items():
            own = self.stream.only if method.part == "methods" else self.stream.parts
            of = name if method.part == "methods" else method.strategy
            if method.part.startswith(part) and (own is None or of in own):
                found.append(name)
        return found

    def augments(self, name: str) -> Sequence[str]:
        """Return with which augmentations a method is run."""
        varied = self.stream.varied is None or name in self.stream.varied
        return AUGMENTS if METHODS[name].part == "methods" and varied else AUGMENTS[:1]

    def tuning(self, name: str) -> dict[Values, Planned]:
        """Return the run of every value that is tried, in the first order of arrival.

        One beyond the grid is among them once the grid's best has turned out to be at that edge.
        """
        method, stages = METHODS[name], next(iter(self.stream.orders.values()))

        def run(values: Values) -> Planned:
            folder = self.folder / "tuning" / slug(name, words(values))
            return folder, self.overrides(name, self.stream.tuning, stages, "none", values)

        tried = {values: run(values) for values in method.grid}
        edges = method.grid[:1] + method.grid[-1:]
        for edge, more in zip(edges, method.beyond, strict=False):
            if best(tried) == edge:
                return {**tried, more: run(more)}
        return tried

    def tuned(self, name: str) -> Values | None:
        """Return the best value tried, by AVG; None before all have been."""
        tried = self.tuning(METHODS[name].like or name)
        return best(tried) if tried else ()

    def weights(self, name: str) -> Values:
        """Return the tuned values that a method is run with; none before all have been tried."""
        own = {one.partition("=")[0] for one in METHODS[name].overrides}
        return tuple(one for one in self.tuned(name) or () if one.partition("=")[0] not in own)

    def reported(self, name: str, augment: str, values: Values = ()) -> list[Planned]:
        """Return every run that is reported."""
        return [
            (
                self.folder / slug(name, augment) / f"seed{seed}-{order}",
                self.overrides(name, seed, stages, augment, values),
            )
            for seed in self.stream.seeds
            for order, stages in self.stream.orders.items()
        ]

    def overrides(
        self, name: str, seed: int, stages: str, augment: str, values: Values
    ) -> list[str]:
        """Return all overrides of a run; a method's own come last."""
        frame = [f"seed={seed}", f"timeline.stages={stages}", f"augment={augment}"]
        every = [*frame, *self.stream.overrides, *values, *METHODS[name].overrides]
        return [*{one.partition("=")[0]: one for one in every}.values()]

    def groups(self, part: str, augment: str) -> list[Group]:
        """Return the runs of a part's methods, of those whose runs are all complete.

        Raises:
            SystemExit: a run has other weights than those that are best by now.
        """
        anchors = ["finetune", "joint", "ted"] if part == "parts" else []
        found = []
        for name in [*anchors, *self.methods(part)]:
            folders = [folder for folder, _ in self.reported(name, augment)]
            if name in self.methods() and all(average(one) is not None for one in folders):
                runs = [read(str(folder), folder) for folder in folders]
                check(self.weights(name), runs)
                found.append(Group(name, sorted(runs, key=lambda run: run.block)))
        return found


def check(weights: Values, runs: Sequence[Run]) -> None:
    """Exit where a run has not the weights that were tuned."""
    for key, _, value in (one.partition("=") for one in weights):
        for run in runs:
            if run.config.get(key) != float(value):
                raise SystemExit(f"{run.place}: {key} is not {value}: remove it and run it again")


def best(tried: Mapping[Values, Planned]) -> Values | None:
    """Return the values whose run has the best AVG; None before all are complete."""
    scores = {values: average(folder) for values, (folder, _) in tried.items()}
    if not scores or None in scores.values():
        return None
    return max(scores, key=lambda values: scores[values] or 0.0)


def words(values: Values) -> str:
    """Return a value that was tried, as "kd=0.5,ska=0.5"."""
    return ",".join(one.removeprefix("strategy.").removeprefix("weight.") for one in values)


def average(folder: Path) -> float | None:
    """Return the AVG of the run in `folder`, or None if it is not complete."""
    results = finished(folder)
    return None if results is None else results.avg


def planned(work: Work, only: Sequence[str]) -> Iterator[tuple[str, list[Planned]]]:
    """Yield what is to be run next, once what was yielded before has been."""
    names = [name for name in work.methods() if not only or name in only]
    sources = dict.fromkeys(METHODS[name].like or name for name in names)
    for what in ("tuning", "tuning beyond the edge"):
        yield what, [run for name in sources for run in work.tuning(name).values()]
    runs: list[Planned] = []
    for name in names:
        values = work.tuned(name)
        assert values is not None, "tuned above"
        for augment in work.augments(name):
            runs += work.reported(name, augment, values)
    yield "methods", runs
