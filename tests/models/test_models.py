"""Every backbone: its features, its limits, and the methods that need its features."""

import pytest
import torch

from fedcl.errors import ConfigError
from fedcl.learning.step import watch
from fedcl.registry import MODEL

SMALL = {
    "unet": {"channels": [4, 8, 16]},
    "plain_unet": {"channels": [4, 8, 16], "convolutions": 2},
    "segresnet": {"down": [1, 1, 1], "up": [1, 1]},
    "swinunetr": {"depths": [1, 1, 1, 1]},
    "multitask_unet": {"channels": [4, 8, 16]},
    "multitask_swinunetr": {"features": 12, "depths": [1, 1, 1, 1]},
}
MULTITASK = [name for name in SMALL if name.startswith("multitask")]


@pytest.mark.parametrize("name", SMALL)
def test_features_come_from_fine_to_coarse_and_feed_the_logits(name: str):
    model = MODEL.make({"name": name, **SMALL[name]})
    network = model.build(2, 3).eval()
    images = torch.randn(2, 2, 64, 64)
    seen = watch(network, model, images)
    logits, features = seen.outputs, seen.features
    assert logits.shape == (2, 3, 64, 64)
    assert len(features) >= 3
    sizes = [feature.shape[-1] for feature in features]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 64
    back = [feature.shape[-1] for feature in seen.decoder]
    assert back == sorted(back, reverse=True) and back[0] == 64 and len(back) >= 2
    gradients = torch.autograd.grad(logits.sum(), [*features, *seen.decoder])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    torch.testing.assert_close(network(images), logits), "hooks are gone and changed nothing"


@pytest.mark.parametrize("units", [0, 1, 2])
def test_every_level_of_the_unet_is_a_scale(units: int):
    model = MODEL.make({"name": "unet", "channels": [4, 8, 16], "res_units": units})
    features = watch(model.build(1, 2), model, torch.randn(1, 1, 32, 32)).features
    assert [feature.shape[1] for feature in features] == [4, 8, 16]


def test_the_plain_unet_has_the_parameters_of_its_formula():
    """By hand: 3 x 3 convolutions without bias, norms, 2 x 2 transposed convolutions, a head."""
    network = MODEL.make({"name": "plain_unet", "channels": [16, 32, 64]}).build(1, 2)

    def conv(before: int, after: int) -> int:
        return 9 * before * after + 2 * after

    down = conv(1, 16) + conv(16, 32) + conv(32, 64)
    widen = (4 * 64 * 32 + 32) + (4 * 32 * 16 + 16)
    up = conv(64, 32) + conv(32, 16)
    expected = down + widen + up + (16 * 2 + 2)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    teacher = {"name": "plain_unet", "channels": [64, 128, 256, 512, 1024], "convolutions": 2}
    large = sum(p.numel() for p in MODEL.make(teacher).build(1, 2).parameters())
    assert expected < 0.05 * large, "the published student is below 5 % of the teacher"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "plain_unet", "channels": [8]}, "model.channels: at least two levels"),
        ({"name": "segresnet", "filters": 12}, "model.filters: must be a multiple of 8"),
        ({"name": "segresnet", "up": [1]}, "model.up: one entry fewer"),
        ({"name": "swinunetr", "features": 20}, "model.features: must be a multiple of 12"),
        ({"name": "swinunetr", "heads": [3, 6, 12]}, "model.heads: four numbers needed"),
        ({"name": "swinunetr", "heads": [5, 6, 12, 24]}, "5 does not divide the 12 channels"),
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
}


@pytest.mark.parametrize("strategy", ["plop", "tkrl"])
@pytest.mark.parametrize("model", BACKBONES)
def test_methods_take_features_from_any_backbone(cli, tmp_path, model: str, strategy: str):
    overrides = [
        "engine=inprocess", "tracking.enabled=false", "scenario.size=32", "scenario.patients=4",
        "scenario.slices=1", "timeline.rounds=1", "learner.steps=2", "timeline.stages=[[A],[C]]",
        f"model={model}", *BACKBONES[model], f"strategy={strategy}", f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    extra = ["strategy.probes.steps=2"] if strategy == "tkrl" else []
    assert cli(*overrides, *extra) == 0


def test_images_too_small_for_a_backbone_are_refused(cli, tmp_path, capsys):
    overrides = ["model=swinunetr", "scenario.size=32", "engine=inprocess"]
    assert cli(*overrides, f"run.dir={tmp_path / 'run'}") == 2
    assert "the model cannot take images of 32 x 32" in capsys.readouterr().err


@pytest.mark.parametrize("name", MULTITASK)
def test_the_image_is_rebuilt_in_training_and_what_is_lost_is_weighed(name: str):
    model = MODEL.make({"name": name, **SMALL[name], "reconstruction": 0.5})
    network = model.build(2, 3).train()
    images = torch.randn(2, 2, 64, 64)
    seen = watch(network, model, images)
    (rebuilt,) = seen.aside
    assert rebuilt.shape == images.shape and seen.outputs.shape == (2, 3, 64, 64)
    terms = model.terms(seen.aside, images)
    assert terms["recon"].item() == pytest.approx(0.5 * ((rebuilt - images) ** 2).mean().item())
    terms["recon"].backward()
    moved = {key for key, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(key.startswith("rebuild") for key in moved)
    assert any(not key.startswith("rebuild") for key in moved), "the encoder learns by it, too"
    assert not any(key.startswith(("segment", "out.", "decoder")) for key in moved)
    assert watch(network.eval(), model, images).aside == []


@pytest.mark.parametrize("name", MULTITASK)
def test_with_a_second_decoder_the_first_answers_as_without(name: str):
    model = MODEL.make({"name": name, **SMALL[name]})
    network = model.build(1, 2).eval()
    without = {
        "multitask_unet": {"name": "plain_unet", "convolutions": 2},
        "multitask_swinunetr": {"name": "swinunetr"},
    }
    twin = MODEL.make({**SMALL[name], **without[name]}).build(1, 2).eval()
    twin.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("rebuild")}
    )
    images = torch.randn(1, 1, 64, 64)
    assert torch.equal(network(images), twin(images))


def test_a_multi_task_model_learns_to_rebuild_with_any_strategy(tiny):
    tiny_model = ["model=multitask_unet", "model.channels=[4,8]"]
    results = tiny(*tiny_model, "strategy=plop")
    assert results["model"] == "multitask_unet" and results["status"] == "completed"
