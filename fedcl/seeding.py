"""Randomness derived from what is computed, never from process history.

Every random number comes from keys such as (seed, site, stage, round), so a retry, a
resume, another number of workers or another engine draws the same numbers. The global
generators of Python, NumPy and torch are never seeded; `seeded` borrows torch's and puts
it back.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # takes a second, and timelines are checked without it
    import torch

Key = str | int


def seed_for(*keys: Key) -> int:
    """Derive a 63-bit seed from `keys`: equal keys, equal seed; else independent."""
    digest = hashlib.sha256(json.dumps(keys).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(*keys: Key) -> np.random.Generator:
    """Return a NumPy generator seeded from `keys`."""
    return np.random.default_rng(seed_for(*keys))


def torch_rng(*keys: Key) -> "torch.Generator":
    """Return a CPU torch generator seeded from `keys`."""
    import torch

    return torch.Generator().manual_seed(seed_for(*keys))


@contextmanager
def seeded(*keys: Key) -> Iterator[None]:
    """Run a block with torch's own generators seeded from `keys`, then restore them.

    For code that draws from the global generator: weight initialisation, dropout.
    """
    import torch

    seed = seed_for(*keys)
    with torch.random.fork_rng():
        # By `torch.manual_seed` a stack trace would be written down for every kind of device.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        yield
