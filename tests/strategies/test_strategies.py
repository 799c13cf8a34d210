"""Every term of every method on tensors small enough to reckon by hand."""

import math

import pytest
import torch
from torch import nn

from fedcl.errors import ConfigError
from fedcl.learning.step import Step, held_statistics
from fedcl.learning.strategy import Strategy
from fedcl.registry import STRATEGY
from fedcl.tasks.losses import segmentation_loss
from strategies.parts.distillation import soft_cross_entropy
from strategies.ted import TED
from tests.conftest import ROOT
from tests.small import TASK, ce, logits, make, step


def test_soft_cross_entropy_is_the_mean_over_pixels():
    q = torch.softmax(logits(0.9, 0.4), 1)
    value = soft_cross_entropy(logits(0.8, 0.5), q)
    assert value.item() == pytest.approx((ce(0.9, 0.8) + ce(0.4, 0.5)) / 2, rel=1e-5)


def test_segmentation_loss_is_soft_dice_plus_cross_entropy():
    p, label = torch.tensor([0.8, 0.3]), torch.tensor([[[[1, 0]]]])
    dice_1 = 1 - (2 * 0.8 + 1) / (0.8 + 0.3 + 1 + 1)
    dice_0 = 1 - (2 * 0.7 + 1) / (0.2 + 0.7 + 1 + 1)
    cross = -(math.log(0.8) + math.log(0.7)) / 2
    value = segmentation_loss(logits(*p.tolist()), label)
    assert value.item() == pytest.approx((dice_0 + dice_1) / 2 + cross, rel=1e-5)


@pytest.mark.parametrize("name", [n for n in STRATEGY.available() if not n.startswith("field_")])
def test_without_a_teacher_only_segmentation_counts(name: str):
    terms = make(name).objective(step(logits(0.8, 0.3), None))
    assert set(terms) <= {"seg", "prox"}


def test_lwf_weighs_the_distillation_term():
    terms = make("lwf", kd=3.0).objective(step(logits(0.8), logits(0.9)))
    assert terms["kd"].item() == pytest.approx(3 * ce(0.9, 0.8), rel=1e-5)


def test_ted_kd_and_ska():
    here = step(logits(0.8), logits(0.9))
    terms = make("ted", terms="kd+ska", weight={"kd": 2.0, "ska": 0.5}).distil(here)
    assert terms["kd"].item() == pytest.approx(2 * ce(0.9, 0.8), rel=1e-5)
    assert terms["ska"].item() == pytest.approx(0.5 * ce(0.9, 0.8), rel=1e-5)
    shown_to_student, shown_to_teacher = here.student.shown[-1], here.teacher.shown[-1]
    assert torch.equal(shown_to_student, shown_to_teacher), "both must see the same noise"
    assert not torch.equal(shown_to_student, here.inputs)


def test_ska_noise_has_the_mean_and_standard_deviation_asked_for():
    drawn = Step(
        task=TASK,
        inputs=torch.zeros(8, 1, 64, 64),
        targets=torch.zeros(1),
        student=nn.Identity(),
        rng=torch.Generator(),
    ).noise(2.0, 3.0)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.1)
    assert drawn.std().item() == pytest.approx(3.0, abs=0.1)


# Pixels: student says class 1 with .8, .3, .6; teacher with .9, .7, .2. They disagree on the
# label of the second and third pixel; the teacher's labels there are 1 and 0.
STUDENT, TEACHER = (0.8, 0.3, 0.6), (0.9, 0.7, 0.2)
U = [1 - (0.2 * 0.1 + 0.8 * 0.9), 1 - (0.7 * 0.3 + 0.3 * 0.7), 1 - (0.4 * 0.8 + 0.6 * 0.2)]


def akt(u2: float, u3: float, batch: int = 1) -> float:
    """L_akt of the pixels above, repeated `batch` times."""
    total = u2 * math.log(0.3 + 1e-5) + u3 * math.log(0.4 + 1e-5)
    return -batch * total / (2 * batch + 1)


def transfer(batch: int = 1, **settings: object) -> float:
    ted = make("ted", weight={"akt": 1.0, **settings.pop("weight", {})}, **settings)
    return ted.distil(step(logits(*STUDENT), logits(*TEACHER), batch))["akt"].item()


def test_akt_without_gugf():
    assert transfer(terms="akt") == pytest.approx(akt(1, 1), rel=1e-5)


def test_akt_with_gugf():
    assert transfer(terms="akt+gugf") == pytest.approx(akt(U[1], U[2]), rel=1e-5)


def test_gugf_mean_ignores_the_batch_size_and_sum_grows_with_it():
    mean = transfer(batch=4, terms="akt+gugf", reduction="mean")
    assert mean == pytest.approx(akt(U[1], U[2], 4), rel=1e-5)
    total = transfer(batch=4, terms="akt+gugf", reduction="sum")
    assert total == pytest.approx(4 * mean, rel=1e-5)


def test_gugf_weighs_each_sample_by_the_whole_batch():
    ted = make("ted", terms="akt+gugf", reduction="sum")
    p = torch.softmax(torch.cat([logits(*STUDENT), logits(0.5, 0.5, 0.5)]), 1)
    q = torch.softmax(torch.cat([logits(*TEACHER)] * 2), 1)
    assert ted.uncertainty(p, q).flatten().tolist() == pytest.approx([u + 0.5 for u in U])


