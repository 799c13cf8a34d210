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
from fedcl.learning.step import Activations, Step
from fedcl.seeding import torch_rng
from fedcl.timeline import POOL
from strategies.cauaug import restyle
from strategies.parts.decoder import Decoder
from strategies.parts.distillation import drawn
from strategies.parts.random_network import Through, drawn_layers, seen_through, standard
from tests.small import TASK, Whole, ce, logits, make, step
from tests.summaries import Line, past

# --- CauAug ----------------------------------------------------------------------------------


def archive(
    images: torch.Tensor, stage: int = 0, site: str = "A", **settings: object
) -> dict[str, torch.Tensor]:
    cauaug = make("cauaug", **settings)
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
    own = (14 / 4) ** 0.5, 3**0.5  # of either image
    assert kept["2/S/std"].item() == pytest.approx(sum(own) / 2)
    pooled = archive(images, deviation="pooled")["0/A/std"].item()
    assert pooled == pytest.approx(images.std(correction=0).item())


@pytest.mark.parametrize("shape", [(2, 8, 10), (1, 6, 8, 10)])
def test_cauaug_style_is_numpys_of_slices_and_volumes(shape: tuple[int, ...]):
    images = np.random.default_rng(0).normal(3, 2, (5, *shape)).astype(np.float32)
    space = tuple(range(2, images.ndim))
    samples = Stacked(torch.from_numpy(images), torch.zeros(5, 1, *shape[1:]).long())
    told = make("cauaug", deviation="pooled").style(nn.Identity(), samples)
    expected = {
        "spectrum": np.abs(np.fft.rfftn(images, axes=space)).mean(0),
        "mean": images.mean((0, *space)),
        "std": images.std((0, *space)),
    }
    for name, form in make("cauaug").reporting(nn.Identity(), TASK, shape).forms.items():
        np.testing.assert_allclose(told[name], expected[name], rtol=1e-4, err_msg=name)
        assert form.problem(told[name]) is None and told[name].dtype == np.float32


@pytest.mark.parametrize("name", ["cauaug", "ewc", "harmony", "mas", "souvenir"])
def test_reports_do_not_depend_on_how_many_samples_are_loaded_at_a_time(name: str):
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(1, 150, 12, 16, generator=rng)
    scan = Scan.of(image, (image[0] > 1).byte())
    loaded = Crops([Item(scan, n) for n in range(150)], (12, 16), torch.device("cpu"))
    ready = loaded[torch.arange(150)]
    assert [len(part) for part in ready.parts()] == [64, 64, 22]
    assert all(a.inputs.equal(b.inputs) for a, b in zip(loaded.parts(), ready.parts(), strict=True))
    reporting, network = make(name).reporting(Line(), TASK, (1, 12, 16)), Line()
    one, other = (reporting.tell(network, samples) for samples in (loaded, ready))
    assert one.keys() == other.keys() == reporting.forms.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)


def test_cauaug_tells_nothing_that_no_term_needs():
    cauaug = make("cauaug", dom=0.0)
    assert cauaug.reporting(nn.Identity(), TASK, (1, 4, 4)) is None
    here = step(logits(0.5, 0.5), logits(0.5, 0.5))
    assert cauaug.objective(here).keys() == {"seg", "kd"}


def test_of_a_hospital_that_trains_again_the_newest_record_is_kept_of_a_pool_every_one():
    cauaug, slices = make("cauaug"), Stacked(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2).long())
    told = cauaug.style(nn.Identity(), slices)
    memory: dict[str, np.ndarray] = {}
    for stage, sites in enumerate(["AB", "BC"]):
        reports = dict.fromkeys(sites, told)
        memory = cauaug.remember(past(nn.Identity(), stage=stage, reports=reports, memory=memory))
    assert {key.rpartition("/")[0] for key in memory} == {"0/A", "1/B", "1/C"}
    pool: dict[str, np.ndarray] = {}
    for stage in range(3):
        pool = cauaug.remember(past(nn.Identity(), stage=stage, reports={POOL: told}, memory=pool))
    assert {key.rpartition("/")[0] for key in pool} == {f"{stage}/{POOL}" for stage in range(3)}


def test_cauaug_restyle_keeps_the_phase_and_takes_magnitude_and_moments():
    rng = torch.Generator().manual_seed(0)
    old, new = (
        torch.randn(6, 1, 8, 8, generator=rng) * 3 + 5,
        torch.randn(2, 1, 8, 8, generator=rng),
    )
    styled = restyle(new, drawn(archive(old, deviation="pooled"), 2, rng))
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


