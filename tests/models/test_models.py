"""Every backbone: its features, its limits, and the methods that need its features."""

import numpy as np
import pytest
import torch

from fedcl.data.cases import Case
from fedcl.errors import ConfigError
from fedcl.learning.step import Step, watch
from fedcl.models.base import defined
from fedcl.registry import MODEL
from fedcl.tasks.losses import segmentation_loss
from fedcl.tasks.segmentation import Segmentation
from tests.conftest import read

SMALL = {
    "unet": {"channels": [4, 8, 16]},
    "plain_unet": {"channels": [4, 8, 16], "convolutions": 2},
    "segresnet": {"down": [1, 1, 1], "up": [1, 1]},
    "swinunetr": {"depths": [1, 1, 1, 1]},
    "multitask_unet": {"channels": [4, 8, 16]},
    "multitask_swinunetr": {"features": 12, "depths": [1, 1, 1, 1]},
    "dynunet": {"filters": [4, 8, 16, 32]},
    "swinunet": {
        "features": 4,
        "depths": [1, 2, 1],
        "heads": [1, 2, 2],
        "patch": 2,
        "window": 2,
    },
}
MULTITASK = [name for name in SMALL if name.startswith("multitask")]
SPACE = {2: (64, 64), 3: (32, 32, 64)}
"""Sizes that every model can take, as few voxels as may be."""


@pytest.mark.parametrize("dims", SPACE)
@pytest.mark.parametrize("name", SMALL)
def test_features_come_from_fine_to_coarse_and_feed_the_logits(name: str, dims: int):
    model = MODEL.make({"name": name, **SMALL[name]})
    network = model.build(2, 3, dims).eval()
    images = torch.randn(2, 2, *SPACE[dims])
    assert all(n % by == 0 for n, by in zip(SPACE[dims], model.multiples(dims), strict=True))
    seen = watch(network, model, images)
    logits, features = seen.outputs, seen.features
    assert logits.shape == (2, 3, *SPACE[dims])
    assert len(features) >= 3
    for level in (*features, *seen.decoder):
        assert level.ndim == 2 + dims
        shrunk = {n // m for n, m in zip(SPACE[dims], level.shape[2:], strict=True)}
        assert len(shrunk) == 1, "by the same factor along every axis"
    sizes = [feature.shape[-1] for feature in features]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 64
    back = [feature.shape[-1] for feature in seen.decoder]
    assert back == sorted(back, reverse=True) and back[0] == 64 and len(back) >= 2
    gradients = torch.autograd.grad(logits.sum(), [*features, *seen.decoder])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    torch.testing.assert_close(network(images), logits), "hooks are gone and changed nothing"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("units", [0, 1, 2])
def test_every_level_of_the_unet_is_a_scale(units: int, dims: int):
    model = MODEL.make({"name": "unet", "channels": [4, 8, 16], "res_units": units})
    images = torch.randn(1, 1, *(32,) * dims)
    features = watch(model.build(1, 2, dims), model, images).features
    assert [feature.shape[1] for feature in features] == [4, 8, 16]


def plain_unet_parameters(dims: int) -> int:
    """By hand: 3 x 3 convolutions without bias, norms, 2 x 2 transposed convolutions, a head."""

    def conv(before: int, after: int) -> int:
        return 3**dims * before * after + 2 * after

    down = conv(1, 16) + conv(16, 32) + conv(32, 64)
    widen = (2**dims * 64 * 32 + 32) + (2**dims * 32 * 16 + 16)
    up = conv(64, 32) + conv(32, 16)
    return down + widen + up + (16 * 2 + 2)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_plain_unet_has_the_parameters_of_its_formula(dims: int):
    network = MODEL.make({"name": "plain_unet", "channels": [16, 32, 64]}).build(1, 2, dims)
    expected = plain_unet_parameters(dims)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1_942_306),
        ({"bias": True, "narrowing": False, "first_norm": False}, 2_313_906),
    ],
)
def test_the_unet_of_ted_has_the_parameters_that_are_published(settings, expected: int):
    levels = {"channels": [16, 32, 64, 128, 256], "convolutions": 2}
    network = MODEL.make({"name": "plain_unet", **levels, **settings}).build(1, 2, 2)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    ("channels", "classes", "expected"), [(3, 9, 27_168_900), (1, 2, 27_165_156)]
)
def test_the_swin_unet_has_the_parameters_that_are_published(channels, classes, expected: int):
    """27.17 million; colours and nine classes as its authors have."""
    network = MODEL.make({"name": "swinunet"}).build(channels, classes, 2)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(("window", "size"), [(7, 224), (6, 192), (2, 64)])
