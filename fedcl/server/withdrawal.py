"""What of a run stays as it is when one of its hospitals is to be forgotten."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from fedcl.config.schema import Config
from fedcl.server.ledger import Ledger
from fedcl.server.state import State
from fedcl.timeline import POOL

T = TypeVar("T")


def obstacle(state: State, config: Config, site: str) -> str | None:
    """Return why a state from before `site` came is not that of a run without it; None if it is.

    Args:
        state: of the run that had it.
        config: of the one that has not.
        site: not arrived yet.
    """
    before, now = state.configuration, config.fingerprint()
    own = re.escape(site)
    about = re.compile(
        rf"timeline\.stages|timeline\.stays\..*|scenario\..*|roles\.{own}\..*|faults\.\w+\.{own}"
    )
    for key in sorted(before.keys() | now.keys()):
        # What the scenario says of others' data is compared by their digests, when they answer.
        if before.get(key) != now.get(key) and not about.fullmatch(key):
            return f"without {site} {key} is another, from the first stage on"
    if config.timeline.centralised:
        sizes = [state.samples[one] for one in config.timeline.sites if one in state.samples]
        if [max(along) for along in zip(*sizes, strict=True)] != state.samples.get(POOL):
            return f"{site} had the largest images, to which the pool pads all others"
    return None


def cleaned(state: State, config: Config, site: str) -> State:
    """Return a state of before `site` came as that of a run which has never heard of it.

    What it cost is left out, for that counted `site` as well: a test in which it took part. So is
    the secret of the noise, which another run must not have.

    Args:
        state: of the run that had it.
        config: of the one that has not.
        site: to be left out.
    """
    ledger = Ledger(
        failures=[one for one in state.ledger.failures if one["site"] != site],
        reputation=_less(state.ledger.reputation, site),
        shares=_less(state.ledger.shares, site),
    )
    return replace(
        state,
        configuration=config.fingerprint(),
        validation=_less(state.validation, site),
        initial=None if state.initial is None else _less(state.initial, site),
        rows=[_less(row, site) for row in state.rows],
        elsewhere=[
            {name: _less(one, site) for name, one in row.items()} for row in state.elsewhere
        ],
        predicting={name: _less(one, site) for name, one in state.predicting.items()},
        trained=[[one for one in stage if one != site] for stage in state.trained],
        versions=_less(state.versions, site),
        ended=[_less(versions, site) for versions in state.ended],
        kept=_less(state.kept, site),
        stored=_less(state.stored, site),
        holds={},
        digests=_less(state.digests, site),
        samples=_less(state.samples, site),
        notes=_less(state.notes, site),
        left_out=[],
        sources=_less(state.sources, site),
        ledger=ledger,
        sent=[dict(ledger.bytes) for _ in state.sent],
        forgot={},
        tracking_run=None,
        tracking_experiment=None,
        secret=State({}).secret,
    )


def _less(by_site: Mapping[str, T], site: str) -> dict[str, T]:
    return {name: one for name, one in by_site.items() if name != site}
