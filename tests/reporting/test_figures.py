"""Pictures of test cases."""

import io

import numpy as np
import pytest
import torch
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fedcl.reporting.figures import colour_of, draw_case
from fedcl.tasks.base import Picture

LEFT, RIGHT = (slice(4, 28), slice(4, 15)), (slice(4, 28), slice(17, 28))


def seen(label: torch.Tensor, prediction: torch.Tensor) -> np.ndarray:
    """Return the pixels (H, W, 3) of a black case as it is drawn."""
    figure = Figure(figsize=(3.2, 3.2), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_case(axes, Picture("", torch.zeros(32, 32), label, prediction))
    axes.set_axis_off()
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return np.asarray(Image.open(picture).convert("RGB")) / 255


def two(left: int, right: int) -> torch.Tensor:
    """Return two organs side by side, of these classes."""
    classes = torch.zeros(32, 32, dtype=torch.long)
    classes[LEFT], classes[RIGHT] = left, right
    return classes


@pytest.mark.parametrize(("left", "right"), [(1, 2), (2, 1), (1, 1), (0, 2)])
def test_a_prediction_is_filled_with_the_colours_of_its_classes(left: int, right: int):
    """Also where its outline is right and its class is not: the two would look the same."""
    pixels = seen(two(1, 2), two(left, right))
    for number, column in ((left, 95), (right, 225)):
        expected = 0.4 * np.array(colors.to_rgb(colour_of(number))) if number else 0
        np.testing.assert_allclose(pixels[160, column], expected, atol=0.01)


def test_a_label_to_the_edges_has_an_outline():
    whole, none = torch.ones(32, 32, dtype=torch.long), torch.zeros(32, 32, dtype=torch.long)
    pixels = seen(whole, none)
    expected = np.array(colors.to_rgb(colour_of(1)))
    assert np.abs(pixels[160] - expected).sum(axis=1).min() < 0.6, "left or right"
    assert np.abs(pixels[160, 160]).max() == 0
