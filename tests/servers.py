"""A whole run over hospitals in this process, one of which may misbehave."""

from pathlib import Path

from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.wire.local_grid import InProcessGrid
from tests.conftest import TINY


def config(*overrides: str) -> Config:
    return Config.parse(compose([*TINY, *overrides]))


def serve(folder: Path, settings: Config, spoil: str | None, state: State | None = None) -> Server:
    """Run with a site D that spoils its update in round 3, the first of stage 2."""
    nodes: list[dict] = [{"site": site, "state-path": str(folder / site)} for site in "ABCDEF"]
    if spoil:
        nodes[3] |= {"spoil": spoil, "bad-round": 3}
    checkpoint = Checkpoint(folder / "checkpoint")
    server = Server(InProcessGrid("tests.apps:rogue", nodes), settings, checkpoint, state)
    server.run(server.meet(), Clock())
    return server
