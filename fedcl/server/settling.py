"""What a setting must learn from the hospitals of the first stage before any image is prepared."""

import logging
from collections.abc import Mapping, Sequence
from statistics import median

from flwr.serverapp import Grid

from fedcl.config.schema import Config
from fedcl.errors import DataError
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
        state.settled[name] = joined(_asked(grid, config))
    return config.settled(state.settled)


def joined(told: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the median of what sites have measured, number by number."""
    return [median(numbers) for numbers in zip(*told.values(), strict=True)]


def _asked(grid: Grid, config: Config) -> Mapping[str, Sequence[float]]:
    """Return what each site of the first stage has measured."""
    told: dict[str, Sequence[float]] = {}

    def admit(site: str, hello: Hello) -> None:
        length = len(next(iter(told.values()), hello.measured))
        if not hello.measured or len(hello.measured) != length:
            raise DataError(f"site {site}: it did not say what it has measured")
        told[site] = hello.measured

    roster = Roster(grid, config.job, config.engine.timeout, config.wait, admit)
    sites = config.timeline.present(0)
    roster.meet(sites)
    for site in sites:
        if site in roster.refused:
            raise roster.refused[site]
        if site not in told and (not told or not config.deployed):
            raise DataError(f"site {site}: no hospital of that name answered")
        if site not in told:
            log.warning("site %s is not there, and has no say in scenario settings", site)
    return {site: told[site] for site in sites if site in told}
