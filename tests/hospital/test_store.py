"""A teacher is sent to a site once per stage; a site that has lost it says so and gets it again."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from fedcl import arrays
from fedcl.app.simulation import APP, nodes_of
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import RunError
from fedcl.hospital import store
from fedcl.hospital.cache import Cache
from fedcl.hospital.store import Received
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.wire.local_grid import InProcessGrid
from fedcl.wire.records import digest
from tests.conftest import TINY


def record(**values: object) -> ArrayRecord:
    return ArrayRecord({key: Array(np.float32(value)) for key, value in values.items()})


def test_the_digest_tells_names_shapes_and_values_apart():
    same = [record(a=[1, 2], b=[3]), record(b=[3], a=[1, 2])]
    others = [record(a=[1, 2], c=[3]), record(a=[[1, 2]], b=[3]), record(a=[1], b=[2, 3])]
    assert len({digest(one) for one in same}) == 1
    assert len({digest(one) for one in [*same, *others]}) == 4


def test_what_is_kept_comes_back_until_it_is_damaged(tmp_path: Path):
    kept, one = Received(tmp_path / "new", Cache()), record(a=[1, 2])
    mark = digest(one)
    assert not kept.has(mark) and kept.get(mark) is None
    kept.put(mark, one)
    kept.put(mark, one)
    assert kept.has(mark) and [p.name for p in (tmp_path / "new").iterdir()] == [
        f"{mark}.safetensors"
    ]
    found = kept.get(mark)
    assert found is not None and found["a"].numpy().tolist() == [1, 2]
    arrays.save_file(tmp_path / "new" / f"{mark}.safetensors", {"a": np.float32([1, 9])})
    kept = Received(tmp_path / "new", Cache())
    assert kept.get(mark) is None and not kept.has(mark)


def test_the_last_ones_asked_for_are_kept(tmp_path: Path):
    kept = Received(tmp_path, Cache())
    records = [record(a=[number]) for number in range(store.FILES + 2)]
    for number, one in enumerate(records):
        kept.put(digest(one), one)
        os.utime(tmp_path / f"{digest(one)}.safetensors", (number + 1000, number + 1000))
        if number == store.FILES - 1:
            kept.get(digest(records[0]))
    there = [number for number, one in enumerate(records) if kept.has(digest(one))]
    assert len(there) == store.FILES and 0 in there and 1 not in there


def test_what_a_killed_process_left_half_written_goes_as_well(tmp_path: Path):
    kept = Received(tmp_path, Cache())
    one = record(a=[1])
    left = tmp_path / f"{digest(one)}.safetensors.0123.part"
    left.write_bytes(b"half")
    os.utime(left, (1000, 1000))
    assert not kept.has(digest(one))
    for number in range(store.FILES):
        kept.put(digest(record(a=[number])), record(a=[number]))
    assert not left.exists() and len(list(tmp_path.iterdir())) == store.FILES


@pytest.mark.parametrize("mark", ["../../etc/passwd", "A" * 64, "0" * 63, ""])
def test_only_a_digest_names_a_file(tmp_path: Path, mark: str):
    with pytest.raises(RunError, match="is no digest"):
        Received(tmp_path, Cache()).get(mark)


def test_a_site_that_keeps_nothing_is_sent_all_every_time():
    one = record(a=[1])
    nowhere = Received(None, Cache())
    nowhere.put(digest(one), one)
    assert not nowhere.has(digest(one)) and nowhere.get(digest(one)) is None


class Forgetful(InProcessGrid):
    """A grid whose sites lose what they were sent before a given exchange of training."""

    def __init__(self, nodes: list, folder: Path, when: int) -> None:
        super().__init__(APP, nodes)
        self.folder, self.when, self.exchanges = folder, when, 0

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        self.exchanges += messages[0].metadata.message_type == "train"
        if self.exchanges == self.when:
            shutil.rmtree(self.folder, ignore_errors=True)
            vars(self).pop("loaded", None)  # a process started anew
            self.when = 0
        return super().send_and_receive(messages, timeout=timeout)


@pytest.mark.parametrize("strategy", ["ted", "ewc"])
def test_a_site_that_lost_it_gets_it_in_the_same_round(tmp_path: Path, strategy: str):
    settings = ["timeline.stages=[[A,B],[C]]", "timeline.rounds=3"]
    config = Config.parse(compose([*TINY, f"strategy={strategy}", *settings]))
    done = {}
    for when in (0, 6):  # never; before the last round of the second stage
        folder = tmp_path / str(when)
        nodes = list(nodes_of(config, folder).values())
        grid = Forgetful(nodes, folder / "checkpoint" / "received", when)
        server = Server(grid, config, Checkpoint(folder / "checkpoint"))
        server.run(server.meet(), Clock())
        done[when] = outcome(config, server.state).values()
        kind = "teacher" if strategy == "ted" else "memory"
        done[when]["sent"] = done[when]["bytes_by_stage"][1][kind]
    assert done[6]["weights_sha256"] == done[0]["weights_sha256"]
    assert done[6]["failures"] == [] and "again" not in done[6]["reputation"]["C"]
    assert done[6]["sent"] == 2 * done[0]["sent"] > 0
