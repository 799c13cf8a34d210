"""ClientApps for the tests of the grids; each named behaviour is a kind of hospital."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcl.errors import RunError
from fedcl.hospital.client_app import client_app
from fedcl.wire.answers import Hello, Report, Update

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Send the arrays back, with the node's name and the process; or misbehave as told."""
    node = context.node_config
    call = message.content.config_records.get("call", ConfigRecord())
    time.sleep(float(call.get("sleep", 0.0)))
    if node.get("raises"):
        raise ValueError(f"no luck at {node['site']}")
    if "dies" in node:  # as often as its diary says it has not died yet
        diary = Path(str(node["diary"]))
        deaths = len(diary.read_text()) if diary.exists() else 0
        if deaths < int(node["dies"]):
            diary.write_text("x" * (deaths + 1))
            os._exit(1)
    if node.get("hangs"):
        time.sleep(600)
    about = ConfigRecord({"site": str(node["site"]), "process": os.getpid()})
    arrays = message.content.array_records.get("arrays", ArrayRecord())
    return Message(RecordDict({"about": about, "arrays": arrays}), reply_to=message)


HONEST = client_app()
rogue = ClientApp()
"""The real hospitals, but site D misbehaves in its second training as its node says."""


@rogue.query("hello")
def rogue_hello(message: Message, context: Context) -> Message:
    """Answer as the real one does, but for how many samples there are, if the node says so."""
    reply = HONEST(message, context)
    claims = context.node_config.get("claims")
    if claims is None:
        return reply
    hello = Hello.unpack(reply.content)
    return Message(replace(hello, samples=int(str(claims))).pack(), reply_to=message)


@rogue.evaluate()
def rogue_evaluate(message: Message, context: Context) -> Message:
    """Answer as the real one does."""
    return HONEST(message, context)


@rogue.query("report")
def rogue_report(message: Message, context: Context) -> Message:
    """Answer as the real one does, or as the node's configuration says."""
    reply = HONEST(message, context)
    spoil = context.node_config.get("report")
    if spoil is None:
        return reply
    report = Report.unpack(reply.content)
    told = {key: SPOILT_REPORT[str(spoil)](value) for key, value in report.arrays.items()}
    if spoil == "keys":
        told = {"e/v/il": np.ones(1, np.float32)}
    return Message(replace(report, arrays=told).pack(), reply_to=message)


SPOILT_REPORT = {
    "keys": lambda value: value,
    "shape": lambda value: value[..., None],
    "negative": lambda value: value - 1000,
    "huge": lambda value: value + 3e38,
    "nan": lambda value: value * np.nan,
}


@rogue.train()
def rogue_train(message: Message, context: Context) -> Message:
    """Spoil the updates of the round that the node's configuration names, or from one on."""
    node, round_ = context.node_config, int(str(message.content["request"]["round"]))
    if round_ not in (node.get("bad-round"), max(round_, int(str(node.get("bad-from", 1000))))):
        return HONEST(message, context)
    spoil = str(node["spoil"])
    if spoil == "loss":
        raise RunError("the loss is not finite (seg)")
    update = Update.unpack(HONEST(message, context).content)
    if spoil == "claims":
        return Message(replace(update, samples=int(str(node["claims"]))).pack(), reply_to=message)
    weights = dict(update.arrays)
    key = sorted(weights)[0]
    if spoil == "nan":
        weights[key] = weights[key] * np.nan
    elif spoil == "shape":
        weights[key] = weights[key][..., None]
    elif spoil == "missing":
        del weights[key]
    elif spoil == "huge":
        weights = {key: np.float32(3e38) * np.sign(value) for key, value in weights.items()}
    elif spoil == "loud":  # the same answers, with a loss that no number can tell
        last = [key for key in weights if key.startswith("model.2.1.")]
        weights |= {key: np.float32(1e37) * weights[key] for key in last}
    content = replace(update, arrays=weights).pack()
    if spoil == "empty":
        content = RecordDict()
    elif spoil == "weightless":
        content = replace(update, samples=0).pack()
    return Message(content, reply_to=message)
