"""A model of the registry as MLflow serves it: `mlflow.pyfunc.load_model("models:/NAME@released")`.

It answers samples as networks are shown them, prepared; `fedcl predict` answers files.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedcl.release.about import About
from fedcl.release.trained import WEIGHTS, Trained, assembled


class Served:
    """What MLflow asks for answers."""

    def __init__(self, one: Trained) -> None:
        self.one = one

    def predict(self, samples: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return class probabilities, shape (N, K, ...), of samples, shape (N, C, ...)."""
        inputs = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
        answers: np.ndarray = self.one.task.answers(self.one.answering, inputs).numpy()
        return answers


def _load_pyfunc(path: str) -> Served:
    """Return the model in a folder; MLflow asks for it by this name."""
    about = About.read(Path(path))
    return Served(assembled(about, Path(path) / WEIGHTS, about.site, about.architecture))