def test_gugf_weight_blends_from_none_to_full():
    half = transfer(terms="akt+gugf", weight={"gugf": 0.5})
    assert half == pytest.approx(akt((1 + U[1]) / 2, (1 + U[2]) / 2), rel=1e-5)
    assert transfer(terms="akt+gugf", weight={"gugf": 0.0}) == pytest.approx(akt(1, 1), rel=1e-5)


@pytest.mark.parametrize(
    ("ladder", "expected"),
    [
        ("kd", {"kd"}),
        ("kd+ska", {"kd", "ska"}),
        ("kd+akt", {"kd", "akt"}),
        ("kd+akt+gugf", {"kd", "akt"}),
        ("kd+ska+akt", {"kd", "ska", "akt"}),
        ("kd+ska+akt+gugf", {"kd", "ska", "akt"}),
    ],
)
def test_the_ladder_is_one_setting(ladder: str, expected: set[str]):
    terms = make("ted", terms=ladder).distil(step(logits(*STUDENT), logits(*TEACHER)))
    assert set(terms) == expected


def test_a_weight_of_zero_switches_a_term_off():
    terms = make("ted", weight={"ska": 0.0}).distil(step(logits(*STUDENT), logits(*TEACHER)))
    assert "ska" not in terms


def test_gradients_reach_the_student_and_never_the_teacher():
    here = step(logits(*STUDENT), logits(*TEACHER))
    terms = make("ted").objective(here)
    for name, term in terms.items():
        here.student.zero_grad()
        term.backward(retain_graph=True)
        assert here.student.logits.grad.abs().sum() > 0, name
    assert here.teacher.logits.grad is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"terms": "kd+magic"}, "strategy.terms: there is no 'magic'"),
        ({"terms": "kd+gugf"}, "needs akt"),
        ({"weight": {"ska": -1.0}}, "strategy.weight.ska: must be at least 0, got -1.0"),
        ({"reduction": "max"}, "strategy.reduction: must be one of sum, mean"),
        ({"teacher": {"refresh": "never"}}, "strategy.teacher.refresh: must be one of"),
        ({"wieght": {}}, "did you mean weight?"),
        ({"noise": {"std": 0.0}}, "strategy.noise.std: must be greater than 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?").replace("(", r"\(")):
        make("ted", **settings)


def test_running_statistics_ignore_noise():
    layer = nn.BatchNorm2d(1)
    student = nn.Sequential(layer, nn.Conv2d(1, 2, 1))
    images = torch.randn(8, 1, 4, 4) * 2 + 5
    labels = torch.zeros(8, 1, 4, 4).long()
    here = Step(task=TASK, inputs=images, targets=labels, student=student, rng=torch.Generator())
    before = layer.running_mean.clone(), layer.running_var.clone(), int(layer.num_batches_tracked)
    here.probe(here.noise(0, 1))
    assert torch.equal(before[0], layer.running_mean) and torch.equal(before[1], layer.running_var)
    assert int(layer.num_batches_tracked) == before[2]
    _ = here.outputs
    assert not torch.equal(before[0], layer.running_mean), "images do count"
    assert layer.track_running_stats


def test_the_noise_pass_normalises_by_its_own_batch():
    layer = nn.BatchNorm2d(1).train()
    noise = torch.randn(8, 1, 4, 4) * 3 + 7
    with held_statistics(layer):
        seen = layer(noise)
    assert seen.mean().item() == pytest.approx(0, abs=1e-5)
    assert seen.std().item() == pytest.approx(1, abs=0.01)


def test_defaults_of_the_yaml_are_those_of_the_class():

    import yaml

    folder = ROOT / "conf" / "strategy"
    for path in folder.glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        assert STRATEGY.make(values) == STRATEGY.make({"name": values["name"]}), path.name


@pytest.mark.parametrize("name", STRATEGY.available())
def test_what_hospitals_report_is_told_in_words(name: str):
    """Wherever more than weights and scores reaches the server, results.json says what."""
    strategy = make(name)
    more = type(strategy).reporting is not Strategy.reporting
    assert bool(strategy.leaves) == (more or strategy.requirements.every_update)


def test_ted_is_a_strategy_of_its_module_alone():
    assert STRATEGY.find("ted") is TED


def test_methods_are_short_files():
    from pathlib import Path

    import strategies

    folder = Path(strategies.__file__).parent
    lengths = {
        name: len((folder / f"{name}.py").read_text().splitlines()) for name in STRATEGY.available()
    }
    assert max(lengths.values()) <= 120, lengths
    assert sum(length <= 80 for length in lengths.values()) > len(lengths) / 2, lengths


def test_what_the_documents_point_to_is_there():
    import re

    root = ROOT
    for page in (*root.glob("*.md"), *(root / "docs").rglob("*.md")):
        links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text())
        files = re.findall(r"`((?:docs|benchmarks|tests|conf|fedcl)/[\w/.]+)`", page.read_text())
        if page.stem == "extension_points":  # its files are those of its examples
            files = []
        missing = [one for one in links if not (page.parent / one).exists()]
        missing += [
            one
            for one in files
            if not (root / one).exists() and "mine" not in one and "NAME" not in one
        ]
        assert not missing, (page, missing)
