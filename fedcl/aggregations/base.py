"""What every aggregation offers, and the way to Flower's own."""

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from fedcl import arrays
from fedcl.arrays import Arrays, as_type
from fedcl.errors import RunError

if TYPE_CHECKING:  # Flower takes half a second, and few rules need it
    from flwr.serverapp.strategy import FedAvg as FlowerFedAvg


class Join(Protocol):
    """What updates are given to, one after the other in site order, to be joined."""

    def add(self, update: Arrays, samples: int, /) -> None:
        """Take in one more.

        Args:
            update: arrays of the same keys and shapes as the others.
            samples: training samples.
        """

    def result(self) -> Arrays:
        """Return one set of arrays for all of them."""


class Collected:
    """A `Join` that keeps the updates until all are there.

    Args:
        rule: whose `join` gets them.
    """

    def __init__(self, rule: "Aggregation") -> None:
        self._rule = rule
        self._updates: list[Arrays] = []
        self._samples: list[int] = []

    def add(self, update: Arrays, samples: int) -> None:
        """See `Join.add`."""
        self._updates.append(update)
        self._samples.append(samples)

    def result(self) -> Arrays:
        """See `Join.result`."""
        return self._rule.join(self._updates, self._samples)


@dataclass
class Aggregation(ABC):
    """A rule that joins updates; a subclass's fields are its settings.

    It is given only updates that are finite and of the model's shape, in site order.

    Attributes:
        averages: whether it joins by the mean weighted by samples, whatever the updates are; then
            none of them has to be kept.
    """

    averages: ClassVar[bool] = False

    @property
    def least(self) -> int:
        """How many updates it needs."""
        return 1

    @abstractmethod
    def join(self, updates: Sequence[Arrays], samples: Sequence[int]) -> Arrays:
        """Return one set of arrays for many.

        Args:
            updates: arrays of equal keys and shapes, at least `least` of them.
            samples: training samples of each.
        """

    def begin(self, expected: int) -> Join:
        """Return what joins the updates of a round as they come.

        Args:
            expected: the training samples of all that were asked.
        """
        return arrays.Mean(expected) if self.averages else Collected(self)

    def move(
        self, old: Arrays, joined: Arrays, parameters: Container[str], momentum: Arrays
    ) -> tuple[Arrays, Arrays]:
        """Return the next global arrays and the momentum to carry on with.

        Args:
            old: the global arrays the sites started from.
            joined: what `join` returned.
            parameters: the keys that are trained; the others are statistics and counters,
                which are only ever joined.
            momentum: what this returned in the round before; empty in a stage's first.
        """
        return joined, momentum


def through_flower(
    rule: "FlowerFedAvg", updates: Sequence[Arrays], samples: Sequence[int]
) -> Arrays:
    """Return what a Flower strategy makes of the updates, each array in its own type.

    Counters (integers) are averaged apart from it: they say nothing about who is honest.

    Raises:
        RunError: the rule gave no answer.
    """
    from flwr.app import Message, MetricRecord, RecordDict

    from fedcl.wire import records

    real = {key for key, value in updates[0].items() if value.dtype.kind == "f"}
    counters = arrays.weighted_mean([arrays.split(u, real)[0] for u in updates], samples)
    updates = [arrays.split(update, real)[1] for update in updates]
    if not real:
        return counters
    replies = []
    for update, count in zip(updates, samples, strict=True):
        metrics = MetricRecord({rule.weighted_by_key: count})
        content = RecordDict({"arrays": records.to_record(update), "metrics": metrics})
        replies.append(Message(content, dst_node_id=1, message_type="train"))
    record, _ = rule.aggregate_train(1, replies)
    if record is None:
        raise RunError(f"aggregation: {type(rule).__name__} refused {len(updates)} updates")
    joined = records.from_record(record)
    moved = {key: as_type(joined[key], first.dtype) for key, first in updates[0].items()}
    return counters | moved
