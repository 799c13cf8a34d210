"""What a SuperLink knows of its hospitals, asked through the interface that `flwr` uses.

Flower 1.41 offers it to its own commands alone, and those leave out the hospitals' names.
"""

import datetime
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor

from fedcl.errors import ConfigError, RunError, one_line


@dataclass(frozen=True)
class Node:
    """A hospital as the SuperLink sees it.

    Attributes:
        site: the name that it is registered under; its number where it has none.
        state: "online", "offline", or "registered" where it has never been there.
        since: when that began, ISO 8601 in UTC.
        heard: when it was last heard of; None where never.
    """

    site: str
    state: str
    since: str
    heard: str | None


def nodes(home: Path) -> list[Node]:
    """Return the hospitals that a SuperLink has registered, by name.

    Args:
        home: Flower's folder at the server, `FLWR_HOME`, with its `config.toml`.

    Raises:
        ConfigError: there is no SuperLink written down.
        RunError: it does not answer.
    """
    link = _connection(home)
    try:
        client = ControlHttpClient.from_server_address(
            server_address=link["address"],
            insecure=bool(link.get("insecure", False)),
            root_certificates=Path(link["root-certificates"]).read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="fedcl")],
        )
        try:
            found = client.ListNodes(ListNodesRequest()).nodes_info
        finally:
            client.close()
    except Exception as error:  # sockets, certificates, HTTP: Flower's client raises many kinds
        reason = one_line(str(error)) or type(error).__name__
        raise RunError(f"the SuperLink at {link['address']} does not answer ({reason})") from None
    there = [node for node in found if node.status != "unregistered"]
    return sorted(map(_told, there), key=lambda one: one.site)


def _told(node: NodeInfo) -> Node:
    """Return what is known of a node."""
    times = {"online": node.last_activated_at, "offline": node.last_deactivated_at}
    # A node is taken to be online until so many heartbeats after the last one have not come.
    patience = HEARTBEAT_PATIENCE * node.heartbeat_interval if node.status == "online" else 0.0
    heard = moment(node.online_until - patience) if node.online_until else None
    since = moment(times.get(node.status, node.registered_at))
    return Node(node.name or f"node {node.node_id}", node.status, since, heard)


def moment(when: str | float) -> str:
    """Return a time as ISO 8601 in UTC, to the second."""
    if isinstance(when, str):
        read = datetime.datetime.fromisoformat(when)
    else:
        read = datetime.datetime.fromtimestamp(when, datetime.UTC)
    return read.astimezone(datetime.UTC).isoformat(timespec="seconds")


def _connection(home: Path) -> dict[str, Any]:
    """Return where the SuperLink of a server is."""
    file = home / "config.toml"
    try:
        links = tomllib.loads(file.read_text())["superlink"]
        link = dict(next(iter(links.values())))
        link["address"], link["root-certificates"]
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        reason = one_line(str(error)) or type(error).__name__
        raise ConfigError(f"status: {file} names no SuperLink ({reason})") from None
    return link
