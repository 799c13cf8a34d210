"""Federated neural fields: the server fits the average to what the hospitals' fields say."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fedcl.arrays import Arrays, into_network, of_network
from fedcl.data.samples import joined
from fedcl.errors import ConfigError
from fedcl.learning import loop
from fedcl.learning.learner import Learner
from fedcl.learning.step import Lesson
from fedcl.learning.strategy import Requirements, RoundSummary, Strategy, Teaching
from fedcl.settings import setting
from fedcl.tasks.base import Labeller
from fedcl.tasks.field import Field


@dataclass
class FieldServerDistillation(Strategy):
    """Coordinates are a public transfer set: they say where a field is, and nothing of what.

    After every round the server averages the hospitals' fields, which is poor where they have
    moved far apart, and fits the average to each of them on that hospital's own coordinates
    and to the previous stage's field on earlier ones; for a hospital that has missed the round,
    the global field of the round before speaks. It reads each hospital's update:
    neither secure aggregation nor noise on updates can be had together with it.

    Attributes:
        steps, batch_size: of the server, per round.
        lr: the server's learning rate, falling to a tenth in the course of a round.
    """

    leaves = "the server reads every hospital's own field, not their average alone"

    steps: int = setting(600, low=1)
    batch_size: int = setting(1024, low=1, high=2**20)
    lr: float = setting(5e-4, above=0, high=1)

    @property
    def requirements(self) -> Requirements:
        """Every update, to be fitted to."""
        return Requirements(task=Field, every_update=True)

    @property
    def teaching(self) -> Teaching:
        """The global field at the end of the previous stage, at the server alone."""
        return Teaching(at_server=True)

    def check(self, task: Field, model: Any) -> None:
        """Raise `ConfigError` where every site has a volume of its own."""
        if not task.shared:
            raise ConfigError(
                "strategy: field_server_distillation fits one field to all sites' volumes, which "
                "must be parts of one; set scenario.shared=true or take strategy=finetune"
            )

    def refine(self, summary: RoundSummary) -> Arrays:
        """Return the average, fitted to the hospitals' fields and the previous global one."""
        task, network, speak = summary.task, summary.network, {*summary.updates, *summary.lost}
        heard = [site for site in summary.heard if site not in speak]
        earlier = [site for site in summary.earlier if site not in {*speak, *heard}]
        parts = []
        voices = [(weights, [site]) for site, weights in summary.updates.items()]
        for weights, sites in [*voices, (summary.before, heard), (summary.teacher, earlier)]:
            if sites:
                into_network(network, weights)
                labeller = Labeller(partial(task.answers, network), sites)
                parts.append(task.past([labeller], torch.device("cpu")))
        into_network(network, summary.joined)
        settings = Learner(steps=self.steps, batch_size=self.batch_size, lr=self.lr, amp=False)
        lesson = Lesson(task=task, student=network.requires_grad_(True), model=summary.model)
        samples, rate = joined(parts), lambda done: self.lr * 0.1**done
        loop.train(lesson, samples, settings, Strategy(), rate, summary.keys)
        return of_network(network)
