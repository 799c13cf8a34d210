"""Hospitals that fail on purpose: how robust is a method to them? In simulation only.

The app answers as that of `fedcl.hospital.client_app` does, but its training misbehaves as the
node's own configuration says. What happens follows from (seed, site, round, attempt).
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedcl.arrays import Arrays
from fedcl.config.faults import STRAGGLE, Plan
from fedcl.errors import TooLateError
from fedcl.hospital.cache import Cache
from fedcl.hospital.client_app import client_app
from fedcl.wire import records
from fedcl.wire.answers import Update
from fedcl.wire.requests import TrainRequest


def faulty_app(cache: Cache | None = None) -> ClientApp:
    """Return the app of a hospital that fails as its node's configuration says."""
    made, real = ClientApp(), client_app(cache)

    @made.train()
    def train(message: Message, context: Context) -> Message:
        """Train as the real one does, or not."""
        node = context.node_config
        call = TrainRequest.unpack(message.content)
        plan = Plan(*json.loads(str(node.get("faults", "[0, 1, {}]"))))
        kind = plan.draw(str(node["site"]), call.round, call.attempt)
        if kind == "crash":
            raise RuntimeError("crashed, as faults.crash asks for")
        if kind == "hang":
            raise TooLateError("no answer before the deadline, as faults.hang asks for")
        reply = real(message, context)
        if kind is None:
            return reply
        if kind == STRAGGLE:
            raise TooLateError(
                "its answer came after the deadline, as timeline.stragglers asks for"
            )
        update = Update.unpack(reply.content)
        spoilt = SPOIL[kind](update.arrays, records.from_record(call.arrays), plan.factor)
        return Message(replace(update, arrays=spoilt).pack(), reply_to=message)

    for register in (made.evaluate(), made.query("hello"), made.query("report")):
        register(lambda message, context: real(message, context))
    return made


def _one(update: Arrays, change: Any) -> Arrays:
    """Return an update of which one array, the first by name, is changed."""
    key = min(key for key, array in update.items() if array.dtype.kind == "f")
    return update | {key: change(update[key])}


def _moved(update: Arrays, before: Arrays, factor: float) -> Arrays:
    """Return an update whose change of the weights is `factor` times as large."""
    with np.errstate(over="ignore", invalid="ignore"):  # what cannot be is refused as such
        return {
            key: (before[key] + np.float32(factor) * (array - before[key])).astype(array.dtype)
            if array.dtype.kind == "f" and key in before
            else array
            for key, array in update.items()
        }


SPOIL = {
    "nan": lambda update, before, factor: _one(update, lambda array: array * np.nan),
    "shape": lambda update, before, factor: _one(update, lambda array: array[..., None]),
    "flip": lambda update, before, factor: _moved(update, before, -1.0),
    "scale": lambda update, before, factor: _moved(update, before, factor),
}
