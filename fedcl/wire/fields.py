"""What comes from the network, read field by field: its type, and that it can be meant."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from flwr.app import MetricRecord, RecordDict

from fedcl.errors import FedclError

T = TypeVar("T")


class MalformedError(FedclError):
    """A message that is not what it should be."""


def checked(unpack: Callable[[type[T], RecordDict], T]) -> Callable[[type[T], RecordDict], T]:
    """Turn whatever goes wrong in reading foreign records into `MalformedError`."""

    @wraps(unpack)
    def safe(cls: type[T], content: RecordDict) -> T:
        try:
            return unpack(cls, content)
        except Exception as error:  # foreign bytes can go wrong in any way
            raise MalformedError(f"malformed {cls.__name__.lower()} ({error!r})") from error

    return safe


def whole(value: Any) -> int:
    """Return a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def count(value: Any) -> int:
    """Return a whole number from 0 on that can be meant for one."""
    if not 0 <= whole(value) <= 2**31:
        raise ValueError(f"{value} is none")
    return int(value)


def number(value: Any) -> float:
    """Return a number."""
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def several(value: Any) -> list[Any]:
    """Return a list."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def names(value: Any) -> list[str]:
    """Return a list of text."""
    return [str(name) for name in several(value)]


def seconds(numbers: MetricRecord, name: str = "seconds") -> float:
    """Return how long something took."""
    value = number(numbers[name])
    if not 0 <= value <= 1e8:
        raise ValueError(f"it took {value} s")
    return value


def effort(numbers: MetricRecord) -> dict[str, Any]:
    """Return what an answer took: wall and processor time, memory."""
    memory = whole(numbers["memory"])
    if not 0 <= memory <= 2**50:
        raise ValueError(f"{memory} bytes of memory")
    return {"seconds": seconds(numbers), "cpu": seconds(numbers, "cpu"), "memory": memory}
