"""What the server asks of hospitals: to train, to evaluate, to report.

`pack` and `unpack` turn a request into Flower records and back. What comes from the network is
checked here, once: `unpack` raises `MalformedError`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedcl.wire import fields
from fedcl.wire.fields import checked

RUN = r"(run-\d{1,20})?"
"""The name of a run: a hospital's folder is called so."""
CACHED = ("teacher", "memory")
"""What a site may have been sent before, and then is sent the digest of."""

AnyRequest = TypeVar("AnyRequest", bound="Request")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every request says.

    Attributes:
        job: the `Job`, as JSON.
        model: the architecture that the weights are of.
        arrays: the global weights.
        run: the name of the run, or empty; what the site keeps for itself lies under it.
        arrivals: the sites that arrived in each stage so far.
        state: version of the site's own state to start from; 0 for none.
    """

    TYPE: ClassVar[str]
    """Of the Flower message."""

    job: str
    model: str
    arrays: ArrayRecord
    run: str = ""
    arrivals: list[list[str]] = field(default_factory=list)
    state: int = 0

    @property
    def arrived(self) -> list[str]:
        """The sites that have, in order of arrival."""
        return [site for stage in self.arrivals for site in stage]

    @property
    def records(self) -> dict[str, ArrayRecord | None]:
        """What it carries besides names and numbers."""
        return {"arrays": self.arrays}

    def pack(self) -> RecordDict:
        """Return the records; the array records themselves, not copies."""
        content = RecordDict({"request": ConfigRecord(self._values())})
        for name, record in self.records.items():
            if record is not None:
                content[name] = record
        return content

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> Self:
        """Read the records."""
        return cls(**cls._read(content))

    def _values(self) -> dict[str, Any]:
        """Return names and numbers, as a `ConfigRecord` takes them."""
        return {
            "job": self.job,
            "model": self.model,
            "run": self.run,
            "arrived": self.arrived,
            "sizes": [len(stage) for stage in self.arrivals],
            "state": self.state,
        }

    @classmethod
    def _read(cls, content: RecordDict) -> dict[str, Any]:
        """Return the attributes that records give."""
        values = content.config_records["request"]
        run, arrived = str(values["run"]), fields.names(values["arrived"])
        sizes = [fields.whole(size) for size in fields.several(values["sizes"])]
        if not re.fullmatch(RUN, run):
            raise ValueError("the name of no run")
        if sum(sizes) != len(arrived) or min(sizes, default=0) < 0:
            raise ValueError("stages that are none")
        left = iter(arrived)
        return {
            "job": str(values["job"]),
            "model": str(values["model"]),
            "arrays": content.array_records["arrays"],
            "run": run,
            "arrivals": [[next(left) for _ in range(size)] for size in sizes],
            "state": fields.count(values["state"]),
        }


@dataclass(frozen=True, kw_only=True)
class TrainRequest(Request):
    """To train for a round.

    Attributes:
        teacher: the teacher's weights, if there is one and the site does not have it yet.
        memory: what the server remembers of earlier stages, likewise.
        digests: of teacher and memory, where there are any, whether they are sent or not.
        keep: which of them will be asked for again.
        needed: versions of the site's own state that may be: those at the ends of stages.
        lost: the sites of earlier stages that have never delivered anything.
        shares: the sites to train on, this one or those of a pool, each with the share of its
            training cases that it has by now.
        rehearsing: the sites to train on by what was kept of their samples.
        stage: counted from 0.
        round: counted from 1 over all stages.
        rounds: in every stage.
        attempt: at the round, by this site: counted from 1, two for every time the round was
            tried.
    """

    TYPE: ClassVar[str] = "train"

    teacher: ArrayRecord | None = None
    memory: ArrayRecord | None = None
    digests: dict[str, str] = field(default_factory=dict)
    keep: list[str] = field(default_factory=list)
    needed: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    rehearsing: list[str] = field(default_factory=list)
    stage: int = 0
    round: int = 0
    rounds: int = 1
    attempt: int = 1

    @property
    def records(self) -> dict[str, ArrayRecord | None]:
        """See `Request.records`."""
        return {**super().records, "teacher": self.teacher, "memory": self.memory}

    @property
    def done(self) -> float:
        """The share of the stage that is over when this round begins."""
        return (self.round - 1) % self.rounds / self.rounds

    def _values(self) -> dict[str, Any]:
        return super()._values() | {
            "digests": [self.digests.get(name, "") for name in CACHED],
            "keep": self.keep,
            "needed": self.needed,
            "lost": self.lost,
            **_packed(self.shares),
            "rehearsing": self.rehearsing,
            "stage": self.stage,
            "round": self.round,
            "rounds": self.rounds,
            "attempt": self.attempt,
        }

    @classmethod
    def _read(cls, content: RecordDict) -> dict[str, Any]:
        values = content.config_records["request"]
        pairs = zip(CACHED, fields.names(values["digests"]), strict=True)
        numbers = {
            name: fields.count(values[name]) for name in ("stage", "round", "rounds", "attempt")
        }
        if numbers["rounds"] < 1:
            raise ValueError("stages without rounds")
        return super()._read(content) | {
            "teacher": content.array_records.get("teacher"),
            "memory": content.array_records.get("memory"),
            "digests": {name: digest for name, digest in pairs if digest},
            "keep": fields.names(values["keep"]),
            "needed": [fields.count(one) for one in fields.several(values["needed"])],
            "lost": fields.names(values["lost"]),
            "shares": _shares(values),
            "rehearsing": fields.names(values["rehearsing"]),
            **numbers,
        }


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(Request):
    """To score the weights.

    Attributes:
        split: on which cases, "val" or "test".
    """

    TYPE: ClassVar[str] = "evaluate"

    split: str

    def _values(self) -> dict[str, Any]:
        return super()._values() | {"split": self.split}

    @classmethod
    def _read(cls, content: RecordDict) -> dict[str, Any]:
        split = str(content.config_records["request"]["split"])
        if split not in ("val", "test"):
            raise ValueError(f"cases that are none: {split[:20]!r}")
        return super()._read(content) | {"split": split}


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Request):
    """To tell of a stage what the strategy wants to know besides weights.

    Attributes:
        shares: see `TrainRequest`.
    """

    TYPE: ClassVar[str] = "query.report"

    shares: dict[str, float] = field(default_factory=dict)

    def _values(self) -> dict[str, Any]:
        return super()._values() | _packed(self.shares)

    @classmethod
    def _read(cls, content: RecordDict) -> dict[str, Any]:
        return super()._read(content) | {"shares": _shares(content.config_records["request"])}


def _packed(shares: Mapping[str, float]) -> dict[str, Any]:
    return {"learning": list(shares), "shares": list(shares.values())}


def _shares(values: ConfigRecord) -> dict[str, float]:
    pairs = zip(fields.names(values["learning"]), fields.several(values["shares"]), strict=True)
    found = {site: fields.number(share) for site, share in pairs}
    if not all(0 < share <= 1 for share in found.values()):
        raise ValueError(f"shares of cases that are none: {list(found.values())}")
    return found
