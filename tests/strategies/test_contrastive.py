"""MTMS: its terms by hand, what they teach whom, and what it cannot work with."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcl import arrays
from fedcl.errors import ConfigError
from fedcl.learning.step import Step, watch
from fedcl.models.base import Model
from fedcl.registry import MODEL
from fedcl.seeding import seeded
from fedcl.wire import records
from strategies.parts.contrast import Projections, contrast, softened
from tests.conftest import MIXED, TINY, read, start
from tests.processes import kill, snapshot, wait_for
from tests.small import TASK, logits, make, step

TERMS = ("encoder", "bottleneck", "decoder", "maps")


def built(name: str, **settings: Any) -> tuple[Model, torch.nn.Module]:
    model = MODEL.make({"name": name, **settings})
    with seeded(name):
        return model, model.build(1, 2, 2)


def lesson(count: int = 3, **settings: Any) -> Step:
    """Return a step of a small student with a large teacher, over random images."""
    model, student = built("plain_unet", channels=[4, 8, 8])
    teacher_model, teacher = built("multitask_unet", channels=[8, 8, 16, 16], convolutions=1)
    rng = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 1, 16, 16, generator=rng)
    teacher.requires_grad_(False).eval()
    views = [watch(n, m, inputs[:1]) for n, m in ((student, model), (teacher, teacher_model))]
    with seeded("projections"):
        auxiliary = make("contrastive", **settings).auxiliary(*views, inputs[:1])
    return Step(
        task=TASK,
        student=student,
        model=model,
        teacher=teacher,
        teacher_model=teacher_model,
        auxiliary=auxiliary,
        inputs=inputs,
        targets=(inputs > 0).long(),
        rng=rng,
    )


def test_the_contrast_of_two_images_by_hand():
    """Student (1, 0), (0, 2); teacher (3, 0), (1, 1): cosines 1, sqrt(1/2); 0, sqrt(1/2)."""
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    teacher = torch.tensor([[3.0, 0.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    t, half = 0.4, math.sqrt(0.5)
    first = -math.log(math.exp(1 / t) / (math.exp(1 / t) + math.exp(half / t)))
    second = -math.log(math.exp(half / t) / (math.exp(0 / t) + math.exp(half / t)))
    value = contrast(student, teacher, t)
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_same_image_is_the_positive_and_the_others_are_the_negatives():
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, 4, 4, generator=rng).unbind()
    order = torch.randperm(5, generator=rng)
    value = contrast(student, teacher, 0.4)
    together = contrast(student[order], teacher[order], 0.4)
    torch.testing.assert_close(value, together), "the order of a batch says nothing"
    assert contrast(teacher, teacher, 0.4) < value, "an image is closest to itself"
    assert contrast(teacher, teacher.roll(1, 0), 0.4) > contrast(teacher, teacher, 0.4)


def test_softened_maps_by_hand():
    """Student .8, teacher .9 of class 1, T = 2: odds 4 and 9 become 2 and 3."""
    p, q = 2 / 3, 3 / 4
    expected = 4 * (q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)))
    taught = torch.softmax(logits(0.9), 1)
    assert softened(logits(0.8), taught, 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert softened(logits(0.9), taught, 2.0).item() == pytest.approx(0.0, abs=1e-6)


def test_sure_teachers_give_no_infinities():
    taught = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    student = logits(0.5).requires_grad_()
    value = softened(student, taught, 4.0)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all() and student.grad.any()


@pytest.mark.parametrize("term", TERMS)
def test_every_term_moves_the_student_and_never_the_teacher(term: str):
    here = lesson(terms=term)
    losses = make("contrastive", terms=term).distil(here)
    assert set(losses) == {term}
    here.teacher.requires_grad_()  # else it could not be told whether it would be moved
    losses[term].backward()
    moved = {name for name, p in here.student.named_parameters() if p.grad is not None}
    assert any(here.student.get_parameter(name).grad.abs().sum() > 0 for name in moved)
    assert all(p.grad is None for p in here.teacher.parameters())
    expected = {
        "encoder": {"down"}, "bottleneck": {"down"}, "decoder": {"down", "segment"},
        "maps": {"down", "segment"},
    }  # fmt: skip
    assert {name.partition(".")[0] for name in moved} == expected[term]
    if term != "maps":
        assert all(p.grad.abs().sum() > 0 for p in here.auxiliary.parameters())


def test_the_terms_are_weighted_and_the_own_loss_as_well():
    here, one = lesson(), make("contrastive")
    got = one.objective(here)
    plain = make("contrastive", weight=dict.fromkeys(("seg", *TERMS), 1.0)).objective(here)
    weight = {"seg": 0.4, "encoder": 0.1, "bottleneck": 0.2, "decoder": 0.1, "maps": 0.2}
    assert {k: (got[k] / plain[k]).item() for k in got} == pytest.approx(weight, rel=1e-5)


def test_a_scale_is_the_mean_over_levels_of_contrast_with_the_projected_teacher():
    here = lesson(terms="encoder")
    ours, theirs = (
        here.activations.encoder,
        here.teacher_activations.encoder,
    )
    assert (len(ours), len(theirs)) == (2, 3), "the teacher is deeper"
    layers = here.auxiliary.convolutions["encoder"]
    expected = [
        contrast(o, torch.nn.functional.conv2d(t, layer.weight), 0.4)
        for o, t, layer in zip(ours, theirs, layers, strict=False)
    ]
    got = make("contrastive", terms="encoder", weight={"encoder": 1.0}).distil(here)["encoder"]
    torch.testing.assert_close(got, torch.stack(expected).mean())


def test_a_coarser_teacher_is_resized_to_the_student():
    model, student = built("plain_unet", channels=[4, 8])
    other, teacher = built("unet", channels=[4, 8, 8])
    images = torch.randn(2, 1, 16, 16)
    seen, shown = watch(student, model, images), watch(teacher, other, images)
    assert shown.features[0].shape[-1] == 8, "half of the student's"
    projections = Projections(["encoder"], seen, shown)
    pairs = projections("encoder", seen.encoder, shown.encoder)
    ((own, made),) = pairs
    weight = projections.convolutions["encoder"][0].weight
    projected = torch.einsum("fg,bghw->bfhw", weight[:, :, 0, 0], shown.features[0])
    expected = torch.nn.functional.interpolate(projected, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(made, expected)
    assert own is seen.features[0]


def test_half_precision_does_not_reach_the_contrast():
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 8, 16, 16, generator=rng).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        half = contrast(student, teacher, 0.05)
    torch.testing.assert_close(half, contrast(student, teacher, 0.05))


def test_maps_of_nothing_but_zeros_give_no_nan():
    student = torch.zeros(3, 2, 4, 4, requires_grad=True)
    value = contrast(student, torch.ones(3, 2, 4, 4), 0.4)
    value.backward()
    assert value.item() == pytest.approx(math.log(3)) and student.grad.isfinite().all()


def test_a_rest_of_one_image_is_left_out_of_the_contrast_alone():
    terms = make("contrastive").objective(lesson(count=1))
    assert set(terms) == {"seg", "maps"}


def test_frozen_projections_stay_as_they_are():
    here = lesson(projection="frozen")
    assert not any(p.requires_grad for p in here.auxiliary.parameters())
    sum(make("contrastive").distil(here).values()).backward()
    assert all(p.grad is None for p in here.auxiliary.parameters())


def test_the_maps_are_told_of_kept_answers_too():
    """The teacher's probabilities of a batch, kept from before, give the same term."""
    here = step(logits(0.8), logits(0.9))
    value = make("contrastive", terms="maps", weight={"maps": 1.0}).distil(here)["maps"]
    torch.testing.assert_close(value, softened(logits(0.8), torch.softmax(logits(0.9), 1), 4.0))