def test_cauaug_an_image_of_one_value_stays_one():
    images = torch.stack([torch.full((1, 8, 8), -1.0), torch.randn(1, 8, 8), torch.zeros(1, 8, 8)])
    old = archive(torch.randn(6, 1, 8, 8) * 3 + 5)
    empty, other, nothing = restyle(images, drawn(old, 3, torch.Generator()))
    assert empty.eq(empty[0, 0, 0]).all() and nothing.eq(empty[0, 0, 0]).all()
    assert other.std() > 0 and other.isfinite().all()


@pytest.mark.parametrize("size", [(8, 8), (4, 6, 8)])
def test_cauaug_own_style_changes_nothing_about_one_image(size: tuple[int, ...]):
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        restyle(image, drawn(archive(image), 1, torch.Generator())), image, atol=0.05, rtol=0.05
    )


@pytest.mark.parametrize("size", [(16, 16), (6, 8, 10)])
def test_cauaug_random_network_keeps_moments_and_is_drawn_anew(size: tuple[int, ...]):
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(3, 1, *size, generator=rng) * 2 + 1
    layers = [drawn_layers(1, len(size), rng) for _ in range(2)]
    one, two = (seen_through(drawn, images) for drawn in layers)
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


@pytest.fixture
def normalised() -> tuple[nn.BatchNorm2d, Step]:
    """Return a layer whose running statistics are those of the last batch, and a step with it."""
    layer = nn.BatchNorm2d(1, momentum=1.0)
    student = nn.Sequential(layer, nn.Conv2d(1, 2, 1)).train()
    images = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 5
    labels = torch.zeros(8, 1, 4, 4, dtype=torch.int64)
    return layer, step(logits(0.5), None, student=student, inputs=images, targets=labels)


def test_cauaug_leaves_running_statistics_to_the_images(normalised: tuple[nn.BatchNorm2d, Step]):
    layer, here = normalised
    make("cauaug", test_networks=0).objective(here)
    torch.testing.assert_close(layer.running_mean, here.inputs.mean((0, 2, 3)))


def test_cauaug_running_statistics_are_of_what_tests_show(normalised: tuple[nn.BatchNorm2d, Step]):
    layer, here = normalised
    layers = drawn_layers(1, 2, torch.Generator().manual_seed(0))
    make("cauaug").objective(here)
    seen = seen_through(layers, here.inputs)
    torch.testing.assert_close(layer.running_var, seen.var((0, 2, 3)))
    assert not torch.allclose(seen, here.inputs, atol=0.1)


def test_cauaug_draws_a_hospital_per_batch_or_per_image(monkeypatch: pytest.MonkeyPatch):
    counts: list[int] = []

    def counted(archive: object, count: int, rng: torch.Generator) -> dict[str, torch.Tensor]:
        counts.append(count)
        return drawn(archive, count, rng)

    monkeypatch.setattr("strategies.cauaug.drawn", counted)
    memory = archive(torch.randn(4, 1, 1, 2))
    here = step(logits(0.8, 0.3), logits(0.9, 0.4), batch=3, memory=memory)
    for domain in ("batch", "image"):
        make("cauaug", domain=domain).objective(here)
    assert counts == [1, 3]


@pytest.mark.parametrize("networks", [1, 3])
def test_cauaug_tests_see_images_through_the_same_random_networks(networks: int):
    cauaug, network = make("cauaug", test_networks=networks), Line(0.7, 0.1)
    images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    one, other = (cauaug.answering(network, TASK) for _ in range(2))
    found = one(images)
    assert found.equal(other(images)) and torch.allclose(found[2:3], one(images[2:3]), atol=1e-6)
    assert not torch.allclose(found, network(images), atol=0.01)
    assert isinstance(one, Through) and one.state_dict().keys() == {"network.a", "network.b"}
    rngs = [torch_rng("cauaug", number) for number in range(networks)]
    each = [network(seen_through(drawn_layers(1, 2, rng), images)) for rng in rngs]
    torch.testing.assert_close(found, torch.stack(each).mean(0))


@pytest.mark.parametrize("settings", [{"ana": False}, {"test_networks": 0}])
def test_cauaug_tests_see_images_as_they_are_where_asked(settings: dict[str, object]):
    network = Line()
    assert make("cauaug", **settings).answering(network, TASK) is network


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
    few = make("tkrl", masked=0.05).mask([student], [teacher], (4, 10))
    assert not few.any(), "half a position is none ..."
    rounded = make("tkrl", masked=0.05, rounding="up").mask([student], [teacher], (4, 10))
    assert rounded[0, 0].equal(expected), "... or one"
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
