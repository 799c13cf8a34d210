"""What the operator of a SuperLink asks it: its hospitals, its runs, and to let others in.

It is the interface of the commands `flwr supernode` and `flwr ls`, private to Flower (1.41): they
show neither names nor keys, by which hospitals are told apart here.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run
from flwr.supercore.control import ControlHttpClient

from fedcl.errors import RunError, one_line


class Control:
    """A SuperLink on this machine.

    Args:
        client: Flower's own.
    """

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> list[NodeInfo]:
        """Return the hospitals that it lets in, those that have never been there included."""
        known = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [node for node in known if node.status != "unregistered"]

    def failed(self, count: int) -> list[Run]:
        """Return those of the latest runs, so many, that have failed, the latest first."""
        known = self._client.ListRuns(ListRunsRequest(limit=count)).run_dict.values()
        failed = [run for run in known if run.status.sub_status == "failed"]
        return sorted(failed, key=lambda run: run.finished_at, reverse=True)

    def register(self, key: bytes, site: str) -> None:
        """Let a hospital in: whoever has the private key to a public one, PEM."""
        self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=site))

    def unregister(self, node: NodeInfo) -> None:
        """Let a hospital in no more."""
        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))


@contextmanager
def controlled(address: str, certificate: Path, patience: float = 0.0) -> Iterator[Control]:
    """Open a link to the SuperLink, which may not have started yet.

    Args:
        address: as host:port.
        certificate: of the authority that signed its own.
        patience: seconds to wait for it.

    Raises:
        RunError: it does not answer, or not so.
    """
    deadline = time.monotonic() + patience
    root = certificate.read_bytes()
    try:
        with ControlHttpClient.from_server_address(address, False, root, []) as client:
            while True:
                try:
                    client.ListNodes(ListNodesRequest())
                    break
                except httpx.TransportError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(1)
            yield Control(client)
    except httpx.HTTPError as error:
        reason = one_line(str(error)) or type(error).__name__
        raise RunError(f"the SuperLink at {address} does not answer ({reason})") from None


def heard(node: NodeInfo) -> float | None:
    """Return when a hospital was last heard of, in seconds since 1970; None where never.

    It is taken to be there until so many heartbeats after its last one have not come.
    """
    if not node.online_until:
        return None
    there = node.status == "online"
    return node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval * there
