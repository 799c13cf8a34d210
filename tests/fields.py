"""Neural fields small enough to reckon by hand."""

from torch import nn

from fedcl.data.space import Part, Room, Space
from fedcl.registry import MODEL
from fedcl.seeding import seeded
from fedcl.tasks.field import Field

SPACE = Space((4, 1, 3, 5))


WHOLE = Part((0, 4), (0, 1), (0,))


def build(name: str, *parts: Part, space: Space = SPACE, **settings: object) -> nn.Module:
    with seeded("test"):
        return MODEL.make({"name": name, **settings}).build(Room(space, parts or (WHOLE,)))


def field(*kinds: str, **parts: Part) -> Field:
    return Field(SPACE, parts or {"A": WHOLE}, kinds or ("signal",))
