"""The model that a round begins from, as a second teacher (`strategy.teacher.refresh=both`)."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedcl.data.samples import Stacked
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.learning.loop import train
from fedcl.learning.step import Lesson
from fedcl.learning.strategy import Teaching, declared
from fedcl.models.base import Model
from fedcl.registry import SCENARIO
from tests.conftest import TINY, read
from tests.small import TASK, ce, logits, make, step
from tests.summaries import Line

BOTH = {"refresh": "both", "drift": 2.0}


def answer(*probabilities: float) -> torch.Tensor:
    return logits(*probabilities).softmax(1)


def test_it_is_the_weighted_cross_entropy_with_what_the_model_said_before():
    here = step(logits(0.8, 0.3), None, before=lambda inputs: answer(0.6, 0.4), drift=2.0)
    value = here.drift_loss()["drift"].item()
    assert value == pytest.approx(2 * (ce(0.6, 0.8) + ce(0.4, 0.3)) / 2, rel=1e-5)


def test_what_was_computed_ahead_is_taken_for_samples_by_their_index():
    every = answer(0.6, 0.4).repeat(3, 1, 1, 1)
    every[2] = answer(0.9, 0.1)[0]
    index = torch.tensor([2])
    known = {"before": lambda inputs: answer(0.5, 0.5), "answers_before": lambda i: every[i]}
    value = step(logits(0.8, 0.3), None, index=index, drift=1.0, **known).drift_loss()["drift"]
    assert value.item() == pytest.approx((ce(0.9, 0.8) + ce(0.1, 0.3)) / 2, rel=1e-5)
    changed = step(logits(0.8, 0.3), None, drift=1.0, **known).drift_loss()["drift"]
    assert changed.item() == pytest.approx((ce(0.5, 0.8) + ce(0.5, 0.3)) / 2, rel=1e-5)


def test_a_fields_is_the_squared_distance():
    task = SCENARIO.make({"name": "cine_domain"}).task
    outputs, answers = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [5.0]])
    assert task.distance(outputs, answers).item() == pytest.approx((1 + 4) / 2)


def test_both_is_the_stages_teacher_and_the_rounds():
    assert make("ted", teacher=BOTH).teaching == Teaching("stage", drift=2.0)
    for key, user in (("drift", "both"), ("decay", "ema")):
        with pytest.raises(ConfigError, match=f"^strategy.teacher.{key}: only .*refresh={user}"):
            make("ted", teacher={key: 0.5})
    assert "drift" in declared(TASK, make("mib", teacher=BOTH), Model())
    assert "drift" not in declared(TASK, make("mib"), Model())


@pytest.mark.parametrize("strategy", ["lwf", "ted", "cauaug", "mib", "souvenir"])
def test_every_method_that_distils_has_it_in_its_loss(strategy: str):
    """In a stage without a teacher, so that the term is the only one beside the task's."""
    rng = torch.Generator().manual_seed(0)
    samples = Stacked(torch.randn(4, 1, 8, 8, generator=rng), torch.ones(4, 1, 8, 8).long())
    before = Line(1.0, -1.0)
    lesson = Lesson(task=TASK, student=Line(0.5), before=lambda x: before(x).softmax(1), drift=1.0)
    losses = train(
        lesson,
        samples,
        Learner(steps=1, batch_size=4),
        make(strategy, teacher=BOTH),
        lambda _: 0.1,
        (0,),
    )
    with torch.no_grad():
        wanted = F.cross_entropy(Line(0.5)(samples.inputs), before(samples.inputs).softmax(1))
    assert losses["drift"] == pytest.approx(wanted.item(), rel=1e-5)


def test_it_leaves_no_trace_in_running_statistics_of_what_a_method_does_not_show():
    """CauAug shows its student images seen through a random network, and so do its tests."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = Stacked(images, torch.ones(4, 1, 8, 8).long())
    lesson = Lesson(
        task=TASK, student=network, before=lambda x: torch.cat([x, -x], 1).softmax(1), drift=1.0
    )
    train(
        lesson, samples, Learner(steps=1, batch_size=4), make("cauaug", teacher=BOTH),
        lambda _: 0.1, (0,),
    )  # fmt: skip
    assert network[1].num_batches_tracked == 1


def test_from_the_second_round_on_it_keeps_hospitals_together(cli, tmp_path: Path):
    """Alone in the first round of a run there is nobody to stay near."""
    runs = {"stage": "refresh=stage", "none": "drift=0", "much": "drift=50"}
    updates = {}
    for name, setting in runs.items():
        both = ["strategy.teacher.refresh=both"] if name != "stage" else []
        given = ["strategy=lwf", *both, f"strategy.teacher.{setting}", f"run.dir={tmp_path / name}"]
        assert cli(*TINY, "timeline.rounds=2", *given) == 0
        updates[name] = read(tmp_path / name)
    assert updates["none"]["weights_sha256"] == updates["stage"]["weights_sha256"]
    assert updates["much"]["weights_sha256"] != updates["stage"]["weights_sha256"]
    assert updates["much"]["bytes"] == updates["stage"]["bytes"], "nothing more is sent"
