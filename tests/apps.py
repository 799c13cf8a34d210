"""ClientApps for the tests of the grids; each named behaviour is a kind of hospital."""

import os
import time
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

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
