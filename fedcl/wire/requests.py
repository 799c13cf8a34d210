"""What the server asks of hospitals: to train, to evaluate, to report.

`pack` and `unpack` turn a request into Flower records and back. What comes from the network is
checked here, once: `unpack` raises `MalformedError`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedcl.wire.fields import checked, read
from fedcl.wire.limits import CACHED
from fedcl.wire.records import Forms, forms_of

AnyRequest = TypeVar("AnyRequest", bound="Request")


@dataclass(frozen=True)
class Greeting:
    """Server to hospital, first of all: who are you, and what do you hold?

    Attributes:
        job: the `Job`, as JSON.
    """

    TYPE: ClassVar[str] = "query.hello"

    job: str

    def pack(self) -> RecordDict:
        """Return the records."""
        return RecordDict({"job": ConfigRecord({"json": self.job})})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> Self:
        """Read the records."""
        return cls(read(cls, content)["job"]["json"])


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
        data: digest of the site's data when it came into the run; empty where that is not known.
    """

    TYPE: ClassVar[str]
    """Of the Flower message."""

    job: str
    model: str
    arrays: ArrayRecord
    run: str = ""
    arrivals: list[list[str]] = field(default_factory=list)
    state: int = 0
    data: str = ""

    @property
    def arrived(self) -> list[str]:
        """The sites that have, in order of arrival."""
        return [site for stage in self.arrivals for site in stage]

    @property
    def records(self) -> dict[str, ArrayRecord | None]:
        """What it carries besides names and numbers."""
        return {"arrays": self.arrays}

    @property
    def answered(self) -> Forms:
        """What the arrays of the answer must be."""
        return {}

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
        return cls(**cls._read(content, read(cls, content)["request"]))

    def _values(self) -> dict[str, Any]:
        """Return names and numbers, as a `ConfigRecord` takes them."""
        return {
            "job": self.job,
            "model": self.model,
            "run": self.run,
            "arrived": self.arrived,
            "sizes": [len(stage) for stage in self.arrivals],
            "state": self.state,
            "data": self.data,
        }

    @classmethod
    def _read(cls, content: RecordDict, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes that records give, their words and numbers being `values`."""
        if sum(values["sizes"]) != len(values["arrived"]):
            raise ValueError("stages that are none")
        left = iter(values["arrived"])
        return {
            **{name: values[name] for name in ("job", "model", "run", "state", "data")},
            "arrays": content.array_records["arrays"],
            "arrivals": [[next(left) for _ in range(size)] for size in values["sizes"]],
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
        lost: the sites of earlier stages that have never delivered anything, and those of this one
            that have not by now.
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
    def answered(self) -> Forms:
        """See `Request.answered`: what is trained."""
        return forms_of(self.arrays)

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
    def _read(cls, content: RecordDict, values: Mapping[str, Any]) -> dict[str, Any]:
        own = ("keep", "needed", "lost", "rehearsing", "stage", "round", "rounds", "attempt")
        pairs = zip(CACHED, values["digests"], strict=True)
        return super()._read(content, values) | {
            **{name: content.array_records.get(name) for name in CACHED},
            **{name: values[name] for name in own},
            "digests": {name: digest for name, digest in pairs if digest},
            "shares": _shares(values),
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
    def _read(cls, content: RecordDict, values: Mapping[str, Any]) -> dict[str, Any]:
        return super()._read(content, values) | {"split": values["split"]}


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Request):
    """To tell of a stage what the strategy wants to know besides weights.

    Attributes:
        shares: see `TrainRequest`.
        forms: shapes of what is to be told, which are not sent: a hospital has the same strategy.
    """

    TYPE: ClassVar[str] = "query.report"

    shares: dict[str, float] = field(default_factory=dict)
    forms: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def answered(self) -> Forms:
        """See `Request.answered`."""
        return {name: ("float32", shape) for name, shape in self.forms.items()}

    def _values(self) -> dict[str, Any]:
        return super()._values() | _packed(self.shares)

    @classmethod
    def _read(cls, content: RecordDict, values: Mapping[str, Any]) -> dict[str, Any]:
        return super()._read(content, values) | {"shares": _shares(values)}


def _packed(shares: Mapping[str, float]) -> dict[str, Any]:
    return {"learning": list(shares), "shares": list(shares.values())}


def _shares(values: Mapping[str, Any]) -> dict[str, float]:
    return dict(zip(values["learning"], values["shares"], strict=True))
