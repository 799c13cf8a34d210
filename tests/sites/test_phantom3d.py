"""The phantom in three dimensions: what its volumes hold, and what they depend on."""

import numpy as np
import torch

from fedcl.settings import parse
from sites.phantom3d import THICK, Phantom3D


def phantom(**values: object) -> Phantom3D:
    return parse(Phantom3D, {"size": 32, "patients": 4, **values}, "scenario")


def test_what_a_volume_holds():
    scenario = phantom()
    for site in "ABCDEF":
        for case in scenario.cases(site, None):
            (scan,) = case.scans
            image, labels = scan.content.image(), scan.content.labels()
            assert image.dtype == torch.float32 and image.shape == (1, *labels.shape)
            assert abs(float(image.mean())) < 1e-4 and abs(float(image.std()) - 1) < 1e-3
            assert labels.unique().tolist() == [0, 1, 2]
            inside = (labels > 0).flatten(1).any(dim=1)
            assert not inside[0] and not inside[-1], "it begins above and ends below the gland"
            held = inside.nonzero()
            assert inside[held.min() : held.max() + 1].all()


def test_hospitals_have_voxels_of_their_own():
    scenario = phantom()
    spacing = {site: scenario.cases(site, None)[0].scans[0].spacing for site in "ABCDEF"}
    for site, (along, down, across) in spacing.items():
        assert down == across and abs(along / THICK[site] - 1) < 0.1
    assert len({tuple(np.round(one, 3)) for one in spacing.values()}) == 6


def test_a_volume_depends_on_nothing_but_seed_hospital_and_number():
    few, many = (phantom(patients=n).cases("B", None) for n in (4, 6))
    for one, other in zip(few, many, strict=False):
        assert one.scans[0].digest == other.scans[0].digest
    assert phantom(seed=1).cases("B", None)[0].scans[0].digest != few[0].scans[0].digest


def test_samples_have_one_size_and_answers_their_own():
    scenario = phantom()
    task = scenario.task
    for site in "AF":
        cases = scenario.cases(site, None)
        samples = task.samples(cases, torch.device("cpu"))
        assert samples.shape == (1, *task.size)
        network = torch.nn.Conv3d(1, 3, 3, padding=1)
        (answer,) = task.predict(network, cases[0], torch.device("cpu"), False)
        assert answer.shape == (3, *cases[0].scans[0].shape[1:])
        assert 0 <= task.score([answer], cases[0], ("dice",))["dice"] <= 1
