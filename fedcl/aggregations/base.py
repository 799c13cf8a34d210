"""What every aggregation offers, and the way to Flower's own."""

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedcl import arrays
from fedcl.arrays import Arrays, as_type
from fedcl.errors import RunError

if TYPE_CHECKING:  # Flower takes half a second, and few rules need it
    from flwr.serverapp.strategy import FedAvg as FlowerFedAvg


@dataclass
class Aggregation(ABC):
    """A rule that joins updates; a subclass's fields are its settings.

    It is given only updates that are finite and of the model's shape, in site order.

    Attributes:
        averages: whether it joins by the mean, whatever the updates are.
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
