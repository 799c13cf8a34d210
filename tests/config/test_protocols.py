"""Published set-ups: one word gives them, and the command line still wins."""

from typing import Any

import pytest
import torch

from fedcl.config.groups import Groups
from fedcl.config.hydra import CONF, compose
from fedcl.errors import ConfigError
from fedcl.registry import MODEL, OPTIMISER, SCENARIO, SCHEDULE, STRATEGY

PROTOCOLS = sorted(file.stem for file in (CONF / "protocol").glob("*.yaml"))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_a_configuration(name: str):
    frame = ["scenario=folder"] if "_" not in name and name != "none" else []
    values = compose([f"protocol={name}", "strategy=finetune", *frame])
    assert not {"protocol", "target", "part", "shared"} & set(values)
    Groups.parse(values)
    for kind in (SCENARIO, MODEL, OPTIMISER, SCHEDULE, STRATEGY):
        kind.make(values[kind.key])


def test_without_a_protocol_nothing_is_set():
    assert compose([]) == compose(["protocol=none"])


def network(values: dict[str, Any]) -> torch.nn.Module:
    task = SCENARIO.make(values["scenario"]).task
    model = MODEL.make(values["model"])
    return task.fitted([model]).build(model, [])


def test_ted_is_as_in_its_published_code():
    values = compose(["protocol=ted_prostate"])
    assert sum(p.numel() for p in network(values).parameters()) == 2_313_906
    assert values["strategy"]["weight"] == {"kd": 0.001, "ska": 0.001, "akt": 0.001, "gugf": 1.0}
    assert values["strategy"]["reduction"] == "sum" and values["strategy"]["noise"]["std"] == 1
    learner, schedule = Groups.parse(values).learner, SCHEDULE.make(values["schedule"])
    assert [learner.rate(stage) for stage in (0, 1, 5)] == [2e-4, 1e-4, 1e-4]
    steps = 50 * 7  # of 7 batches per epoch
    for number in (0, 6, 7, 349):
        epochs = number // 7
        assert schedule.factor(number / steps) == pytest.approx(0.99**epochs)
    assert values["timeline"]["rounds"] == 1 and learner.epochs == 50 and learner.keep == "best"


@pytest.mark.parametrize("name", ["ted_prostate", "ted_mnms"])
def test_methods_have_what_is_published_of_them(name: str):
    kd = compose([f"protocol={name}", "strategy=lwf"])
    assert kd["strategy"]["kd"] == pytest.approx(0.001 * 192 / 2)
    assert compose([f"protocol={name}", "strategy=finetune"])["learner"]["lr"] == 0.0002
    joint = compose([f"protocol={name}", "strategy=joint"])
    assert joint["timeline"]["centralised"] and joint["learner"]["epochs"] == 100
    assert joint["schedule"]["steps"] == 100


def test_mtms_is_as_in_its_published_code():
    """Optimiser, rate, batch, epochs, loss and share of the data of all that are trained."""
    asked = ["protocol=mtms_spleen"]
    trained = {
        "taught": compose(asked),
        "alone": compose([*asked, "strategy=finetune", "protocol/part=alone"]),
        "teacher": compose([*asked, "strategy=finetune", "protocol/part=teacher"]),
    }
    found = {
        part: (
            values["optimiser"]["name"],
            *(values["learner"][key] for key in ("lr", "batch_size", "epochs")),
            values["scenario"]["loss"],
            values["sites"]["spleen"]["data_fraction"],
        )
        for part, values in trained.items()
    }
    assert found == {
        "taught": ("rmsprop", 0.01, 20, 120, "foreground_dice", 0.5),
        "alone": ("adamw", 0.00015, 16, 120, "foreground_dice", 0.5),
        "teacher": ("adamw", 0.0001, 8, 200, "foreground_dice_bce", 1.0),
    }
    for part in ("alone", "teacher"):
        optimiser = trained[part]["optimiser"]
        assert (optimiser["betas"], optimiser["weight_decay"]) == ([0.9, 0.95], 0.05)
    weight = trained["taught"]["strategy"]["weight"]
    assert weight == {"seg": 0.4, "bottleneck": 0.2, "encoder": 0.1, "decoder": 0.1, "maps": 0.2}
    teacher = MODEL.make(trained["teacher"]["models"]["t1"])
    assert (teacher.channels, teacher.reconstruction) == ([64, 128, 256, 512, 1024], 0.2)


def test_the_published_loss_of_fields_has_one_lambda():
    values = compose(["protocol=fields_signal", "strategy.weight=3"])
    assert (values["strategy"]["weight"], values["strategy"]["here"]) == (3, 0)
    assert compose(["protocol=fields_signal", "strategy.here=2"])["strategy"]["here"] == 2


@pytest.mark.parametrize(("target", "label"), [("i", 1), ("o", 2), ("r", 3)])
def test_a_target_of_mnms_is_one_label(target: str, label: int):
    values = compose(["protocol=ted_mnms", f"protocol/target={target}"])
    background, found = values["scenario"]["labels"]
    assert found == label and sorted([*background, found]) == [0, 1, 2, 3]


def test_windows_divide_the_images_of_tkrl():
    values = compose(["protocol=tkrl_prostate", "strategy=tkrl"])
    assert list(MODEL.make(values["model"]).multiples(2)) == values["scenario"]["resize"]


def test_the_command_line_wins():
    asked = ["learner.epochs=3", "protocol=ted_prostate", "model=unet", "strategy.weight.kd=0.5"]
    values = compose([*asked, "scenario.normalise=zscore", "seed=7"])
    assert values["learner"]["epochs"] == 3 and values["seed"] == 7
    assert values["strategy"]["weight"]["kd"] == 0.5
    assert values["scenario"]["normalise"] == "zscore"
    assert MODEL.make(values["model"]) == MODEL.make(compose(["model=unet"])["model"])


def test_a_protocol_that_there_is_not_is_told():
    with pytest.raises(ConfigError, match=r"'protocol/ted_prostrate'.*ted_prostate"):
        compose(["protocol=ted_prostrate"])
