"""The timeline as it is configured: on the command line, in YAML or as a CSV table."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from fedcl.data.files import text_of
from fedcl.errors import ConfigError
from fedcl.seeding import numpy_rng
from fedcl.settings import parse, setting
from fedcl.timeline import Stay, Timeline

COLUMNS = ("site", *(item.name for item in fields(Stay)))
"""Of a CSV file; all but the first two may be missing or empty."""


@dataclass
class Arrivals:
    """The group `timeline`; see `Timeline`.

    Attributes:
        stages: the sites that arrive in each stage; null for the scenario's own.
        per_stage: how many of the scenario's sites arrive in each stage, in the order in which it
            has them; null for its own stages.
        sites: when single sites join, leave, rejoin, and over how many stages their cases come
            in. Where all that take part have a join, that replaces `stages`.
        file: a file with `sites`, and `stages` if it is YAML; a CSV file has a line per site and
            the columns site, join, leave, rejoin, ramp.
        order: who takes the places that were listed: the sites as "listed", "reversed", or
            "permuted" at random by the run's seed.
        rounds: federated rounds per stage.
        participation: who trains in a stage: "new", the sites with new cases, since they arrive,
            get more or are back; "cumulative", all that are there; "window(k)", those that were
            new in one of the last k stages.
        centralised: whether one pooled site trains on the data of all that take part in a stage:
            what federation costs can be read off. In simulation only.
        dropout: the chance of a site to be away for a round.
        stragglers: the chance that a site's answer comes after a round's deadline; simulated.
        wait: seconds that a deployed run waits for a site at the stage in which it arrives.
    """

    stages: list[list[str]] | None = None
    per_stage: int | None = setting(None, low=1)
    sites: dict[str, Stay] = setting(factory=dict)
    file: str | None = None
    order: str = setting("listed", choices=("listed", "reversed", "permuted"))
    rounds: int = setting(8, low=1)
    participation: str = "new"
    centralised: bool = False
    dropout: float = setting(0.0, low=0, high=1)
    stragglers: float = setting(0.0, low=0, high=1)
    wait: float = setting(600.0, low=0)


def arrivals_of(values: Mapping[str, Any]) -> Arrivals:
    """Check the group `timeline` of a configuration, its file included.

    Raises:
        ConfigError: it, or the file, is not as it should be.
    """
    return parse(Arrivals, inlined(values.get("timeline") or {}), "timeline")


def inlined(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the group `timeline` with what its file says, and without the file.

    Raises:
        ConfigError: the file cannot be used, or something is said twice.
    """
    given = dict(values)
    if given.get("file") is None:
        return given
    path = Path(str(given.pop("file")))
    try:
        read = _table(path) if path.suffix.lower() == ".csv" else _listed(path)
    except (OSError, ValueError, csv.Error, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigError(f"timeline.file: {path} cannot be read ({reason})") from None
    if not isinstance(read, dict) or not read.keys() <= {"stages", "sites"} or not read:
        raise ConfigError(
            f"timeline.file: {path} must hold sites, or stages and sites, and nothing else"
        )
    for key in read:
        if given.get(key):
            raise ConfigError(f"timeline.{key}: given, and in {path} as well; say it once")
    return given | read


def _listed(path: Path) -> Any:
    """Return what a YAML file says; names are text, even where YAML has numbers or NO for false."""
    read = yaml.load(text_of(path), yaml.BaseLoader)
    sites = read.get("sites") if isinstance(read, dict) else None
    if isinstance(sites, dict):
        read["sites"] = {
            site: {key: yaml.safe_load(value) for key, value in stay.items()}
            if isinstance(stay, dict)
            else stay or {}
            for site, stay in sites.items()
        }
    return read


def _table(path: Path) -> dict[str, Any]:
    """Return what a CSV file says of its sites."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True)
        heads = list(rows.fieldnames or [])
        unknown = [head for head in heads if head not in COLUMNS]
        if unknown or heads[:1] != ["site"] or "join" not in heads or len(heads) > len({*heads}):
            raise ValueError(f"its columns must be {', '.join(COLUMNS)}, not {', '.join(heads)}")
        sites: dict[str, Any] = {}
        for row in rows:
            name, line = str(row.pop("site")), f"line {rows.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{line}: not as many values as columns, separated by commas")
            if not row["join"] or name in sites:
                raise ValueError(f"{line}: every site once, with its join")
            wrong = [value for value in row.values() if value and not value.strip().isdecimal()]
            if wrong:
                raise ValueError(f"{line}: {wrong[0]!r} is not the number of a stage")
            sites[name] = {key: int(value) for key, value in row.items() if value}
    return {"sites": sites}


def timeline_of(
    arrivals: Arrivals, default: Callable[[], Sequence[Sequence[str]]], seed: int
) -> Timeline:
    """Return the timeline that a configuration asks for.

    Args:
        arrivals: the group `timeline`.
        default: gives the stages of the scenario.
        seed: of the run; order and dropout are drawn from it.

    Raises:
        ConfigError: it contradicts itself.
    """
    joins = {site: stay.join for site, stay in arrivals.sites.items() if stay.join is not None}
    if arrivals.centralised and arrivals.stragglers:
        raise ConfigError(
            "timeline.stragglers: a pool has no single site that could be late; take 0"
        )
    if joins and arrivals.stages is not None:
        raise ConfigError(
            f"timeline.sites.{next(iter(joins))}.join: timeline.stages says when sites arrive; "
            "give one of the two"
        )
    if arrivals.per_stage is not None and (joins or arrivals.stages is not None):
        raise ConfigError(
            "timeline.per_stage: timeline.stages or the sites' joins say when sites arrive; give "
            "one of the two"
        )
    if joins:
        late = [site for site in arrivals.sites if site not in joins]
        if late:
            raise ConfigError(f"timeline.sites.{late[0]}.join: missing; others have one")
        last = max(joins.values())
        stages = [[s for s, join in joins.items() if join == n] for n in range(1, last + 1)]
    else:
        stages = [
            list(stage) for stage in (default() if arrivals.stages is None else arrivals.stages)
        ]
        if arrivals.per_stage is not None:
            stages = _regrouped(stages, arrivals.per_stage)
        for number, stage in enumerate(stages, start=1):
            if not stage:
                raise ConfigError(f"timeline.stages: stage {number} has no sites")
    names = _ordered([site for stage in stages for site in stage], arrivals.order, seed)
    left = iter(names)
    placed = [[next(left) for _ in stage] for stage in stages]
    who = dict(zip((site for stage in stages for site in stage), names, strict=True))
    stays = {
        who.get(site, site): replace(stay, join=None)
        for site, stay in arrivals.sites.items()
        if replace(stay, join=None) != Stay()
    }
    ends = [stay.rejoin or 0 for stay in stays.values()]
    for number, stage in enumerate(placed):
        for stay in (stays[site] for site in stage if site in stays):
            gone = stay.leave - 1 if stay.leave and stay.rejoin is None else math.inf
            ends.append(int(min(number + stay.ramp, gone)))
    placed += [[] for _ in range(max(ends, default=0) - len(placed))]
    return Timeline(
        stages=tuple(map(tuple, placed)),
        rounds=arrivals.rounds,
        participation=arrivals.participation,
        centralised=arrivals.centralised,
        stays=stays,
        dropout=arrivals.dropout,
        seed=seed,
    )


def _regrouped(stages: Sequence[Sequence[str]], size: int) -> list[list[str]]:
    """Return the sites of stages in as many stages as there are with `size` new ones each."""
    names = [site for stage in stages for site in stage]
    return [names[first : first + size] for first in range(0, len(names), size)]


def in_places(names: Sequence[str], order: str, seed: int) -> dict[str, str]:
    """Return, by the site that was listed at a place of a timeline, the one that took it.

    Args:
        names: the sites in the order in which they arrived.
        order: see `Arrivals`.
        seed: of the run.
    """
    places = map(int, _ordered([str(place) for place in range(len(names))], order, seed))
    listed = dict(zip(places, names, strict=True))
    return {listed[place]: name for place, name in enumerate(names)}


def _ordered(sites: list[str], order: str, seed: int) -> list[str]:
    """Return the sites as they take the places of a timeline, one after the other."""
    if order == "listed":
        return sites
    if order == "reversed":
        return sites[::-1]
    return [sites[place] for place in numpy_rng("order", seed).permutation(len(sites))]