def test_a_teacher_without_the_scale_is_refused():
    shallow = built("plain_unet", channels=[4, 8])
    deep = built("plain_unet", channels=[4, 8, 8, 8])
    images = torch.zeros(1, 1, 16, 16)
    views = [watch(network, model, images) for model, network in (deep, shallow)]
    with pytest.raises(ConfigError, match=r"encoder needs .* which have 3 and 1"):
        make("contrastive").auxiliary(*views, images)
    assert make("contrastive", terms="bottleneck+maps").auxiliary(*views, images) is not None
    assert make("contrastive", terms="maps").auxiliary(*views, images) is None


RUN = [*TINY, *MIXED, "strategy=contrastive"]


def test_projections_stay_at_each_site_and_are_trained(cli: Callable[..., int], tmp_path: Path):
    folder = tmp_path / "run"
    assert cli(*RUN, f"run.dir={folder}") == 0
    after, before = (
        arrays.load_file(folder / f"checkpoint/sites/F/round-{number:06d}.safetensors")
        for number in (6, 5)
    )
    assert all(key.startswith("auxiliary/convolutions.") for key in after)
    assert after["auxiliary/convolutions.bottleneck.0.weight"].shape == (8, 16, 1, 1)
    assert all((after[key] != before[key]).any() for key in after)
    sent = arrays.load_file(folder / "checkpoint/stage-3.safetensors")
    assert not [key for key in sent if "convolutions" in key]
    assert {key.partition("/")[0] for key in sent} == {"large", "small"}


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_projections_and_its_teachers_file(
    cli: Callable[..., int], tmp_path: Path
):
    """Real processes: what a site keeps is the same after a kill; the file is needed no more."""
    first, whole, folder = (tmp_path / name for name in ("first", "whole", "run"))
    assert cli(*RUN, f"run.dir={first}") == 0
    file = tmp_path / "teacher.safetensors"
    shutil.copy(first / "checkpoint/stage-3.safetensors", file)
    taught = [*RUN, "learner.steps=10", f"strategy.teacher.file={file}"]
    assert cli(*taught, f"run.dir={whole}") == 0
    process = start(*taught, f"run.dir={folder}")
    wait_for(snapshot(folder, "round-000003-stage-001"), process)
    kill(process)
    assert not (folder / "results.json").exists()
    file.unlink()
    assert cli(f"run.resume={folder}") == 0
    one, two = read(whole), read(folder)
    for key in ("weights_sha256", "cases", "architectures", "teacher_sha256"):
        if key == "architectures":  # how long it took is never the same
            for results in (one, two):
                for known in results[key].values():
                    del known["seconds_per_case"]
        assert one[key] == two[key], key
    last = "checkpoint/sites/F/round-000006.safetensors"
    assert (whole / last).read_bytes() == (folder / last).read_bytes()


