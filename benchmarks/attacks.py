"""What can be learned of patients from what leaves a hospital: attacks as they are published."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import mannwhitneyu

Array = np.ndarray


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Return the chance that a member scores higher than another: .5 says that nothing leaks."""
    found = mannwhitneyu(members, others, alternative="two-sided")
    return float(found.statistic) / (len(members) * len(others))


def homer(one: Array, told: Array, known: Array) -> float:
    """Return how much nearer a person lies to a mean that was told than to a known population.

    Homer et al., PLoS Genetics 2008, by features scaled to the population's deviations.

    Args:
        one: the person's own features, shape (F,).
        told: the mean that a hospital has told, same shape.
        known: features of people like those, shape (N, F).
    """
    spread = known.std(axis=0)
    used = spread > 1e-9
    apart = np.abs(one - known.mean(axis=0)) - np.abs(one - told)
    return float((apart[used] / spread[used]).mean())


def exposure(planted: float, others: Sequence[float]) -> float:
    """Return by how many bits a planted canary is likelier than chance has it.

    Carlini et al., USENIX Security 2019: log2 of all canaries over the planted one's rank by loss.
    Without memory 1.4 bits on average, log2(N + 1) if it is the likeliest of all.
    """
    rank = 1 + sum(other < planted for other in others)
    return math.log2(len(others) + 1) - math.log2(rank)


def retrieved(magnitude: Array, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Return an image that has these Fourier magnitudes: Fienup's hybrid input-output.

    Applied Optics 1982; what is known besides is that pixels are not negative.

    Args:
        magnitude: of `numpy.fft.rfftn`.
        shape: of the image.
        rng: draws where it begins.
    """
    image = rng.random(tuple(shape))
    for turn in range(400):
        spectrum = np.fft.rfftn(image)
        found = np.fft.irfftn(magnitude * np.exp(1j * np.angle(spectrum)), shape)
        wrong = found < 0
        if turn % 50 < 40:
            image = np.where(wrong, image - 0.9 * found, found)
        else:  # the last of every turn have the error fall
            image = np.where(wrong, 0.0, found)
    return image


def likeness(one: Array, other: Array) -> float:
    """Return the correlation of two images, the other shifted or turned over at its best.

    A magnitude does not tell an image from itself shifted, or turned over.
    """
    best = 0.0
    one = (one - one.mean()) / one.std()
    for turned in (other, other[::-1, ::-1]):
        turned = (turned - turned.mean()) / turned.std()
        spectrum = np.fft.rfft2(one) * np.conj(np.fft.rfft2(turned))
        best = max(best, float(np.fft.irfft2(spectrum, one.shape).max() / one.size))
    return best
