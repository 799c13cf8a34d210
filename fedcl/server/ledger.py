"""What a run cost, and what went wrong."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedcl.errors import one_line

log = logging.getLogger("fedcl")


@dataclass
class Ledger:
    """What a run cost and what went wrong; kept across a resume.

    Attributes:
        bytes: arrays sent `down` to the sites (of which `teacher` and `memory`) and `up` to
            the server (of which `report`).
        seconds: `setup` until the first round; `train` and `evaluate`, the sites' own
            computing, summed (and the server's, where a strategy trains there); `communicate`,
            the time of the exchanges in which no site computed, if sites shared the workers
            evenly; `total`, wall time.
        cpu: processor seconds: of the sites' `train` and `evaluate`, summed, and of the `server`'s
            process (which is the sites' as well on engine=inprocess). Other jobs on a machine
            lengthen `seconds`, not these.
        memory: the most bytes that the `server`'s process and any of the `sites`' have held.
        failures: one entry per answer that was lost or refused.
        reputation: per site, how many of its updates were `delivered`, `lost` on the way or
            `refused`, and how often it was asked `again`.
        shares: per site, how much its samples weighed: its part of the `last` round, and `sum`,
            over all rounds.
        longest: per kind of request, the most seconds that each site has taken to answer one.
        missed: per site, how many rounds in a row it has not answered by now.
    """

    bytes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("down", "up", "teacher", "memory", "report"), 0)
    )
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("total", "setup", "train", "evaluate", "communicate"), 0.0
        )
    )
    cpu: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("train", "evaluate", "server"), 0.0)
    )
    memory: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("server", "sites"), 0))
    failures: list[dict[str, Any]] = field(default_factory=list)
    reputation: dict[str, dict[str, int]] = field(default_factory=dict)
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    longest: dict[str, dict[str, float]] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)

    def weigh(self, shares: Mapping[str, float]) -> None:
        """Add what each site's samples weighed in a round; the others' were nothing."""
        for site in {**self.shares, **shares}:
            last = shares.get(site, 0.0)
            total = self.shares.get(site, {}).get("sum", 0.0)
            self.shares[site] = {"last": last, "sum": total + last}

    def judge(self, site: str, what: str) -> None:
        """Count what a site is known for; see `reputation`."""
        known = self.reputation.setdefault(site, {})
        known[what] = known.get(what, 0) + 1

    def fail(self, site: str, stage: int, round_: int, what: str, reason: str) -> None:
        """Record that `site` delivered nothing; `reason` may have details after line one."""
        first, details = one_line(reason), reason.strip().partition("\n")[2]
        log.warning("stage %d, round %d, %s: %s lost: %s", stage + 1, round_, site, what, first)
        if details:
            log.debug("%s", details)
        self.failures.append(
            {"site": site, "stage": stage + 1, "round": round_, "what": what, "reason": first}
        )
