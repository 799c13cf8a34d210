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
from strategies.base import Arrays, Distilling, Gathered, Strategy


@dataclass
class FieldServerDistillation(Distilling):
    """Coordinates are a public transfer set: they say where a field is, and nothing of what.

    After every round the server averages the hospitals' fields, which is poor where they have
    moved far apart, and fits the average to each of them on that hospital's own coordinates
    and to the previous stage's field on earlier ones. It reads each hospital's update:
    neither secure aggregation nor noise on updates can be had together with it.

    Attributes:
        steps, batch_size: of the server, per round.
        lr: the server's learning rate, falling to a tenth in the course of a round.
    """

    needs: ClassVar[type] = Field
    sends_teacher: ClassVar[bool] = False
    reads_updates: ClassVar[bool] = True

    steps: int = setting(600, low=1)
    batch_size: int = setting(1024, low=1)
    lr: float = setting(5e-4, above=0, high=1)

    def refine(self, gathered: Gathered) -> Arrays:
        """Return the average, fitted to the hospitals' fields and the previous global one."""
        task, network, parts = gathered.task, gathered.network, []
        earlier = [site for stage in gathered.stages[:-1] for site in stage]
        voices = [(weights, [site]) for site, weights in gathered.updates.items()]
        for weights, sites in [*voices, (gathered.teacher, earlier)]:
            if sites:
                into_network(network, weights)
                parts.append(task.past(sites, partial(task.answers, network), torch.device("cpu")))
        into_network(network, gathered.joined)
        settings = Learner(
            steps=self.steps, batch_size=self.batch_size, lr=self.lr, decay=0.1, amp=False
        )
        lesson = Lesson(task=task, student=network.requires_grad_(True))
        rate = partial(settings.rate, 0)
        learner.train(lesson, Samples.joined(parts), settings, Strategy(), rate, gathered.rng)
        return of_network(network)
