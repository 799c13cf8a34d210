"""Every method beside TED on tensors small enough to reckon by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedcl.data.cases import Samples
from fedcl.errors import ConfigError, RunError
from fedcl.learning.step import Activations
from fedcl.learning.strategy import StageSummary
from fedcl.tasks.segmentation import Segmentation, segmentation_loss
from fedcl.timeline import Timeline
from strategies.cauaug import analytic, restyle, standard
from strategies.mib import as_background
from strategies.parts.anatomy import SECTORS, levels, places, quantiles, regions, reshape
from strategies.parts.decoder import Decoder
from strategies.souvenir import repaint
from tests.small import Fixed, Whole, ce, logits, make, step

TIMELINE = Timeline((("A", "B"), ("C",), ("D",)), rounds=2)


def past(network: nn.Module, **more: Any) -> StageSummary:
    given = dict(
        stage=0,
        network=network,
        shape=(1, 4, 4),
        memory={},
        reports={},
        samples={},
        rng=torch.Generator().manual_seed(0),
    )
    return StageSummary(**(given | more))


# --- FedProx ---------------------------------------------------------------------------------


def test_fedprox_squares_the_way_from_the_rounds_start():
    here = step(logits(0.8, 0.3), None)
    with torch.no_grad():
        here.student.logits += torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1)
    terms = make("fedprox", mu=0.3).objective(here)
    assert terms["prox"].item() == pytest.approx(0.3 / 2 * (2**2 + 2**2), rel=1e-5)
    terms["prox"].backward()
    assert here.student.logits.grad.flatten().tolist() == pytest.approx([0, 0, 0.6, 0.6])


# --- FedBN -----------------------------------------------------------------------------------


def test_fedbn_keeps_weights_and_statistics_of_every_normalisation():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1),
        nn.BatchNorm2d(2),
        nn.GroupNorm(1, 2),
        nn.Sequential(nn.InstanceNorm2d(2, affine=True)),
    )
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert make("fedbn").partition(network, 0).local == (
        {f"1.{name}" for name in {"weight", "bias"} | statistics}
        | {"2.weight", "2.bias", "3.0.weight", "3.0.bias"}
    )


def test_fedbn_says_that_a_model_has_nothing_to_keep():
    with pytest.raises(ConfigError, match=r"model\.norm=batch"):
        make("fedbn").partition(nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2)), 0)


# --- EWC and MAS -----------------------------------------------------------------------------


class Line(nn.Module):
    """Logits (0, a x + b) of every pixel x."""

    def __init__(self, a: float = 0.5, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), self.a * x + self.b], dim=1)


SLICES = Samples(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1), torch.tensor([[[[1]]], [[[0]]]]))


def test_ewc_fisher_is_the_mean_of_the_squared_gradients_of_each_slice():
    told = make("ewc").importance(Line(), SLICES)
    # d CE / d b = p - y with p = sigmoid(a x): x = 1, y = 1 and x = -2, y = 0
    g = [1 / (1 + math.exp(-0.5)) - 1, 1 / (1 + math.exp(1.0))]
    assert told["b"] == pytest.approx((g[0] ** 2 + g[1] ** 2) / 2, rel=1e-5)
    assert told["a"] == pytest.approx((g[0] ** 2 + (2 * g[1]) ** 2) / 2, rel=1e-5)


def test_mas_importance_is_the_mean_absolute_gradient_of_the_squared_norm():
    told = make("mas").importance(Line(), SLICES)
    # d (a x + b)^2 / d b = 2 (a x + b): 1 and -2; d / d a = 2 (a x + b) x: 1 and 4
    assert (told["b"], told["a"]) == (pytest.approx(1.5), pytest.approx(2.5))


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_importance_is_averaged_by_slices_scaled_to_mean_1_and_summed(name: str):
    reports = {"A": {"w": np.float32([1, 3])}, "B": {"w": np.float32([4, 0])}}
    told = past(Line(), reports=reports, samples={"A": 1, "B": 2}, memory={"w": np.float32([5, 7])})
    mean = np.array([(1 + 8) / 3, 3 / 3])
    np.testing.assert_allclose(
        make(name).remember(told)["w"], [5, 7] + mean / mean.mean(), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_the_penalty_weighs_the_way_from_the_anchor(name: str):
    student, anchor = Line(1.0, 2.0), Line(0.5, -1.0)
    memory = {"a": torch.tensor(4.0), "b": torch.tensor(2.0)}
    here = step(logits(0.5), logits(0.5), student=student, teacher=anchor, memory=memory)
    value = make(name, weight=3.0).distil(here)["penalty"]
    assert value.item() == pytest.approx(3 / 2 * (4 * 0.5**2 + 2 * 3**2))


# --- PLOP ------------------------------------------------------------------------------------


def test_plop_embeds_row_and_column_means_of_every_window():
    feature = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 1, 2, 2)
    whole = [1.5, 4.5, 2.0, 4.0]  # over columns, one per row; over rows, one per column
    halves = [1.0, 2.0, 3.0, 6.0] * 2  # two windows of one column, then of one row
    embedded = make("plop", windows=[1, 2]).embed(feature)[0]
    expected = torch.tensor(whole + halves)
    torch.testing.assert_close(embedded, expected / expected.norm())


def test_plop_is_the_squared_distance_of_the_embeddings():
    student, teacher = Fixed(logits(0.8, 0.3)), Fixed(logits(0.9, 0.4))
    here = step(
        logits(0.8, 0.3),
        logits(0.9, 0.4),
        student=student,
        teacher=teacher,
        model=Whole(),
        teacher_model=Whole(),
    )
    plop = make("plop", pod=2.0, windows=[1])
    a, b = plop.embed(student.logits), plop.embed(teacher.logits)
    terms = plop.objective(here)
    assert terms["pod"].item() == pytest.approx(2 * ((a - b) ** 2).sum().item(), rel=1e-5)
    terms["pod"].backward()
    assert torch.isfinite(student.logits.grad).all() and student.logits.grad.abs().sum() > 0


def test_plop_labels_background_where_the_teacher_is_sure():
    here = step(logits(0.5, 0.5, 0.5), logits(0.99, 0.7, 0.99))
    here.targets[0, 0, 0] = torch.tensor([0, 0, 1])
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3)) / math.log(2)
    for bound, second in ((entropy - 0.01, 0), (entropy + 0.01, 1)):
        labels = make("plop", entropy=bound).pseudo_labels(here)
        assert labels.flatten().tolist() == [1, second, 1]
    assert make("plop", entropy=0.0).pseudo_labels(here).equal(here.targets)


# --- MiB -------------------------------------------------------------------------------------

THREE = torch.log(torch.tensor([0.5, 0.3, 0.2])).reshape(1, 3, 1, 1)


def test_mib_background_takes_over_the_probability_of_classes():
    p = as_background(THREE, [2]).softmax(1).flatten().tolist()
    assert p == pytest.approx([0.7, 0.3, 0.0], abs=1e-6)


def test_mib_is_unbiased_in_both_terms():
    q = torch.log(torch.tensor([0.6, 0.4, 1e-9])).reshape(1, 3, 1, 1)
    here = step(THREE, q)
    terms = make("mib", kd=2.0, unlabelled=[1], added=[2]).objective(here)
    kd = -(0.6 * math.log(0.7) + 0.4 * math.log(0.3))
    assert terms["kd"].item() == pytest.approx(2 * kd, rel=1e-4)
    knows = make("mib", added=[2]).answers(torch.tensor([0.5, 0.3, 0.2]).reshape(1, 3, 1, 1))
    assert knows.flatten().tolist() == pytest.approx([0.7, 0.3, 0.0])
    seg = segmentation_loss(
        torch.log(torch.tensor([0.8, 1e-9, 0.2])).reshape(1, 3, 1, 1), here.targets
    )
    assert terms["seg"].item() == pytest.approx(seg.item(), rel=1e-4)
    for term in terms.values():
        here.student.zero_grad()
        term.backward(retain_graph=True)
        assert torch.isfinite(here.student.logits.grad).all()


def test_mib_refuses_what_its_settings_contradict():
    for listed in ([1, 1], [5]):
        with pytest.raises(ConfigError, match=r"strategy\.unlabelled: must be different classes"):
            make("mib", unlabelled=listed).check(Segmentation(1, 3), None)
    here = step(logits(0.5, 0.5), logits(0.5, 0.5))
    here.targets[...] = 1
    with pytest.raises(RunError, match="a site marks classes of"):
        make("mib", unlabelled=[1]).objective(here)


def test_mib_is_lwf_where_all_classes_are_marked():
    one = make("mib", kd=0.7).objective(step(logits(0.8, 0.1), logits(0.9, 0.2)))
    two = make("lwf", kd=0.7).objective(step(logits(0.8, 0.1), logits(0.9, 0.2)))
    assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in two.items()}


# --- replay ----------------------------------------------------------------------------------


def test_replay_calls_everyone_back_but_only_new_sites_learn():
    replay = make("replay")
    assert replay.plan(TIMELINE, 1).cohort == ["A", "B", "C"]
    assert replay.plan(TIMELINE, 1).learning == ["C"]


@pytest.mark.parametrize(("limit", "kept"), [(3, 3), (50, 10)])
def test_replay_keeps_at_most_its_bound(limit: int, kept: int):
    images = torch.arange(10.0).reshape(10, 1, 1, 1)
    slices = Samples(images, images.long())
    buffer = make("replay", slices=limit).buffer(slices, torch.Generator().manual_seed(1))
    values = buffer.inputs.flatten().tolist()
    assert len(set(values)) == kept and values == sorted(values)
    assert buffer.targets.flatten().tolist() == values


# --- CauAug ----------------------------------------------------------------------------------


def archive(images: torch.Tensor, stage: int = 0, site: str = "A") -> dict[str, torch.Tensor]:
    cauaug = make("cauaug")
    slices = Samples(images, images.long())
    reports = {site: cauaug.style(nn.Identity(), slices)}
    memory = cauaug.remember(past(nn.Identity(), stage=stage, reports=reports))
    return {key: torch.from_numpy(value) for key, value in memory.items()}


def test_cauaug_archive_holds_mean_magnitude_mean_and_deviation():
    images = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 4.0]]]).unsqueeze(1)
    kept = archive(images, stage=2, site="S")
    # 2 x 2 transforms: sums with signs ++++, +-+- (columns), ++-- (rows), +--+
    first, second = [12, 4, 6, 2], [4, 4, 4, 4]
    expected = (torch.tensor(first) + torch.tensor(second)) / 2
    assert set(kept) == {"2/S/spectrum", "2/S/mean", "2/S/std"}
    torch.testing.assert_close(kept["2/S/spectrum"].flatten(), expected)
    assert kept["2/S/mean"].item() == pytest.approx(2)
    assert kept["2/S/std"].item() == pytest.approx(images.std(correction=0).item())


def test_of_a_hospital_that_trains_again_the_newest_record_is_kept():
    cauaug, slices = make("cauaug"), Samples(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2).long())
    told = cauaug.style(nn.Identity(), slices)
    memory: dict[str, np.ndarray] = {}
    for stage, sites in enumerate(["AB", "BC"]):
        reports = dict.fromkeys(sites, told)
        memory = cauaug.remember(past(nn.Identity(), stage=stage, reports=reports, memory=memory))
    assert {key.rpartition("/")[0] for key in memory} == {"0/A", "1/B", "1/C"}


def test_cauaug_restyle_keeps_the_phase_and_takes_magnitude_and_moments():
    rng = torch.Generator().manual_seed(0)
    old, new = (
        torch.randn(6, 1, 8, 8, generator=rng) * 3 + 5,
        torch.randn(2, 1, 8, 8, generator=rng),
    )
    styled = restyle(new, archive(old), rng)
    assert styled.mean((2, 3)).flatten().tolist() == pytest.approx(
        [old.mean().item()] * 2, rel=1e-4
    )
    spread = styled.std((2, 3), correction=0).flatten().tolist()
    assert spread == pytest.approx([old.std(correction=0).item()] * 2, rel=0.02)
    one, two = torch.fft.rfft2(standard(styled)), torch.fft.rfft2(new)
    turn = (one * two.conj()).angle()[..., 1:-1].abs()  # real bins and the mean may flip
    assert turn.max() < 1e-3
    ratio = one.abs()[0, 0] / torch.fft.rfft2(old).abs().mean(0)[0]
    assert ratio[1:4, 1:4].std() / ratio[1:4, 1:4].mean() < 1e-3


def test_cauaug_own_style_changes_nothing_about_one_image():
    image = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        restyle(image, archive(image), torch.Generator()), image, atol=0.05, rtol=0.05
    )


def test_cauaug_random_network_keeps_moments_and_is_drawn_anew():
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(3, 1, 16, 16, generator=rng) * 2 + 1
    one, two = analytic(images, rng), analytic(images, rng)
    for answer in (one, two):
        torch.testing.assert_close(answer.mean((2, 3)), images.mean((2, 3)))
        torch.testing.assert_close(answer.std((2, 3)), images.std((2, 3)))
    assert not torch.allclose(one, two)


def test_cauaug_terms():
    memory = archive(torch.randn(4, 1, 1, 2))
    here = step(logits(0.8, 0.3), logits(0.9, 0.4), memory=memory)
    terms = make("cauaug", kd=2.0, dom=3.0).objective(here)
    value = (ce(0.9, 0.8) + ce(0.4, 0.3)) / 2
    assert terms["kd"].item() == pytest.approx(2 * value, rel=1e-5)
    assert terms["dom"].item() == pytest.approx(3 * value, rel=1e-5)
    assert here.student.shown[-1].equal(here.teacher.shown[-1]), "both see the restyled images"


def test_cauaug_parts_are_switches():
    memory = archive(torch.randn(4, 1, 1, 2))
    images = torch.randn(1, 1, 1, 2)
    here = step(logits(0.8, 0.3), logits(0.9, 0.4), memory=memory, inputs=images)
    assert set(make("cauaug", dom=0.0).objective(here)) == {"seg", "kd"}
    assert len(here.student.shown) == 1 and not here.student.shown[0].equal(here.inputs)
    here = step(logits(0.8, 0.3), None)
    make("cauaug", ana=False).objective(here)
    assert here.student.shown[0].equal(here.inputs)


def test_cauaug_leaves_running_statistics_to_the_images():
    layer = nn.BatchNorm2d(1, momentum=1.0)
    student = nn.Sequential(layer, nn.Conv2d(1, 2, 1)).train()
    images = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 5
    labels = torch.zeros(8, 1, 4, 4, dtype=torch.int64)
    here = step(logits(0.5), None, student=student, inputs=images, targets=labels)
    make("cauaug").objective(here)
    torch.testing.assert_close(layer.running_mean, images.mean((0, 2, 3)))


# --- TKRL ------------------------------------------------------------------------------------


def test_tkrl_probes_raise_the_teachers_answer_and_stay_smooth():
    tkrl = make("tkrl", probes={"count": 2, "steps": 300, "lr": 0.05})
    memory = tkrl.remember(past(Line(2.0, -1.0)))
    assert set(memory) == {"1"} and memory["1"].shape == (2, 1, 4, 4)
    probes = torch.from_numpy(memory["1"])
    assert torch.sigmoid(2 * probes - 1).mean() > 0.9
    assert probes.diff(dim=-1).abs().mean() < 0.1
    again = tkrl.remember(past(Line(2.0, -1.0)))
    np.testing.assert_array_equal(memory["1"], again["1"])


def test_tkrl_probes_are_to_be_foreground_everywhere():
    here = step(logits(0.8, 0.3), logits(0.9, 0.4), memory={"1": torch.zeros(2, 1, 1, 2)})
    terms = make("tkrl", pcd=2.0, vma=0.0).distil(here)
    expected = -(math.log(0.8) + math.log(0.3)) / 2
    assert terms["pcd"].item() == pytest.approx(2 * expected, rel=1e-5)


def test_tkrl_masks_where_the_difference_varies_most_over_channels():
    student, teacher = torch.zeros(1, 2, 2, 5), torch.zeros(1, 2, 2, 5)
    student[0, 0, 1, 4] = 3.0  # differs between channels
    student[0, :, 0, 0] = 9.0  # differs by as much in both: no variance
    mask = make("tkrl", masked=0.1).mask([student], [teacher], (4, 10))
    expected = torch.zeros(4, 10, dtype=torch.bool)
    expected[2:, 8:] = True
    assert mask[0, 0].equal(expected)
    nothing = make("tkrl", masked=0.1).mask([teacher], [teacher], (4, 10))
    assert not nothing.any(), "where nothing differs nothing is masked"


def test_tkrl_rebuilds_the_image_from_masked_features():
    network = nn.Conv2d(1, 2, 1, bias=False)
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    decoder = Decoder([2], 1)
    here = step(
        logits(0.5),
        logits(0.5),
        student=network,
        teacher=nn.Conv2d(1, 2, 1),
        inputs=images,
        targets=torch.zeros(2, 1, 4, 4, dtype=torch.int64),
        auxiliary=decoder,
        model=Whole(),
        teacher_model=Whole(),
        number=2,
    )
    tkrl = make("tkrl", vma=3.0, masked=0.5)
    value = tkrl.distil(here)["vma"]
    mask = tkrl.mask(here.activations.features, here.teacher_activations.features, (4, 4))
    hidden = torch.where(mask, torch.zeros(()), images)
    rebuilt = decoder.out(F.leaky_relu(decoder.lateral[0](network(hidden))))
    assert value.item() == pytest.approx(3 * ((rebuilt - images) ** 2).mean().item(), rel=1e-5)
    value.backward()
    assert decoder.token.grad.abs() > 0 and network.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "turns"),
    [
        ({}, ["pcd", "vma", "pcd"]),
        ({"round": 2}, ["vma", "pcd", "vma"]),
        ({"vma": 0.0}, ["pcd"] * 3),
        ({"pcd": 0.0}, ["vma"] * 3),
        ({"pcd": 0.0, "vma": 0.0}, [None] * 3),
    ],
)
def test_tkrl_parts_take_turns_or_are_switched_off(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, float], turns: list[str | None]
):
    round_ = settings.pop("round", 1)
    tkrl = make("tkrl", **settings)
    for part in ("probing", "rebuilding"):
        monkeypatch.setattr(tkrl, part, lambda step: torch.ones(()))
    got = []
    for number in (1, 2, 3):
        terms = tkrl.distil(step(logits(0.5), logits(0.5), number=number, round=round_))
        got.append(next(iter(set(terms) - {"kd"}), None))
    assert got == turns


def test_only_a_decoder_that_is_used_is_made():
    image = torch.zeros(1, 1, 8, 8)
    seen = Activations(image, [torch.zeros(1, 4, 4, 4), torch.zeros(1, 8, 2, 2)], [], [])
    assert make("tkrl", vma=0.0).auxiliary(seen, seen, image) is None
    assert make("tkrl").auxiliary(seen, seen, image)(seen.features, image).shape == (1, 1, 8, 8)


# --- Souvenir --------------------------------------------------------------------------------


def disc(size: int = 32, cx: float = 0.0, cy: float = 0.0, r: float = 0.3) -> torch.Tensor:
    """Return a label with one disc, centre and radius in [-1, 1], shape (1, 1, H, W)."""
    axis = (torch.arange(size) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return ((x - cx).square() + (y - cy).square() < r**2).long()[None, None]


def test_places_are_centre_and_log_extent():
    place = places(disc(64, 0.25, -0.5, 0.4))[0]
    assert place[:2].tolist() == pytest.approx([0.25, -0.5], abs=0.01)
    # The coordinates of a disc have the standard deviation r / 2.
    assert place[2:].exp().tolist() == pytest.approx([0.2, 0.2], rel=0.05)
    assert places(torch.zeros(1, 1, 8, 8).long()).tolist() == [[0.0] * 4]


def test_regions_are_rings_times_sectors():
    label = disc(64, r=0.4)
    region = regions(label)[0]
    ring, sector = region // SECTORS, region % SECTORS
    middle = 32
    assert [ring[middle, middle + at].item() for at in (0, 11, 14, 18, 30)] == [0, 1, 2, 3, 4]
    assert (ring <= 1).equal(label[0, 0] > 0), "core and inner rim are the organ"
    right, below, left, above = (sector[at].item() for at in ((32, 60), (60, 32), (32, 3), (3, 32)))
    assert len({right, below, left, above}) == SECTORS


def test_quantiles_of_every_region_are_numpys():
    images = torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    region = regions(torch.cat([disc(), disc(r=0.5)]))
    found, pixels = quantiles(images, region, 5)
    for sample, number in ((0, 0), (0, 7), (1, 12), (1, 19)):
        values = images[sample, :, region[sample] == number].numpy()
        assert pixels[sample, number] == values.shape[1]
        expected = np.quantile(values, np.linspace(0, 1, 5), axis=1).T
        np.testing.assert_allclose(found[sample, :, number], expected, atol=1e-6)


def test_levels_are_ranks_within_the_region():
    image = torch.tensor([[3.0, 1.0], [2.0, 9.0]]).reshape(1, 1, 2, 2)
    region = torch.tensor([[[0, 0], [0, 5]]])
    assert levels(image, region).flatten().tolist() == pytest.approx([5 / 6, 1 / 6, 3 / 6, 0.5])


def souvenirs(images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    report = make("souvenir").look_around(nn.Identity(), Samples(images, labels))
    assert sum(value.size for value in report.values()) <= 250, "some 200 numbers"
    return {name: torch.from_numpy(value)[None] for name, value in report.items()}


def test_repainting_gives_every_region_the_old_quantiles():
    rng = torch.Generator().manual_seed(0)
    labels = disc(r=0.5)
    old, new = (
        torch.randn(1, 1, 32, 32, generator=rng) * 3 + 1,
        torch.rand(1, 1, 32, 32, generator=rng),
    )
    left = souvenirs(old, labels)
    painted = repaint(new, labels, left, 0.0, rng)
    region = regions(labels)
    got, want = quantiles(painted, region, 9)[0], left["quantiles"]
    assert (got - want)[..., 2:7].abs().max() < 0.3, "up to the few pixels of a region"
    assert painted.mean().item() == pytest.approx(old.mean().item(), abs=0.2)
    for number in (0, 19):  # the order of pixels within a region stays
        inside = region[0] == number
        one, two = new[0, 0][inside].argsort(), painted[0, 0][inside].argsort()
        assert one.equal(two)


def test_a_region_the_old_hospital_never_saw_is_left_alone():
    labels, images = disc(r=0.5), torch.rand(1, 1, 32, 32)
    left = souvenirs(torch.randn(1, 1, 32, 32), torch.zeros_like(labels))
    painted = repaint(images, labels, left, 0.0, torch.Generator())
    organ = labels > 0
    assert painted[organ].equal(images[organ]) and not painted[~organ].equal(images[~organ])


def test_reshaping_moves_and_scales_the_organ_with_its_image():
    labels = disc(64, -0.3, 0.2, 0.2)
    images = labels.float() * 5
    wanted = places(disc(64, 0.25, -0.1, 0.4))
    place = torch.stack([torch.zeros_like(wanted), wanted], dim=1)
    known = torch.ones(1, dtype=torch.bool)
    moved, marks = reshape(images, labels, place, known, torch.Generator())
    torch.testing.assert_close(places(marks), wanted, atol=0.05, rtol=0.1)
    agree = ((moved > 2.5).long() == marks).float().mean()
    assert agree > 0.99, "image and label move together"
    stays = reshape(images, labels, place, ~known, torch.Generator())
    torch.testing.assert_close(stays, (images, labels))


def test_an_organ_made_smaller_leaves_no_unlabelled_image_of_itself():
    labels = disc(64, 0.5, 0.0, 0.45)
    small = places(disc(64, 0.5, 0.0, 0.2))
    place = torch.stack([torch.zeros_like(small), small], dim=1)
    known = torch.ones(1, dtype=torch.bool)
    moved, marks = reshape(labels.float(), labels, place, known, torch.Generator())
    assert (moved > 0.5).float().sum().item() == pytest.approx(marks.sum().item(), rel=0.05)


def test_souvenir_terms_and_switches():
    left = {
        f"0/A/{k}": v[0]
        for k, v in souvenirs(torch.randn(2, 1, 8, 8), disc(8).repeat(2, 1, 1, 1)).items()
    }
    p, q = torch.full((64,), 0.8), torch.full((64,), 0.9)
    given = dict(inputs=torch.rand(1, 1, 8, 8), targets=disc(8), memory=left)
    answers = [torch.stack([torch.log(1 - v), torch.log(v)]).reshape(1, 2, 8, 8) for v in (p, q)]
    here = step(*answers, **given)
    terms = make("souvenir", seg=2.0, kd=3.0, shape=False).objective(here)
    assert terms["kd"].item() == pytest.approx(3 * ce(0.9, 0.8), rel=1e-4)
    expected = 2 * segmentation_loss(answers[0], given["targets"]).item()
    assert terms["restaged"].item() == pytest.approx(expected, rel=1e-4)
    assert here.student.shown[-1].equal(here.teacher.shown[-1])
    assert not here.student.shown[-1].equal(here.inputs)
    plain = step(*answers, **given)
    make("souvenir", shape=False, look=False).objective(plain)
    assert plain.student.shown[-1].equal(plain.inputs)


@pytest.mark.parametrize("labels", [torch.zeros(2, 1, 8, 8).long(), torch.ones(2, 1, 8, 8).long()])
def test_souvenir_bears_slices_without_an_organ_or_full_of_it(labels: torch.Tensor):
    images = torch.zeros(2, 1, 8, 8)  # constant as well
    left = {f"0/A/{k}": v[0] for k, v in souvenirs(images, labels).items()}
    assert all(torch.isfinite(value).all() for value in left.values())
    answer = torch.zeros(1, 2, 8, 8)
    here = step(answer, answer, inputs=images, targets=labels, memory=left)
    terms = make("souvenir").objective(here)
    assert all(torch.isfinite(term) for term in terms.values())
