"""Finished runs, from folders or from MLflow, to be compared."""

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from fedcl.config.groups import Engine, Release
from fedcl.config.hydra import parsed
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.registry import SCENARIO, STRATEGY, Kind, describe
from fedcl.server.results import Results
from fedcl.settings import flat, free, without_effect

log = logging.getLogger("fedcl")

METHOD = (
    "strategy", "aggregation", "privacy", "timeline.centralised", "scenario.unmarked_as",
    "engine.quorum", "engine.norm_bound", "engine.largest_change", "engine.largest_share",
    "engine.collapse",
)  # fmt: skip
"""What a method is made of; runs that differ in it are compared.

Of the engine it is what decides whose updates count, but for how long is waited.
"""
FREE = (
    "seed", "timeline.stages", "timeline.sites", "timeline.order", "scenario.seed",
    "scenario.stages", "scenario.root", "strategy.teacher.file", "privacy.seed",
)  # fmt: skip
"""What may differ between runs of one method: repetitions, and where the data lie."""
IGNORED = (
    "engine", "tracking", "run", "scenario.cache", "scenario.cache_gb", "scenario.scores",
    "scenario.table", "scenario.splits", "scenario.unmarked_sets", "scenario.name_left_out",
    *free(Learner, "learner"), *free(Release, "release"),
)  # fmt: skip
"""What does not change what is learned, and where files lie: digests tell data apart.

What a plug-in that is here says of its own settings comes on top.
"""
BEGUN = re.compile(r"(model|models\..+)\.weights")
"""Where the files lie that models begin with: digests tell those apart, too."""


