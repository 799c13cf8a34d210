"""What hospitals are asked when one of them is to be forgotten, and what they answer."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from flwr.app import ConfigRecord, RecordDict

from fedcl.errors import one_line
from fedcl.wire.fields import checked, read


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
        request = cls(**read(cls, content)["forget"])
        if request.run == request.successor:
            raise ValueError("a run cannot go on from itself")
        return request


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
        values = read(cls, content)["kept"]
        digests = dict(zip(values["versions"], values["digests"], strict=True))
        return cls(one_line(values["site"]), digests, values["deleted"])
