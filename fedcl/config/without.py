"""The configuration of the run that would have been, had a hospital never taken part."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedcl.config.timeline import Arrivals, arrivals_of, in_places
from fedcl.errors import ConfigError
from fedcl.registry import SCENARIO
from fedcl.settings import closest
from fedcl.timeline import Stay, Timeline


def without(
    values: Mapping[str, Any], stages: Sequence[Sequence[str]], site: str
) -> dict[str, Any]:
    """Return a run's configuration as it would be if it had never had `site`.

    A stage in which `site` alone was new is none any more, and later ones count one less. Every
    other site joins, leaves and is back as it did.

    Args:
        values: the configuration, as a run stores it.
        stages: the sites that arrived in each of its stages.
        site: to be left out.

    Raises:
        ConfigError, DataError: it took no part, or there can be no run of the others.
    """
    check_there(site, stages)
    if sum(map(len, stages)) == 1:
        raise ConfigError(f"--site: {site} was the only hospital; delete the run's folder")
    scenario = SCENARIO.make(values["scenario"])
    faults = values.get("faults") or {}
    return {
        **values,
        "scenario": {**values["scenario"], **scenario.without(site)},
        "timeline": _timeline(values, stages, site),
        "sites": _less(values.get("sites") or {}, site),
        "faults": {
            kind: _less(chance, site) if isinstance(chance, Mapping) else chance
            for kind, chance in faults.items()
        },
        "run": {**(values.get("run") or {}), "dir": None, "resume": None},
    }


def check_there(site: str, stages: Sequence[Sequence[str]]) -> None:
    """Raise `ConfigError` where a site has arrived in none of a run's stages."""
    there = [one for stage in stages for one in stage]
    if site not in there:
        raise ConfigError(
            f"--site: {site!r} took no part{closest(site, there)}; there are: {', '.join(there)}"
        )


def _less(by_site: Mapping[Any, Any], site: str) -> dict[Any, Any]:
    """Return a mapping without a site, whose name YAML may have read as a number."""
    return {name: one for name, one in by_site.items() if str(name) != site}


def _timeline(
    values: Mapping[str, Any], stages: Sequence[Sequence[str]], site: str
) -> dict[str, Any]:
    """Return the group `timeline`: of every other site, when it joins, leaves and is back.

    Raises:
        ConfigError: somebody was away only in stages that there would not be.
    """
    given = arrivals_of(values)
    old = _resolved(given, stages, int(values.get("seed", 0)))
    gone = [stage for stage in range(len(stages)) if old.new(stage) == [site]]
    last = len(stages) - len(gone)

    def moved(number: int | None) -> int | None:
        """Return the number, from 1, of a stage, or of the first that remains after it."""
        return None if number is None else number - sum(stage + 1 < number for stage in gone)

    sites: dict[str, dict[str, int]] = {}
    for other in old.sites:
        if other == site:
            continue
        stay = old.stays.get(other, Stay())
        leave, back = moved(stay.leave), moved(stay.rejoin)
        if leave is not None and leave == back:
            raise ConfigError(
                f"timeline.sites.{other}.rejoin: {other} was away only while {site} alone was new, "
                f"and without {site} there is no stage to be away in; run what is meant instead "
                "with a timeline of its own"
            )
        if leave is not None and leave > last:
            leave = None
        now = Stay(moved(old.arrival(other) + 1), leave, back, stay.ramp)
        sites[other] = {name: one for name, one in asdict(now).items() if one != _NONE[name]}
    return {
        **(values.get("timeline") or {}),
        "stages": None, "per_stage": None, "file": None, "order": "listed", "sites": sites,
    }  # fmt: skip


_NONE = asdict(Stay())


def _resolved(given: Arrivals, stages: Sequence[Sequence[str]], seed: int) -> Timeline:
    """Return who was there when in a run of which it is known who arrived when."""
    names = [site for stage in stages for site in stage]
    who = in_places(names, given.order, seed)
    return Timeline(
        stages=tuple(map(tuple, stages)),
        rounds=given.rounds,
        participation=given.participation,
        stays={who.get(site, site): stay for site, stay in given.sites.items()},
        seed=seed,
    )
