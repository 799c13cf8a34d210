"""Updates as they are: whoever runs the server may look at them."""

from dataclasses import dataclass

from fedcl.privacy.base import Privacy


@dataclass
class Plain(Privacy):
    """No protection."""