@dataclass(frozen=True)
class Run:
    """One completed run.

    Attributes:
        place: its folder, or where MLflow has it.
        results: the contents of results.json.
        config: the configuration, by dotted keys.
        overlay: the picture of segmented test cases (PNG), if there is one.
    """

    place: str
    results: Results
    config: Mapping[str, Any]
    overlay: bytes | None = None

    @property
    def order(self) -> str:
        """The order of arrival, as "A+B > C+D"; within a stage there is none.

        Sites that do not simply come and stay follow with their share of cases per stage.
        """
        order = " > ".join("+".join(sorted(stage)) for stage in self.results.arrivals)
        return order + "".join(f"; {site} {self._stay(site)}" for site in sorted(self._special))

    @property
    def _special(self) -> list[str]:
        """The sites that leave, or whose cases come in over several stages."""
        arrivals = self.results.arrivals
        found = []
        for site, shares in self.results.presence.items():
            first = next(n for n, stage in enumerate(arrivals) if site in stage)
            if any(share != 1.0 for share in shares[first:]):
                found.append(site)
        return found

    def _stay(self, site: str) -> str:
        shares = self.results.presence[site]
        return "-".join("" if share is None else f"{share:.2g}" for share in shares)

    @property
    def block(self) -> tuple[int, str]:
        """Seed and order: runs of several methods with the same ones are paired."""
        return self.results.seed, self.order

    @property
    def _free(self) -> list[str]:
        """What may differ between runs of its method, with what its plug-ins say does nothing."""
        scenario, strategy = (str(self.config.get(f"{k.key}.name")) for k in (SCENARIO, STRATEGY))
        return [*FREE, *_idle(SCENARIO, scenario), *_idle(STRATEGY, strategy)]

    def part(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the settings under some keys, less those that are free."""
        return {
            k: v
            for k, v in self.config.items()
            if any(_under(k, key) for key in keys) and not any(_under(k, key) for key in self._free)
        }

    @property
    def frame(self) -> dict[str, Any]:
        """All settings that runs to be compared should share: scenario, budget, model."""
        skipped = (*METHOD, *self._free, *IGNORED)
        own = {
            k: v
            for k, v in self.config.items()
            if not any(_under(k, s) for s in skipped) and not BEGUN.fullmatch(k)
        }
        begun = {
            f"weights that {name} began with": one["sha256"][:12]
            for name, one in self.results.begun.items()
        }
        sizes = sorted(len(stage) for stage in self.results.arrivals)
        stays = sorted(self._stay(site) for site in self._special)
        same = {"sites": sorted(self.results.sites), "sites per stage": sizes}
        return own | same | begun | ({"stays": stays} if stays else {})


@dataclass(frozen=True)
class Group:
    """The runs of one method, at most one per block, in the order of blocks."""

    name: str
    runs: list[Run]

    @property
    def blocks(self) -> list[tuple[int, str]]:
        """Seeds and orders that were run."""
        return [run.block for run in self.runs]


def chosen(runs: Sequence[Run], where: Sequence[str]) -> list[Run]:
    """Return the runs whose settings are as `where` says, each "key=value" as for simulate.py.

    Raises:
        ConfigError: no run has such a key, or none the value.
    """
    kept = list(runs)
    for wish in where if kept else ():
        key, equals, text = wish.partition("=")
        if not equals:
            raise ConfigError(f"compare --where: give KEY=VALUE, got {wish!r}")
        if key in ("scenario", "strategy", "model", "aggregation", "privacy"):
            key += ".name"
        there = sorted({str(run.config[key]) for run in kept if key in run.config})
        if not there:
            raise ConfigError(f"compare --where: no run has the setting {key!r}")
        try:
            value = plain(parsed([wish])[0].value())
        except ConfigError:
            value = text
        kept = [run for run in kept if run.config.get(key) == value]
        if not kept:
            raise ConfigError(
                f"compare --where: no run has {key}={text}; there are {', '.join(there)}"
            )
    return kept


def group(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Return the runs by method, and notes on those that repeat another.

    A method is a strategy with its settings, an aggregation, a privacy, whether it is
    centralised, and whatever else runs differ in that are mixed. Where one strategy comes in
    several variants, the one with default settings has the plain name, the others say theirs.
    """
    mixed = {key for key, _ in _apart(runs)}
    several = _several_teachers(runs)
    variants: dict[str, list[Run]] = {}
    for run in runs:
        own = run.part(METHOD) | {key: run.frame.get(key) for key in mixed}
        if run.results.teacher_sha256:  # every seed may have its own
            which = run.results.teacher_sha256[:8] if several else "given"
            own["strategy.teacher.file"] = which
        variants.setdefault(json.dumps(own, sort_keys=True), []).append(run)
    groups, notes = [], []
    names = _names([(members[0], json.loads(own)) for own, members in variants.items()])
    for name, members in zip(names, variants.values(), strict=True):
        latest = {run.block: run for run in members}
        for block in latest:
            count = sum(run.block == block for run in members)
            if count > 1:
                seed, order = block
                notes.append(
                    f"{name}, seed {seed}, {order}: {count} runs; {latest[block].place} is used"
                )
        groups.append(Group(name, [latest[block] for block in sorted(latest)]))
    return groups, notes


def _several_teachers(runs: Sequence[Run]) -> bool:
    """Return whether one seed was run with several teachers from files."""
    by_seed: dict[int, set[str]] = {}
    for run in runs:
        if run.results.teacher_sha256:
            by_seed.setdefault(run.results.seed, set()).add(run.results.teacher_sha256)
    return any(len(found) > 1 for found in by_seed.values())


def differences(runs: Sequence[Run]) -> list[str]:
    """Return in what runs differ that should be alike: scenario, budget, model and data."""
    said = []
    for key, values in _apart(runs):
        listed = ", ".join(f"{value} ({place})" for value, place in values.items())
        said.append(f"{key}: {listed}")
    digests: dict[tuple[int, str], dict[str, str]] = {}
    for run in runs:
        for site, digest in run.results.data_sha256.items():
            digests.setdefault((run.results.seed, site), {}).setdefault(digest, run.place)
    for (seed, site), values in digests.items():
        if len(values) > 1:
            said.append(f"data of site {site}, seed {seed}: {', '.join(values.values())}")
    return said


def example(runs: Sequence[Run]) -> str:
    """Return how to choose, of runs that differ, those like most of them."""
    for key, _ in _apart(runs):
        values = Counter(json.dumps(run.config[key]) for run in runs if key in run.config)
        if values:
            return f"--where '{key}={values.most_common(1)[0][0]}'"
    return "--where KEY=VALUE"


def shared(*groups: Group) -> set[tuple[int, str]]:
    """Return the seeds and orders that all of `groups` were run with, on the same data."""
    common = set.intersection(*(set(one.blocks) for one in groups))
    data: dict[tuple[int, str], set[str]] = {}
    for one in groups:
        for run in one.runs:
            mark = json.dumps(run.results.data_sha256, sort_keys=True)
            data.setdefault(run.block, set()).add(mark)
    return {block for block in common if len(data[block]) == 1}


def _apart(runs: Sequence[Run]) -> list[tuple[str, dict[str, str]]]:
    """Return the settings of `Run.frame` that differ: key, and a place for every value."""
    found = []
    every = {key for run in runs for key in run.frame}
    for key in sorted(every, key=lambda key: (not key.endswith(".name"), key)):  # then the rest
        values: dict[str, str] = {}
        for run in runs:
            values.setdefault(json.dumps(run.frame.get(key)), run.place)
        if len(values) > 1:
            found.append((key, values))
    return found


def plain(value: Any) -> Any:
    """Return a setting as it is compared: 1.0 is 1."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _names(variants: Sequence[tuple[Run, dict[str, Any]]]) -> list[str]:
    """Return a name for each variant, given one run and what makes it a variant."""
    names = []
    for run, own in variants:
        strategy = run.results.strategy
        others = [other for r, other in variants if r.results.strategy == strategy]
        words = [strategy]
        for key, value in sorted(own.items()):
            differs = any(other.get(key) != value for other in others)
            told = differs or not key.startswith("strategy.")
            if told and value != _default(strategy, key):
                words.append(_word(key, value))
        names.append(" ".join(words))
    return [
        f"{name} ({run.place})" if names.count(name) > 1 else name
        for name, (run, _) in zip(names, variants, strict=True)
    ]


def _default(strategy: str, key: str) -> Any:
    """Return what a setting of a method is if nobody sets it, as far as it is known."""
    known: dict[str, Any] = {
        "aggregation.name": "fedavg",
        "privacy.name": "none",
        "timeline.centralised": False,
        "scenario.unmarked_as": "unknown",
        **{f"engine.{name}": value for name, value in flat(asdict(Engine()))},
    }
    return (known | _defaults(strategy)).get(key)


@cache
def _defaults(strategy: str) -> dict[str, Any]:
    """Return the settings of a strategy if nobody sets them; none where it cannot be loaded."""
    try:
        return dict(flat({"strategy": describe(STRATEGY.make({"name": strategy}))}))
    except ConfigError as error:
        log.debug("%s", error)
        return {}


def _word(key: str, value: Any) -> str:
    """Return a setting as a part of a name."""
    if key == "timeline.centralised":
        return "centralised"
    short = key.removeprefix("strategy.").removeprefix("scenario.").removesuffix(".name")
    return f"{short}={value}"


@cache
def _idle(kind: Kind, name: str) -> tuple[str, ...]:
    """Return the settings of a plug-in that do nothing; none where it cannot be loaded here.

    Of a scenario that is where files lie as well: digests tell data apart, but not what else a
    strategy may read.
    """
    try:
        found = kind.find(name)
    except ConfigError as error:
        log.debug("%s", error)
        return ()
    return tuple((free if kind is SCENARIO else without_effect)(found, kind.key))


def _under(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")
