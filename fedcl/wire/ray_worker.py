"""The process of a Ray cluster that answers for hospitals."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message

from fedcl.errors import RunError
from fedcl.wire import flower
from fedcl.wire.local_grid import answer, load_app

CONTEXT = 0.6e9
"""Bytes that CUDA itself takes of a GPU's memory for every process, or somewhat less."""


class Worker:
    """The process that answers for whichever node it is handed; a Ray actor.

    Args:
        app: see `LocalGrid`.
        threads: of torch.
        folders: which the nodes' data are in.

    Raises:
        RunError: a folder cannot be seen from here.
    """

    def __init__(self, app: str, threads: int, folders: Sequence[str] = ()) -> None:
        import ray

        missing = next((one for one in folders if not Path(one).exists()), None)
        if missing is not None:
            where = ray.util.get_node_ip_address()
            raise RunError(f"the node {where} does not see {missing}, where data lie")
        torch.set_num_threads(threads)
        flower.take_identity()
        logging.getLogger("flwr").handlers.clear()
        self.app = load_app(app)
        self.shared: dict[str, ArrayRecord] = {}
        self.trained = False

    def ready(self) -> bool:
        """Answer once the process has loaded the app."""
        return True

    def share(self) -> float | None:
        """Return the share of a GPU's memory that it takes; None before it has trained."""
        return self.taken() if self.trained else None

    def taken(self) -> float:
        """Return the share of a GPU's memory that it has taken so far."""
        total = torch.cuda.get_device_properties(0).total_memory
        return (torch.cuda.max_memory_reserved() + CONTEXT) / total

    def handle(
        self, items: list[tuple[Message, dict[str, Any], Context]]
    ) -> list[tuple[Message, float]]:
        """Answer messages whose array records wait in the object store; with the seconds taken."""
        import ray

        wanted = {ref.hex(): ref for _, refs, _ in items for ref in refs.values()}
        records = {key: self.shared.get(key) or ray.get(ref) for key, ref in wanted.items()}
        self.shared = records
        replies = []
        for message, refs, context in items:
            for name, ref in refs.items():
                message.content[name] = records[ref.hex()]
            started = time.perf_counter()
            reply = answer(self.app, message, context)
            self.trained |= message.metadata.message_type == "train" and reply.has_content()
            replies.append((reply, time.perf_counter() - started))
        return replies
