"""Where Flower's private attributes are touched (1.41); besides only in `supernode`.

Outside of Flower's own runtime a message needs an identity to be made, and an id that only the
SuperLink gives.
"""

from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity


def take_identity() -> None:
    """Let this process make messages outside of Flower's runtime."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


def set_id(message: Message, number: str) -> None:
    """Give a message its id."""
    message.metadata.__dict__["_message_id"] = number


def same_with(message: Message, content: RecordDict) -> Message:
    """Return the same message, its id included, with another content."""
    other = Message(
        content,
        dst_node_id=message.metadata.dst_node_id,
        message_type=message.metadata.message_type,
    )
    other.__dict__["_metadata"] = message.metadata
    return other
