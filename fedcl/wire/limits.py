"""How much of everything a message may hold: one table, for what either side is sent.

`read` goes through a message by it before anything is decoded. What is not in the table is not
taken: no further record, no further key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from flwr.app import ArrayRecord, Error, RecordDict
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from fedcl.errors import one_line
from fedcl.wire import records

CACHED = ("teacher", "memory")
"""What a site may have been sent before, and then is sent the digest of."""
RUN = r"run-\d{1,20}"
"""The name of a run: never empty, which would be the folder of all runs."""
NOTES, NOTE = 20, 500
"""Notes on its data that a hospital may send, and how long one may be."""
MEASURES, LIMIT = 8, 1e9
"""Numbers that a scenario setting can be made of, and what each of them is below."""
CASES = 20_000
"""Validation or test cases of a hospital."""
SITES = 10_000
"""Sites of a run, stages, and versions of what a site keeps for itself."""
DETAILS = 10_000
"""Signs of an error that are kept after its first line."""
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

Site = Annotated[str, Field(min_length=1, max_length=100)]
Model = Annotated[str, Field(min_length=1, max_length=100)]
Case = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}]*$")]
Line = Annotated[str, Field(max_length=NOTE)]
Digest = Annotated[str, Field(max_length=64, pattern=r"^\w*$")]
Job = Annotated[str, Field(max_length=2**20)]
Run = Annotated[str, Field(max_length=24, pattern=f"^({RUN})?$")]
Name = Annotated[str, Field(max_length=50, pattern=r"^\w[\w.-]*$")]
Part = Literal["teacher", "memory"]

Count = Annotated[int, Field(ge=0, le=2**31)]
Samples = Annotated[int, Field(ge=0, le=10**10)]
Seconds = Annotated[float, Field(ge=0, le=1e8)]
Memory = Annotated[int, Field(ge=0, le=2**50)]
Loss = Annotated[float, Field(ge=-1e30, le=1e30)]
Score = Annotated[float, Field(ge=-1e6, le=1e6)]
Measure = Annotated[float, Field(gt=-LIMIT, lt=LIMIT)]
Place = Annotated[float, Field(ge=-1e16, le=1e16)]
Share = Annotated[float, Field(gt=0, le=1)]
Parts = Annotated[list[Part], Field(max_length=len(CACHED))]
Sites = Annotated[list[Site], Field(max_length=SITES)]
Versions = Annotated[list[Count], Field(max_length=SITES)]


@dataclass(frozen=True)
class Values:
    """What a record of words and numbers may hold.

    Attributes:
        kind: checks all of it.
        most: keys.
    """

    kind: TypeAdapter[Any]
    most: int


@dataclass(frozen=True)
class Bundle:
    """A record of named arrays; see `records.check` for how many, and how large.

    Attributes:
        needed: whether it must be there.
    """

    needed: bool = True


def _values(**fields: Any) -> Values:
    """Return the record that has exactly these keys."""
    made: Any = TypedDict("record", fields)  # type: ignore[misc]
    made.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    return Values(TypeAdapter(made), len(fields))


def _named(kind: Any, most: int) -> Values:
    """Return the record of any names, each with a value of one kind."""
    named: Any = Annotated[dict[Name, kind], Field(max_length=most)]
    return Values(TypeAdapter(named, config=STRICT), most)


EFFORT: dict[str, Any] = {"seconds": Seconds, "cpu": Seconds, "memory": Memory}
"""What every answer says of the work behind it."""
REQUEST: dict[str, Any] = {
    "job": Job, "model": Model, "run": Run, "arrived": Sites, "state": Count, "data": Digest,
    "sizes": Annotated[list[Annotated[int, Field(ge=0, le=SITES)]], Field(max_length=SITES)],
}  # fmt: skip
"""What every request says."""
SHARES: dict[str, Any] = {
    "learning": Sites,
    "shares": Annotated[list[Share], Field(max_length=SITES)],
}

MESSAGES: Mapping[str, Mapping[str, Values | Bundle]] = {
    "greeting": {"job": _values(json=Job)},
    "hello": {
        "hello": _values(
            site=Site,
            error=Line,
            digest=Annotated[str, Field(max_length=64 * SITES, pattern=r"^\w*$")],  # of a pool
            train=Annotated[int, Field(ge=0, le=10**7)],
            val=Annotated[int, Field(ge=0, le=10**7)],
            test=Annotated[int, Field(ge=0, le=10**7)],
            samples=Samples,
            shape=Annotated[list[Annotated[int, Field(ge=1, le=8192)]], Field(max_length=4)],
            notes=Annotated[list[Line], Field(max_length=NOTES)],
            source=Annotated[list[Place], Field(max_length=25)],
            measured=Annotated[list[Measure], Field(max_length=MEASURES)],
        )
    },
    "missing": {"missing": _values(records=Parts)},
    "update": {
        "arrays": Bundle(),
        "numbers": _values(
            round=Count,
            samples=Annotated[int, Field(ge=1, le=10**10)],
            stored=Samples,
            **EFFORT,
        ),
        "losses": _named(Loss, 50),
        "words": _values(kept=Digest, holds=Annotated[list[Digest], Field(max_length=len(CACHED))]),
    },
    "report": {
        "arrays": Bundle(),
        "numbers": _values(samples=Annotated[int, Field(ge=1, le=10**10)], **EFFORT),
    },
    "scored": {
        "numbers": _values(predicting=Seconds, **EFFORT),
        "scores": _named(Annotated[list[Score], Field(min_length=1, max_length=CASES)], 4096),
        "names": _values(cases=Annotated[list[Case], Field(min_length=1, max_length=CASES)]),
    },
    "trainrequest": {
        "request": _values(
            **REQUEST,
            **SHARES,
            digests=Annotated[list[Digest], Field(min_length=len(CACHED), max_length=len(CACHED))],
            keep=Parts,
            needed=Versions,
            lost=Sites,
            rehearsing=Sites,
            stage=Count,
            round=Count,
            rounds=Annotated[int, Field(ge=1, le=2**31)],
            attempt=Count,
        ),
        "arrays": Bundle(),
        **dict.fromkeys(CACHED, Bundle(needed=False)),
    },
    "evaluaterequest": {
        "request": _values(**REQUEST, split=Literal["val", "test"]),
        "arrays": Bundle(),
    },
    "reportrequest": {"request": _values(**REQUEST, **SHARES), "arrays": Bundle()},
    "forgetrequest": {
        "forget": _values(
            run=Annotated[str, Field(max_length=24, pattern=f"^{RUN}$")],
            successor=Run,
            versions=Versions,
            delete=bool,
        )
    },
    "kept": {
        "kept": _values(
            site=Site,
            deleted=Count,
            versions=Versions,
            digests=Annotated[list[Digest], Field(max_length=SITES)],
        )
    },
}
"""By the name of its class every message, and what each of its records may hold."""


def read(message: str, content: RecordDict) -> dict[str, dict[str, Any]]:
    """Return the words and numbers of a message, by record; its arrays are checked alone.

    Args:
        message: one of `MESSAGES`.
        content: as it came.

    Raises:
        ValueError: it is not what it may be; says in one line what is not.
    """
    rules, found = MESSAGES[message], {}
    unknown = next((name for name in content if name not in rules), None)
    if unknown is not None:
        raise ValueError(f"{unknown[:50]!r} is no record of it")
    for name, rule in rules.items():
        record = content.get(name)
        if isinstance(rule, Bundle):
            if record is None and not rule.needed:
                continue
            if not isinstance(record, ArrayRecord):
                raise ValueError(f"{name}: no record of arrays")
            records.check(record)
        elif record is None or isinstance(record, ArrayRecord):
            raise ValueError(f"{name}: no record of words and numbers")
        elif len(record) > rule.most:
            raise ValueError(f"{name}: {len(record)} keys, at most {rule.most} may be")
        else:
            found[name] = _read(name, rule, record)
    return found


def _read(name: str, rule: Values, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record holds; raises `ValueError`, naming the key, for what it may not."""
    try:
        found: dict[str, Any] = rule.kind.validate_python(dict(record))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return found


def told(error: Error) -> str:
    """Return what an error says, as much as may be kept of it; details follow its first line."""
    first, _, details = str(error.reason or f"error {error.code}").strip().partition("\n")
    return one_line(first) + (f"\n{details[:DETAILS]}" if details else "")
