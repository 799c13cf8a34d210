"""A hospital's link to the SuperLink: where what Flower's SuperNodes are made of is used (1.41).

It is private to Flower. Of its program `flower-supernode` nothing is needed that executes an app:
what a run brings along can be looked at (`Link.bundle`), and that is all.
`tests/wire/test_supernode.py` notices when Flower changes what is used here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from click import ClickException
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.common.config import parse_config_args
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from fedcl.errors import ConfigError, RunError, one_line
from fedcl.wire import flower

NodeConfig = dict[str, Any]

SOON, LATER = 0.05, 1.0
"""Seconds between two tries at a part of a message that is not there yet: at first, and at most."""


class Link:
    """A hospital's link to the server, while it is open.

    Args:
        connection: what Flower gives a SuperNode.

    Attributes:
        node: the number that the SuperLink knows the hospital by.
    """

    def __init__(self, connection: tuple[Any, ...]) -> None:
        self.node: int = connection[0]
        self._receive, self._send, self._run, self._bundle = connection[1:5]
        self._pull, self._push, self._confirm = connection[5:]
        self._held: dict[str, bytes] = {}

    def receive(self) -> Message | None:
        """Return a message if there is one."""
        try:
            received = self._receive()
            if received is None:
                return None
            envelope, tree = received
            run = envelope.metadata.run_id
            pulled: dict[str, bytes] = {}
            message: Message = pull_and_inflate_object_from_tree(
                tree,
                partial(self._object, pulled, run),
                partial(self._confirm, run),
                return_type=Message,
                max_tries_per_object=None,
                initial_backoff=SOON,  # the server may be sending it still
                backoff_cap=LATER,
            )
        except RunNotRunningException:  # it has ended since
            return None
        flower.set_id(message, tree.object_id)
        self._held = pulled
        return message

    def _object(self, pulled: dict[str, bytes], run: int, digest: str) -> bytes:
        """Return a part of a message; what the last message had as well is not sent again.

        Weights that were validated are those that the next round begins with.
        """
        content = self._held.get(digest) or self._pull(run, digest)
        pulled[digest] = content
        return content

    def send(self, reply: Message, seconds: float) -> bool:
        """Send a reply that took so long to make; return whether its run goes on."""
        flower.set_id(reply, reply.object_id)
        run = reply.metadata.run_id
        try:
            with no_object_id_recompute():
                wanted, session = self._send(reply, get_object_tree(reply), seconds)
                push_objects(
                    get_all_nested_objects(reply),
                    partial(self._push, run, session),
                    object_ids_to_push=wanted,
                )
        except RunNotRunningException:
            return False
        return True

    def goes_on(self, run: int) -> bool:
        """Return whether a run has not ended."""
        try:
            self._run(run)
        except RunNotRunningException:
            return False
        return True

    def bundle(self, run: int) -> bytes:
        """Return the app that a run has brought along, a zip file; nothing of it is executed.

        Raises:
            RunError: the run has ended.
        """
        try:
            content: bytes = self._bundle(self._run(run).fab_hash, run).content
        except RunNotRunningException:
            raise RunError("the run has ended") from None
        return content


@contextmanager
def linked(address: str, certificate: Path, key: Path) -> Iterator[Link]:
    """Open a hospital's link to the server, and close it in order.

    Flower tries again for as long as the server is not there, and ends the program where the server
    does not let the hospital in.

    Args:
        address: of the server, as host:port.
        certificate: of the authority that signed the server's.
        key: the hospital's private key.

    Raises:
        ConfigError: `key` is none.
    """
    try:
        private = load_ssh_private_key(key.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{key}: cannot be read as a private key ({error})") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{key}: not a key of the kind that `fedcl deploy` makes (ecdsa)")
    problem: Exception | None = None
    with http_request_response(
        address, False, certificate.read_bytes(), (private, private.public_key())
    ) as connection:
        try:
            yield Link(connection)
        except Exception as error:  # Flower would keep it to itself
            problem = error
    if problem is not None:
        raise problem


def node_config(text: str) -> NodeConfig:
    """Read what `--node-config` says: key='text' key=number, separated by spaces.

    Raises:
        ConfigError: it is written otherwise.
    """
    try:
        return parse_config_args([text])
    except ClickException as error:
        raise ConfigError(f"hospital --node-config: {one_line(error.message)}") from None
