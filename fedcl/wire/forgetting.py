"""What hospitals are asked when one of them is to be forgotten, and what they answer."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flwr.app import ConfigRecord, RecordDict

from fedcl.errors import one_line
from fedcl.wire import fields
from fedcl.wire.fields import checked

RUN = r"run-\d{1,20}"
"""The name of a run: never empty, which would be the folder of all runs."""
MOST = 10_000
"""Versions of what a hospital keeps that can be asked for at once: a run has no more stages."""


@dataclass(frozen=True)
class ForgetRequest:
    """To say what is still kept of a run, to take it over into another, to delete all of it.

    Attributes:
        run: the name of the run.
        successor: of the run that goes on from it; empty, and nothing is taken over.
        versions: of the site's own state that are asked for, and taken over.
        delete: whether all is deleted that is kept of the run, and all that was received.
    """

    TYPE: ClassVar[str] = "query.forget"

    run: str
    successor: str = ""
    versions: list[int] = field(default_factory=list)
    delete: bool = False

    def pack(self) -> RecordDict:
        """Return the records."""
        values: dict[str, Any] = {**vars(self)}
        return RecordDict({"forget": ConfigRecord(values)})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> "ForgetRequest":
        """Read the records."""
        record = content.config_records["forget"]
        run, successor = str(record["run"]), str(record["successor"])
        if not re.fullmatch(RUN, run) or not re.fullmatch(f"({RUN})?", successor):
            raise ValueError("the name of no run")
        if run == successor:
            raise ValueError("a run cannot go on from itself")
        versions = [fields.count(one) for one in fields.several(record["versions"])]
        if len(versions) > MOST or not isinstance(record["delete"], bool):
            raise ValueError("more than can be asked for")
        return cls(run, successor, versions, record["delete"])


@dataclass(frozen=True)
class Kept:
    """Hospital to server: what it has kept of a run.

    Attributes:
        site: its name.
        digests: by version asked for, of those that are there and whole.
        deleted: how many files it has deleted.
    """

    site: str
    digests: dict[int, str] = field(default_factory=dict)
    deleted: int = 0

    def pack(self) -> RecordDict:
        """Return the records."""
        values: dict[str, Any] = {"site": self.site, "deleted": self.deleted}
        values |= {"versions": list(self.digests), "digests": list(self.digests.values())}
        return RecordDict({"kept": ConfigRecord(values)})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> "Kept":
        """Read the records."""
        record = content.config_records["kept"]
        versions = [fields.count(one) for one in fields.several(record["versions"])]
        digests = dict(zip(versions, fields.names(record["digests"]), strict=True))
        if len(digests) > MOST:
            raise ValueError("more than was asked for")
        return cls(one_line(str(record["site"])), digests, fields.count(record["deleted"]))