def test_windows_divide_every_level_of_the_swin_unet(window: int, size: int):
    model = MODEL.make({"name": "swinunet", "window": window})
    assert list(model.multiples(2)) == [size, size]
    sizes = [size // model.patch // 2**level for level in range(4)]
    assert all(n % window == 0 for n in sizes) and sizes[-1] == window


def test_blocks_are_left_out_in_training_alone():
    settings = {**SMALL["swinunet"], "drop_path": 0.9}
    network = MODEL.make({"name": "swinunet", **settings}).build(1, 2, 2)
    images = torch.randn(4, 1, 16, 16)
    given = [network.train()(images) for _ in range(8)]
    assert any(not torch.equal(given[0], other) for other in given[1:])
    assert torch.equal(network.eval()(images), network(images))


def test_a_batch_is_normalised_by_its_own_in_tests_too():
    """As in training: what an image gives depends on those beside it, and nothing is kept."""
    model = MODEL.make({"name": "plain_unet", "channels": [4, 8], "norm": "batch_own"})
    network, images = model.build(1, 2, 2), torch.randn(3, 1, 8, 8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    trained = network.train()(images)
    tested = network.eval()(images)
    torch.testing.assert_close(tested, trained)
    assert not torch.allclose(network(images[:1]), tested[:1])
    assert not any("running" in key for key in before)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    first = network.get_submodule("down.0.0")(images)
    by_hand = (first - first.mean((0, 2, 3), keepdim=True)) / (
        first.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(network.get_submodule("down.0.1")(first), by_hand)


def test_the_published_student_is_small_beside_its_teacher():
    teacher = {"name": "plain_unet", "channels": [64, 128, 256, 512, 1024], "convolutions": 2}
    large = sum(p.numel() for p in MODEL.make(teacher).build(1, 2, 2).parameters())
    assert plain_unet_parameters(2) < 0.05 * large, (
        "the published student is below 5 % of the teacher"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "plain_unet", "channels": [8]}, "model.channels: at least two levels"),
        ({"name": "segresnet", "filters": 12}, "model.filters: must be a multiple of 8"),
        ({"name": "segresnet", "up": [1]}, "model.up: one entry fewer"),
        ({"name": "swinunetr", "features": 20}, "model.features: must be a multiple of 12"),
        ({"name": "swinunetr", "heads": [3, 6, 12]}, "model.heads: four numbers needed"),
        ({"name": "swinunetr", "heads": [5, 6, 12, 24]}, "5 does not divide the 12 channels"),
        ({"name": "swinunet", "heads": [3, 6, 12]}, "model.heads: one number per level"),
        ({"name": "swinunet", "heads": [3, 6, 12, 25]}, "25 does not divide the 768 channels"),
        ({"name": "swinunet", "features": 9, "heads": [3, 6, 12, 24]}, "must be even, got 9"),
        ({"name": "dynunet", "filters": [8, 16]}, "model.filters: at least three levels"),
        ({"name": "dynunet", "strides": [2, 2]}, "model.strides: 3 needed for 4 levels, got 2"),
        ({"name": "dynunet", "kernels": [3]}, "model.kernels: 4 needed for 4 levels, got 1"),
        ({"name": "dynunet", "supervised": 3}, "model.supervised: at most 2 for 4 levels"),
    ],
)
def test_what_cannot_be_built_is_said(settings: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        MODEL.make(settings)


BACKBONES = {
    "unet": [],
    "plain_unet": ["model.norm=instance"],
    "segresnet": ["model.filters=8", "model.down=[1,1]", "model.up=[1]"],
    "swinunetr": ["model.depths=[1,1,1,1]", "scenario.size=64"],
    "dynunet": ["model.filters=[8,16,32]", "model.supervised=1"],
    "swinunet": ["model.features=12", "model.depths=[1,1,1]", "model.heads=[1,2,3]",
                 "model.window=2"],
}  # fmt: skip


@pytest.mark.parametrize("strategy", ["plop", pytest.param("tkrl", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("model", BACKBONES)
def test_methods_take_features_from_any_backbone(cli, tmp_path, model: str, strategy: str):
    overrides = [
        "engine=inprocess", "tracking.enabled=false", "scenario.size=32", "scenario.patients=4",
        "scenario.slices=1", "timeline.rounds=1", "learner.steps=2", "timeline.stages=[[A],[C]]",
        f"model={model}", *BACKBONES[model], f"strategy={strategy}", f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    extra = ["strategy.probes.steps=2"] if strategy == "tkrl" else []
    assert cli(*overrides, *extra) == 0


def test_images_too_small_for_a_backbone_are_padded(cli, tmp_path):
    overrides = [
        "engine=inprocess", "tracking.enabled=false", "scenario.size=32", "scenario.patients=4",
        "scenario.slices=1", "timeline.rounds=1", "learner.steps=2", "timeline.stages=[[A],[C]]",
        "model=swinunetr", "model.depths=[1,1,1,1]", "strategy=finetune",
    ]  # fmt: skip
    assert cli(*overrides, f"run.dir={tmp_path / 'run'}") == 0
    results = read(tmp_path / "run")
    assert results["status"] == "completed" and results["failures"] == []


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 40, 22), (2, 40, 21)])
def test_images_that_do_not_divide_are_padded_and_answered_in_their_own_size(shape):
    model = MODEL.make({"name": "swinunetr", **SMALL["swinunetr"]})
    image = torch.randn(1, *shape)
    case = Case.of("p", image, torch.ones(shape, dtype=torch.uint8))
    task = Segmentation(1, 2).fitted([model])
    network = task.build(model, [])
    samples = task.samples([case], torch.device("cpu"))
    rows, columns = samples.shape[1:]
    assert rows % 32 == columns % 32 == 0 and rows * columns > 32 * 32
    assert len(samples) == len(image[0]) and task.problem(network, samples, 1) is None
    shown = samples[torch.arange(len(samples))]
    _, _, top, left = shown.targets.nonzero().amin(dim=0).tolist()
    assert abs(rows - shape[1] - 2 * top) <= 1 and abs(columns - shape[2] - 2 * left) <= 1
    border = [(0, 0), (top, rows - shape[1] - top), (left, columns - shape[2] - left)]
    expected = np.pad(image[0], border, constant_values=float(image.min()))
    assert np.array_equal(shown.inputs[:, 0], expected)
    assert np.array_equal(shown.targets[:, 0], np.pad(np.ones(shape), border))
    (found,) = task.predict(network, case, torch.device("cpu"), amp=False)
    assert found.shape == (2, *shape)
    with torch.no_grad():
        whole = network(shown.inputs).softmax(1).movedim(0, 1)
    inner = whole[:, :, top : top + shape[1], left : left + shape[2]]
    torch.testing.assert_close(found, inner)


@pytest.mark.parametrize("dims", [2, 3])
def test_coarser_levels_are_judged_in_training(dims: int):
    """By hand: of a voxel, the label in its middle; half the loss, a quarter."""
    model = MODEL.make({"name": "dynunet", "filters": [2, 4, 4, 8]})
    task, full = Segmentation(1, 3, dims=dims), (16,) * dims
    targets = torch.randint(0, 3, (2, 1, *full))
    network = task.build(model, []).train()
    step = Step(
        task=task, student=network, model=model, inputs=torch.randn(2, 1, *full), targets=targets,
        rng=torch.Generator(),
    )  # fmt: skip
    half, quarter = step.activations.aside
    assert half.shape == (2, 3, *(8,) * dims) and quarter.shape == (2, 3, *(4,) * dims)
    assert step.outputs.shape == (2, 3, *full)
    expected = 0.5 * segmentation_loss(half, targets[:, :, *(slice(1, None, 2),) * dims])
    expected += 0.25 * segmentation_loss(quarter, targets[:, :, *(slice(2, None, 4),) * dims])
    terms = step.model_loss()
    assert terms["deep"].item() == pytest.approx(expected.item(), rel=1e-5)
    terms["deep"].backward()
    moved = {key for key, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    heads = {f"deep_supervision_heads.{n}.conv.conv.{kind}" for n in "01" for kind in
             ("weight", "bias")}  # fmt: skip
    assert heads <= moved and not any(key.startswith("output_block") for key in moved)


def test_levels_may_differ_along_the_axes():
    """Thick slices: 1 along them until the others have caught up."""
    settings = {
        "filters": [4, 4, 8, 8],
        "strides": [[1, 2, 2], 2, 2],
        "kernels": [[1, 3, 3], 3, 3, 3],
    }
    model = MODEL.make({"name": "dynunet", **settings, "supervised": 0})
    assert list(model.multiples(3)) == [4, 8, 8]
    seen = watch(model.build(1, 2, 3), model, torch.randn(1, 1, 8, 16, 16))
    assert [tuple(level.shape[2:]) for level in seen.features] == [
        (8, 16, 16), (8, 8, 8), (4, 4, 4), (2, 2, 2),
    ]  # fmt: skip
    assert seen.aside == [] and seen.outputs.shape == (1, 2, 8, 16, 16)
    with pytest.raises(ConfigError, match=r"model\.strides: .*a list of 2"):
        model.build(1, 2, 2)


@pytest.mark.parametrize("name", SMALL)
def test_every_array_of_a_network_is_there_once(name: str):
    """They are sent, averaged and kept by name: one of two names would be forgotten."""
    network = MODEL.make({"name": name, **SMALL[name]}).build(1, 2, 2)
    names: dict[int, list[str]] = {}
    for key, value in network.state_dict().items():
        names.setdefault(value.data_ptr(), []).append(key)
    twice = [same for same in names.values() if len(same) > 1]
    assert twice == []


@pytest.mark.parametrize("dims", SPACE)
@pytest.mark.parametrize("name", MULTITASK)
def test_the_image_is_rebuilt_in_training_and_what_is_lost_is_weighed(name: str, dims: int):
    model = MODEL.make({"name": name, **SMALL[name], "reconstruction": 0.5})
    network = model.build(2, 3, dims).train()
    images = torch.randn(2, 2, *SPACE[dims])
    seen = watch(network, model, images)
    (rebuilt,) = seen.aside
    assert rebuilt.shape == images.shape and seen.outputs.shape == (2, 3, *SPACE[dims])
    terms = model.terms(seen.aside, images, lambda outputs: outputs.sum())
    assert terms["recon"].item() == pytest.approx(0.5 * ((rebuilt - images) ** 2).mean().item())
    terms["recon"].backward()
    moved = {key for key, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(key.startswith("rebuild") for key in moved)
    assert any(not key.startswith("rebuild") for key in moved), "the encoder learns by it, too"
    assert not any(key.startswith(("segment", "out.", "decoder")) for key in moved)
    assert watch(network.eval(), model, images).aside == []


@pytest.mark.parametrize("dims", SPACE)
@pytest.mark.parametrize("name", MULTITASK)
def test_with_a_second_decoder_the_first_answers_as_without(name: str, dims: int):
    model = MODEL.make({"name": name, **SMALL[name]})
    network = model.build(1, 2, dims).eval()
    without = {
        "multitask_unet": {"name": "plain_unet", "convolutions": 2},
        "multitask_swinunetr": {"name": "swinunetr"},
    }
    twin = MODEL.make({**SMALL[name], **without[name]}).build(1, 2, dims).eval()
    twin.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("rebuild")}
    )
    images = torch.randn(1, 1, *SPACE[dims])
    assert torch.equal(network(images), twin(images))


def test_a_multi_task_model_learns_to_rebuild_with_any_strategy(tiny):
    tiny_model = ["model=multitask_unet", "model.channels=[4,8]"]
    results = tiny(*tiny_model, "strategy=plop")
    assert results["model"] == "multitask_unet" and results["status"] == "completed"


@pytest.mark.parametrize("name", ["unet", "segresnet", "swinunetr"])
def test_what_monai_builds_alone_is_said_as_it_is_built(name: str):
    model = MODEL.make({"name": name})
    definition = model.definition(1, 2, 2)
    made, wanted = defined(definition), model.build(1, 2, 2)
    assert definition["_target_"] == f"monai.networks.nets.{type(wanted).__name__}"
    shapes = [{k: v.shape for k, v in one.state_dict().items()} for one in (made, wanted)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["plain_unet", "dynunet", "swinunet", *MULTITASK])
def test_what_is_no_network_of_monais_is_not_said_to_be(name: str):
    assert MODEL.make({"name": name}).definition(1, 2, 2) == {}