def test_large_sites_are_not_taught_where_peers_are_not(cli: Callable[..., int], tmp_path: Path):
    """Then the large model is what it would be alone, and the small one is still taught."""
    folders = [tmp_path / name for name in ("alone", "beside", "peers")]
    for folder, more in zip(
        folders, (["strategy=finetune"], ["strategy.teacher.peers=false"], []), strict=True
    ):
        assert cli(*RUN, *more, f"run.dir={folder}") == 0
    ends = [arrays.load_file(folder / "checkpoint/stage-3.safetensors") for folder in folders]
    large, small = (
        [arrays.digest(arrays.under(f"{name}/", end)) for end in ends]
        for name in ("large", "small")
    )
    assert large[0] == large[1] != large[2]
    assert small[0] != small[1]


@pytest.mark.parametrize("refresh", ["round", "ema"])
def test_the_model_of_this_round_teaches_in_the_first_stage(
    cli: Callable[..., int], tmp_path: Path, refresh: str
):
    """By "stage" sites are taught from the second one on; by the others, from round two."""
    bytes_ = {}
    for when in ("stage", refresh):
        one = [*RUN, "timeline.stages=[[A,B]]", f"strategy.teacher.refresh={when}"]
        for site in "CDEF":
            one.remove(f"sites.{site}.model={'large' if site in 'CE' else 'small'}")
        one.remove("sites.D.data_fraction=0.5")
        assert cli(*one, f"run.dir={tmp_path / when}") == 0
        bytes_[when] = read(tmp_path / when)["bytes"]["teacher"]
    size = records.size_of(records.to_record(large_of(tmp_path / refresh, 1)))
    assert bytes_["stage"] == 0
    assert bytes_[refresh] == size, "once: to B, in the second round"


