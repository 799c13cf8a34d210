"""The follow-ups of TED, and Souvenir, on tensors small enough to reckon by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedcl.data.crops import Crops, Item
from fedcl.data.samples import Stacked
from fedcl.data.scans import Scan
from fedcl.learning.step import Activations
from fedcl.tasks.losses import segmentation_loss
from strategies.cauaug import analytic, restyle, standard
from strategies.parts.anatomy import SECTORS, levels, places, quantiles, regions, reshape
from strategies.parts.decoder import Decoder
from strategies.souvenir import repaint
from tests.small import Whole, ce, logits, make, step
from tests.summaries import Line, past

# --- CauAug ----------------------------------------------------------------------------------


def archive(images: torch.Tensor, stage: int = 0, site: str = "A") -> dict[str, torch.Tensor]:
    cauaug = make("cauaug")
    slices = Stacked(images, images.long())
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


@pytest.mark.parametrize("shape", [(2, 8, 10), (1, 6, 8, 10)])
def test_cauaug_style_is_numpys_of_slices_and_volumes(shape: tuple[int, ...]):
    images = np.random.default_rng(0).normal(3, 2, (5, *shape)).astype(np.float32)
    space = tuple(range(2, images.ndim))
    samples = Stacked(torch.from_numpy(images), torch.zeros(5, 1, *shape[1:]).long())
    told = make("cauaug").style(nn.Identity(), samples)
    expected = {
        "spectrum": np.abs(np.fft.rfftn(images, axes=space)).mean(0),
        "mean": images.mean((0, *space)),
        "std": images.std((0, *space)),
    }
    for name, form in make("cauaug").reporting(nn.Identity(), shape).forms.items():
        np.testing.assert_allclose(told[name], expected[name], rtol=1e-4, err_msg=name)
        assert form.problem(told[name]) is None and told[name].dtype == np.float32


@pytest.mark.parametrize("name", ["cauaug", "ewc", "mas", "souvenir"])
def test_reports_do_not_depend_on_how_many_samples_are_loaded_at_a_time(name: str):
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(1, 37, 12, 16, generator=rng)
    scan = Scan.of(image, (image[0] > 1).byte())
    loaded = Crops([Item(scan, n) for n in range(37)], (12, 16), torch.device("cpu"))
    ready = loaded[torch.arange(37)]
    assert len(list(loaded.parts(16))) == 3 and len(list(ready.parts(16))) == 1
    reporting, network = make(name).reporting(Line(), (1, 12, 16)), Line()
    one, other = (reporting.tell(network, samples) for samples in (loaded, ready))
    assert one.keys() == other.keys() == reporting.forms.keys()
    for key, value in one.items():
        np.testing.assert_allclose(value, other[key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_of_a_hospital_that_trains_again_the_newest_record_is_kept():
    cauaug, slices = make("cauaug"), Stacked(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2).long())
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


@pytest.mark.parametrize("size", [(8, 8), (4, 6, 8)])
def test_cauaug_own_style_changes_nothing_about_one_image(size: tuple[int, ...]):
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        restyle(image, archive(image), torch.Generator()), image, atol=0.05, rtol=0.05
    )


@pytest.mark.parametrize("size", [(16, 16), (6, 8, 10)])
def test_cauaug_random_network_keeps_moments_and_is_drawn_anew(size: tuple[int, ...]):
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(3, 1, *size, generator=rng) * 2 + 1
    one, two = analytic(images, rng), analytic(images, rng)
    for answer in (one, two):
        torch.testing.assert_close(answer.flatten(2).mean(2), images.flatten(2).mean(2))
        torch.testing.assert_close(answer.flatten(2).std(2), images.flatten(2).std(2))
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


@pytest.mark.parametrize("dims", [2, 3])
def test_tkrl_rebuilds_the_image_from_masked_features(dims: int):
    convolution, size = {2: nn.Conv2d, 3: nn.Conv3d}[dims], (4,) * dims
    network = convolution(1, 2, 1, bias=False)
    images = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))
    decoder = Decoder([2], 1, dims)
    here = step(
        logits(0.5),
        logits(0.5),
        student=network,
        teacher=convolution(1, 2, 1),
        inputs=images,
        targets=torch.zeros(2, 1, *size, dtype=torch.int64),
        auxiliary=decoder,
        model=Whole(),
        teacher_model=Whole(),
        number=2,
    )
    tkrl = make("tkrl", vma=3.0, masked=0.5)
    value = tkrl.distil(here)["vma"]
    mask = tkrl.mask(here.activations.features, here.teacher_activations.features, size)
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
    report = make("souvenir").look_around(nn.Identity(), Stacked(images, labels))
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
