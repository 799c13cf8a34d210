"""Segmentation of slices and volumes: samples, windows, and scores on the images' own grids."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedcl.data.cases import Case, SiteData
from fedcl.data.framing import VOXELS
from fedcl.data.labels import IGNORED
from fedcl.data.samples import Stacked
from fedcl.data.scans import Scan
from fedcl.registry import MODEL
from fedcl.seeding import seeded
from fedcl.tasks.segmentation import Segmentation

RNG = np.random.default_rng(2)
CPU = torch.device("cpu")


def case(*shapes: tuple[int, ...], own: tuple[int, int, int] | None = None) -> Case:
    """Return a patient with an image of each shape, (D, H, W)."""
    scans = []
    for shape in shapes:
        labels = torch.from_numpy(RNG.integers(0, 2, shape).astype(np.uint8))
        image = torch.from_numpy(RNG.normal(size=(1, *shape)).astype(np.float32))
        truth = None if own is None else torch.from_numpy(RNG.integers(0, 2, own).astype(np.uint8))
        scans.append(Scan.of(image, labels, (2.0, 1.0, 1.0), truth))
    return Case("p", tuple(scans))


def pointwise(dims: int) -> nn.Module:
    """Return a network that looks at every voxel by itself: windows change nothing."""
    with seeded("pointwise"):
        return {2: nn.Conv2d, 3: nn.Conv3d}[dims](1, 3, 1)


class Sizes(nn.Module):
    """Answers by a convolution, and notes the size of whatever it is shown."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.net, self.seen = pointwise(dims), []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return self.net(images)


@pytest.mark.parametrize(
    ("dims", "settings", "shape"),
    [
        (2, {}, (3, 12, 17)),
        (2, {"size": (8, 8)}, (3, 20, 17)),
        (2, {"size": (16, 24)}, (3, 12, 17)),
        (2, {"patch": (8, 8)}, (3, 20, 5)),
        (3, {}, (5, 12, 17)),
        (3, {"patch": (4, 8, 8)}, (9, 20, 17)),
        (3, {"patch": (4, 8, 8)}, (2, 20, 17)),
        (3, {"size": (8, 16, 16)}, (5, 12, 11)),
        (3, {"patch": (4, 8, 8), "overlap": 0.0}, (9, 20, 17)),
    ],
)
def test_whole_images_are_answered_whatever_the_size_of_samples(dims: int, settings, shape):
    task, patient = Segmentation(1, 3, dims=dims, **settings), case(shape, shape)
    network = Sizes(dims)
    found = task.predict(network, patient, CPU, amp=False)
    assert len(found) == 2 and not network.training
    weight, bias = (p.detach().double().flatten() for p in network.net.parameters())
    for answer, scan in zip(found, patient.scans, strict=True):
        logits = weight[:, None, None, None] * scan.content.image().double() + bias.view(3, 1, 1, 1)
        expected = logits.exp() / logits.exp().sum(0)
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    window = settings.get("patch") or settings.get("size")
    if window:
        assert {size[2:] for size in network.seen} == {window}, "as in training"
    assert all(np.prod(size) <= VOXELS or size[0] == 1 for size in network.seen)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_site_tests_images_padded_as_it_trains_on_them(dims: int) -> None:
    """Normalising over an image sees its padding: the answer would be another one without."""
    with seeded("normalised"):
        layer = {2: nn.Conv2d, 3: nn.Conv3d}[dims](1, 3, 3, padding=1)
        network = nn.Sequential({2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](1), layer)
    trained, tested = [case((4, 16, 24)), case((6, 12, 16))], case((4, 8, 16))
    task = Segmentation(1, 3, dims=dims).sized(trained)
    largest = (6, 16, 24)[-dims:]
    assert task.samples(trained, CPU).shape == (1, *largest)
    (found,) = task.predict(network, tested, CPU, amp=False)
    (scan,) = tested.scans
    image = scan.content.image()
    border = (4, 4, 4, 4) if dims == 2 else (4, 4, 4, 4, 1, 1)
    full = torch.nn.functional.pad(image, border, value=float(image.min()))
    shown = full.movedim(1, 0) if dims == 2 else full[None]
    answer = network(shown).softmax(1).detach()[..., 4:12, 4:20]
    expected = answer.movedim(0, 1) if dims == 2 else answer[0, :, 1:5]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (bare,) = Segmentation(1, 3, dims=dims).predict(network, tested, CPU, amp=False)
    assert (found - bare).abs().max() > 0.01


def test_a_size_that_is_given_is_that_of_every_site() -> None:
    for settings in ({"size": (8, 8)}, {"patch": (8, 8)}):
        assert Segmentation(1, 2, **settings).sized([case((1, 30, 20))]).window == (8, 8)