def large_of(folder: Path, stage: int) -> arrays.Arrays:
    weights = arrays.load_file(folder / f"checkpoint/stage-{stage}.safetensors")
    return arrays.under("large/", weights)


def test_a_teacher_trained_before_teaches_from_the_first_round(
    cli: Callable[..., int], tmp_path: Path
):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert cli(*RUN, f"run.dir={first}") == 0
    file = first / "checkpoint" / "stage-3.safetensors"
    only = [*TINY, *MIXED[:7], "strategy=contrastive", "strategy.teacher.model=large"]
    only += [f"sites.{site}.model=small" for site in "ABCDEF"]
    assert cli(*only, f"strategy.teacher.file={file}", f"run.dir={second}") == 0
    results = read(second)
    assert results["bytes"]["teacher"] > 0
    weights = arrays.load_file(second / "checkpoint/stage-3.safetensors")
    assert {key.partition("/")[0] for key in weights} == {"small"}, "it is not trained"
    large = results["architectures"]["large"]
    assert large["sites"] == []
    expected = read(first)["architectures"]["large"]["matrix"][-1]
    assert large["matrix"] == [expected] * 3, "the same weights give the same scores"
    # The file of a run with one model has no names of architectures in it.
    arrays.save_file(tmp_path / "plain.safetensors", large_of(first, 3))
    plain = f"strategy.teacher.file={tmp_path / 'plain.safetensors'}"
    assert cli(*only, plain, f"run.dir={third}") == 0
    assert read(third)["weights_sha256"] == results["weights_sha256"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["learner.batch_size=1"], ["learner.batch_size: contrastive", "at least 2, got 1"]),
        (["scenario.slices=1", "scenario.patients=4"], ["site A: 1 training samples", "least 2"]),
        (["models.small.channels=[4,8,8]"], ["encoder needs", "which have 2 and 1"]),
        (["strategy.terms=encoder+depth"], ["there is no 'depth'", "bottleneck"]),
        (["strategy.teacher.model=huge"], ["strategy.teacher.model: there is no 'huge'"]),
        (["strategy.teacher.model=segresnet"], ["no site trains segresnet", "teacher.file"]),
        (["strategy.teacher.file=x", "strategy.teacher.refresh=ema"], ["refresh: ema, but"]),
        (["strategy.teacher.file=/no/such"], ["strategy.teacher.file", "/no/such"]),
        (["strategy.teacher.file=README.md"], ["strategy.teacher.file", "README.md"]),
    ],
)
def test_what_it_cannot_work_with_is_one_line(
    cli: Callable[..., int], tmp_path: Path, capsys: Any, overrides: list[str], said: list[str]
):
    folder = tmp_path / "run"
    assert cli(*RUN, *overrides, f"run.dir={folder}") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedcl:")]
    assert len(lines) == 1 and all(words in lines[0] for words in said), lines
    assert not folder.exists()


def test_a_checkpoint_of_another_architecture_is_refused(
    cli: Callable[..., int], tmp_path: Path, capsys: Any
):
    first = tmp_path / "first"
    assert cli(*TINY, "strategy=finetune", f"run.dir={first}") == 0
    file = first / "checkpoint/stage-3.safetensors"
    assert cli(*RUN, f"strategy.teacher.file={file}", f"run.dir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert f"strategy.teacher.file: {file} holds no large as configured" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["decay", "drift"])
def test_a_weight_of_the_teacher_that_nothing_uses_is_refused(key: str):
    for name in ("lwf", "contrastive"):
        with pytest.raises(ConfigError, match=rf"strategy\.teacher\.{key}: only teacher\.refresh="):
            make(name, teacher={key: 0.5})
