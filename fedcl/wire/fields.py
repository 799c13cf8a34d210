"""What comes from the network is what it should be, or it is refused in one line."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from flwr.app import RecordDict

from fedcl.errors import FedclError, one_line
from fedcl.wire import limits

T = TypeVar("T")
P = ParamSpec("P")


class MalformedError(FedclError):
    """A message that is not what it should be."""


def read(cls: type, content: RecordDict) -> dict[str, dict[str, Any]]:
    """Return the words and numbers of a message, by record; see `limits.read`."""
    return limits.read(cls.__name__.lower(), content)


def checked(
    unpack: Callable[Concatenate[type[T], P], T],
) -> Callable[Concatenate[type[T], P], T]:
    """Turn whatever goes wrong in reading foreign records into `MalformedError`."""

    @wraps(unpack)
    def safe(cls: type[T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return unpack(cls, *arguments, **named)
        except Exception as error:  # foreign bytes can go wrong in any way
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise MalformedError(one_line(f"malformed {cls.__name__.lower()}: {reason}")) from error

    return safe
