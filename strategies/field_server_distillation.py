"""Federated neural fields: the server fits the average to what the hospitals' fields say."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from fedcl import learner
from fedcl.arrays import into_network, of_network
from fedcl.config import Learner
from fedcl.field import Field
from fedcl.settings import setting
from fedcl.step import Lesson
from sites.base import Samples
from strategies.base import Arrays, Gathered, Strategy, Teacher


@dataclass
class FieldServerDistillation(Strategy):
    """Coordinates are a public transfer set: they say where a field is, and nothing of what.

    After every round the server averages the hospitals' fields and then fits the average, on
    all coordinates drawn evenly, to each hospital's field on that hospital's own coordinates
    and to the previous stage's global field on those of earlier stages. Averages of networks
    that have moved far apart are poor, which this mends: few long rounds are enough.

    It reads each hospital's update. Neither secure aggregation nor noise on updates can be
    had together with it.

    Attributes:
        steps: of the server, per round.
        batch_size: coordinates per step.
        lr: the server's learning rate, falling to a tenth in the course of a round.
    """

    needs: ClassVar[type] = Field
    sends_teacher: ClassVar[bool] = False

    steps: int = setting(300, low=1)
    batch_size: int = setting(1024, low=1)
    lr: float = setting(5e-4, above=0, high=1)

    @property
    def teaching(self) -> Teacher:
        """The global field of the previous stage, at the server alone."""
        return Teacher()

    def refine(self, gathered: Gathered) -> Arrays:
        """Return the average, fitted to the hospitals' fields and the previous global one."""
        task, network = gathered.task, gathered.network
        earlier = [site for stage in gathered.stages[:-1] for site in stage]
        voices = [(weights, [site]) for site, weights in gathered.updates.items()]
        if earlier:
            voices.append((gathered.teacher, earlier))
        parts = []
        for weights, sites in voices:
            into_network(network, weights)
            parts.append(task.past(sites, partial(task.answers, network), torch.device("cpu")))
        into_network(network, gathered.joined)
        settings = Learner(steps=self.steps, batch_size=self.batch_size, decay=0.1, amp=False)
        learner.train(
            Lesson(task=task, student=network.requires_grad_(True)),
            Samples.joined(parts),
            settings,
            Strategy(),
            lambda share: self.lr * settings.decay**share,
            gathered.rng,
        )
        return of_network(network)
