"""What a setting must learn from the hospitals of the first stage before any image is prepared."""

import logging
from collections.abc import Mapping, Sequence
from statistics import median

from flwr.serverapp import Grid

from fedcl.config.schema import Config
from fedcl.errors import ConfigError, DataError
from fedcl.server.roster import Roster
from fedcl.server.state import State
from fedcl.wire.answers import Hello

log = logging.getLogger("fedcl")


def settled(grid: Grid, config: Config, state: State) -> Config:
    """Return a configuration in which no setting waits for what hospitals measure.

    The value is the median of what the sites of the first stage say, number by number; the state
    keeps it, so that it is the same for all that come later and for a run resumed.

    Raises:
        DataError: a site cannot say it, or of those of the first stage none is there.
    """
    name = config.job.scenario.measures
    if not name:
        return config
    if name not in state.settled:
        state.settled[name] = medians(_asked(grid, config, name))
    return config.settled(state.settled)


def medians(told: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the median of what sites have measured, number by number, as people can retype it."""
    return [round(median(numbers), 6) for numbers in zip(*told.values(), strict=True)]


def _asked(grid: Grid, config: Config, name: str) -> Mapping[str, Sequence[float]]:
    """Return what each site of the first stage has measured."""
    told: dict[str, Sequence[float]] = {}
    sites = config.timeline.present(0)

    def admit(site: str, hello: Hello) -> None:
        if site not in sites:
            return
        if not hello.measured:
            raise DataError(f"site {site}: it did not say what it has measured")
        try:
            config.settled({name: hello.measured})
        except ConfigError as error:
            raise DataError(f"site {site}: what it has measured cannot be ({error})") from None
        told[site] = hello.measured

    roster = Roster(grid, config.job, config.engine.timeout, config.wait, admit)
    roster.meet(sites)
    for site in sites:
        if site in roster.refused:
            raise roster.refused[site]
        if site not in told and (not told or not config.deployed):
            raise DataError(f"site {site}: no hospital of that name answered")
        if site not in told:
            log.warning("site %s is not there, and has no say in scenario settings", site)
    return {site: told[site] for site in sites if site in told}