def test_where_windows_overlap_the_middle_of_each_counts_most():
    """A network that answers by the place in its window shows how windows are weighed."""

    class Ramp(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            ramp = torch.linspace(-1, 1, images.shape[-1]).expand(images.shape)
            return torch.cat([ramp, -ramp], 1)

    task = Segmentation(1, 2, patch=(8, 8), overlap=0.5)
    (found,) = task.predict(Ramp(), case((1, 8, 16)), CPU, amp=False)
    (mixed,) = found[0].log().sub(found[1].log()).div(2)  # back to the ramp's logits
    # By hand, in a middle row: columns 4 to 11 lie in two windows, weights of deviation 8 / 8.
    place = np.arange(8)
    ramp, gauss = np.linspace(-1, 1, 8), np.exp(-0.5 * (place - 3.5) ** 2)
    total, weights = np.zeros(16), np.zeros(16)
    for start in (0, 4, 8):
        total[start : start + 8] += gauss * ramp
        weights[start : start + 8] += gauss
    np.testing.assert_allclose(mixed[3], total / weights, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_networks_are_shown_multiples_of_what_they_need(dims: int):
    models = [
        MODEL.make({"name": "plain_unet", "channels": [4, 8, 8]}),
        MODEL.make({"name": "dynunet", "filters": [4, 8, 8], "strides": [3, 2], "supervised": 0}),
    ]
    task = Segmentation(1, 2, dims=dims, size=(13,) * dims).fitted(models)
    assert task.multiples == (12,) * dims and task.window == (24,) * dims
    patient = case((5, 9, 30))
    assert task.samples([patient], CPU).shape == (1, *(24,) * dims)
    for model in models:
        (found,) = task.predict(task.build(model, []), patient, CPU, amp=False)
        assert found.shape == (2, 5, 9, 30)
        torch.testing.assert_close(found.sum(0), torch.ones(5, 9, 30))
    whole = Segmentation(1, 2, dims=dims).fitted(models)
    assert whole.window == ()
    shape = tuple(-(-n // 12) * 12 for n in (5, 9, 30)[-dims:])
    assert whole.samples([patient], CPU).shape == (1, *shape)


def test_a_single_voxel_at_the_bottom_is_none():
    model = MODEL.make({"name": "plain_unet", "channels": [4, 8, 8], "norm": "instance"})
    task = Segmentation(1, 2, size=(3, 3)).fitted([model])
    assert task.window == (4, 8)
    samples = task.samples([case((2, 3, 3))], CPU)
    assert task.problem(task.build(model, []), samples, 2) is None


@pytest.mark.parametrize("dims", [2, 3])
def test_scores_are_those_of_numpy_on_the_own_grid(dims: int):
    """Twice as many rows and columns, three times as many slices, linearly between."""
    patient = case((2, 8, 8), own=(6, 16, 16))
    (scan,) = patient.scans
    share = torch.from_numpy(RNG.random((2, 8, 8)).astype(np.float32))
    answer = torch.stack([1 - share, share])
    found = Segmentation(1, 2, dims=dims).score([answer], patient, ("dice", "iou"))

    def linear(old: int, new: int) -> np.ndarray:
        at = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        return (1 - np.abs(at[:, None] - np.arange(old))).clip(0)

    larger = np.einsum(
        "ai,bj,ck,ijk->abc", linear(2, 6), linear(8, 16), linear(8, 16), answer[1].double()
    )
    one, other = larger > 0.5, scan.content.truth().numpy() > 0
    both, any_ = (one & other).sum(), (one | other).sum()
    assert found["dice"] == pytest.approx(2 * both / (one.sum() + other.sum()))
    assert found["iou"] == pytest.approx(both / any_)


def test_coarser_targets_are_the_label_in_the_middle():
    targets = torch.from_numpy(RNG.integers(0, 4, (2, 1, 6, 8, 12)))
    outputs = torch.zeros(2, 4, 3, 4, 4)
    task = Segmentation(1, 4, dims=3)
    found = task.reduced(targets, outputs)
    assert torch.equal(found, targets[:, :, 1::2, 1::2, 1::3])
    assert task.reduced(targets, torch.zeros(2, 4, 6, 8, 12)) is targets


def test_what_a_site_has_is_counted_on_the_images_as_they_came():
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    labels[0, 0] = 1
    own = torch.zeros(2, 8, 8, dtype=torch.uint8)
    own[0, :2], own[1, 7] = 2, IGNORED
    scan = Scan.of(torch.zeros(1, 2, 4, 4), labels, (5.0, 0.5, 0.5), own, "axial")
    data = SiteData((Case("a", (scan,)),), (Case("b", (scan, scan)),), ())
    assert Segmentation(1, 3).describe(data) == {
        "slices": "6", "size": "8x8", "voxel": "5x0.5x0.5", "labelled": "0%, 13.3%",
        "ignored": "6.2%", "plane": "axial", "trained on": "4x4",
    }  # fmt: skip
    assert Segmentation(1, 3, dims=3).describe(data)["size"] == "2x8x8"


def test_the_slice_with_most_of_a_label_is_drawn():
    labels = torch.zeros(4, 8, 8, dtype=torch.uint8)
    labels[1, :2], labels[2, :4], labels[3] = 1, 1, IGNORED
    image = torch.arange(4 * 64.0).reshape(1, 4, 8, 8)
    answer = torch.rand(2, 4, 8, 8)
    task = Segmentation(1, 2)
    drawn = task.drawing.picture(Case.of("p", image, labels), [answer])
    assert torch.equal(drawn.image, image[0, 2]) and torch.equal(drawn.label, labels[2])
    assert torch.equal(drawn.prediction, answer[:, 2].argmax(0))


def test_a_network_that_cannot_take_the_images_or_a_batch_of_one_is_told():
    """Networks of others need not be fitted: too small an image, a norm over a single value."""
    task = Segmentation(1, 2)
    samples = Stacked(torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8, dtype=torch.int64))
    large = torch.nn.Conv2d(1, 2, 9)
    problem = task.problem(large, samples)
    assert problem is not None and "cannot take images of 8 x 8 pixels" in problem
    single = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(1), torch.nn.Conv2d(1, 2, 1),
        torch.nn.Upsample(8),
    )  # fmt: skip
    assert task.problem(single, samples) is None and task.problem(single, samples, 2) is None
    problem = task.problem(single, samples, 1)
    assert problem is not None and "cannot be trained on a batch of 1" in problem
    assert "learner.batch_size" in problem
