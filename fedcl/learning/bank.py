"""The models of earlier stages, where a method has them go on answering (`Teaching.bank`).

They lie in what the server remembers, as "bank/STAGE/NAME".
"""

from collections.abc import Mapping

import numpy as np
from torch import nn

from fedcl.arrays import Arrays, of_network, under

PREFIX = "bank/"


def kept(memory: Mapping[str, np.ndarray], stage: int, network: nn.Module) -> Arrays:
    """Return what a memory keeps of earlier stages' models, and the model of `stage`."""
    old = {key: value for key, value in memory.items() if key.startswith(PREFIX)}
    return old | {f"{PREFIX}{stage}/{key}": one for key, one in of_network(network).items()}


def read(memory: Mapping[str, np.ndarray], stages: int) -> list[Arrays]:
    """Return the models of the first `stages` stages."""
    return [under(f"{PREFIX}{stage}/", memory) for stage in range(stages)]
