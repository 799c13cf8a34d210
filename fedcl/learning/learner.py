"""The budget of a hospital's training."""

from dataclasses import dataclass, field
from typing import Any

from fedcl.errors import ConfigError
from fedcl.settings import setting


@dataclass
class Learner:
    """How a hospital trains in one round.

    Attributes:
        lr: the learning rate that a stage begins with: one number, or one per stage (the last one
            repeats).
        batch_size: samples per step.
        epochs: passes over the site's training samples per round.
        steps: gradient steps per round; replaces `epochs` when given.
        clip: largest gradient norm; null for no clipping.
        keep: "last": what a round or a stage ends with counts; "best": of a round, a site sends
            back the weights of the epoch that did best on its validation cases; "best_round": of a
            stage, the global model of the round counts that did best on the cohort's.
        device: "auto" (CUDA when there is one), "cpu" or "cuda".
        amp: bfloat16 mixed precision, on a GPU only.
        compile: let torch.compile write the network's code: some seconds per process and
            stage, then faster steps for networks of many small operations (SIREN, FINER).
        loaders: threads that read, cut out and vary samples ahead of training; results are the
            same with any number.
        threads: torch threads of a training process; one is fastest for small networks
            and keeps results the same from machine to machine.
    """

    lr: Any = field(default_factory=lambda: [0.002, 0.001])
    batch_size: int = setting(8, low=1, high=2**20)
    epochs: int = setting(2, low=1)
    steps: int | None = setting(None, low=1)
    clip: float | None = setting(None, above=0)
    keep: str = setting("last", choices=("last", "best", "best_round"))
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), effect=False)
    amp: bool = True
    compile: bool = setting(False, effect=False)
    loaders: int = setting(0, low=0, high=64, effect=False)
    threads: int = setting(1, low=1, high=1024, effect=False)

    def __post_init__(self) -> None:
        """Check the learning rates, which may be one number or a list."""
        for rate in self._rates():
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 10:
                raise ConfigError(f"learner.lr: must be a positive number, got {rate!r}")

    def _rates(self) -> list[Any]:
        return (self.lr or [self.lr]) if isinstance(self.lr, list) else [self.lr]

    def rate(self, stage: int) -> float:
        """Return the learning rate that `stage`, counted from 0, begins with."""
        rates = self._rates()
        return float(rates[min(stage, len(rates) - 1)])
