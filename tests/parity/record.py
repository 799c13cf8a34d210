"""Values of CauAug's and TKRL's terms, reckoned from their formulas with NumPy and SciPy alone.

`python -m tests.parity.record` writes followups.npz. Sources: CauAug (IEEE JBHI 2025), TKRL (IEEE
JBHI 2026), and how their published code reads them where the papers leave it open: AnaAug's images
are in [0, 1]; DomAug's deviation is the mean of the images' own; the total variation of probes is
of squared differences; the tenth of the positions to mask is rounded down. In float64 and without
torch, so that nothing is shared with what is compared to it.
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import correlate
from scipy.special import expit, log_softmax, softmax

FILE = Path(__file__).parent / "followups.npz"
SLOPE = 0.01  # of the leaky ReLU below 0
WIDTHS = (1, 32, 32, 32, 1)  # channels between AnaAug's convolutions
KERNELS = (3, 1, 3, 1)
SCALES = (4, 8, 16, 32)  # of SegFormer's features: pixels per position
CHANNELS = (3, 4, 5, 6)


def convolved(maps: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """One channel of a convolution with zeros about the image."""
    pairs = zip(maps, kernels, strict=True)
    return np.sum([correlate(one, kernel, mode="constant") for one, kernel in pairs], axis=0)


def analytic(images: np.ndarray, weights: list[np.ndarray], biases: list[np.ndarray]) -> np.ndarray:
    """A(x) of images (B, C, H, W) in [0, 1], brought back to [0, 1] image by image."""
    found = []
    for image in images:
        maps = image
        for weight, bias in zip(weights, biases, strict=True):
            maps = np.stack([convolved(maps, row) for row in weight]) + bias[:, None, None]
            maps = np.where(maps > 0, maps, SLOPE * maps)
        found.append((maps - maps.min()) / (maps.max() - maps.min()))
    return np.stack(found)


def restyled(images: np.ndarray, old: np.ndarray) -> np.ndarray:
    """F(x): x's phase with the mean magnitude of `old`, then its mean and mean deviation."""
    axes = (2, 3)
    magnitude = np.abs(np.fft.fft2(old, axes=axes)).mean(axis=0)
    phase = np.angle(np.fft.fft2(images, axes=axes))
    mixed = np.fft.ifft2(magnitude * np.exp(1j * phase), axes=axes).real
    mixed -= mixed.mean(axis=axes, keepdims=True)
    mixed /= mixed.std(axis=axes, ddof=1, keepdims=True)
    return mixed * old.std(axis=axes).mean() + old.mean()


def cross_entropy(student: np.ndarray, teacher: np.ndarray, axis: int) -> float:
    """-sum of q log p along an axis, mean over the others; logits (B, K, H, W)."""
    terms = softmax(teacher, axis=1) * log_softmax(student, axis=1)
    return float(-terms.sum(axis=axis).mean())


def probe_loss(images: np.ndarray) -> float:
    """PCD's objective for a teacher whose foreground has the probability expit(x)."""
    variation = sum((np.diff(images, axis=axis) ** 2).mean() for axis in (2, 3))
    return float(variation - expit(images).mean())


def masked(student: list[np.ndarray], teacher: list[np.ndarray], size: int) -> np.ndarray:
    """VMA's mask, (B, size, size): at every scale the tenth of most variance, their union."""
    union = np.zeros((len(student[0]), size, size), bool)
    for one, other in zip(student, teacher, strict=True):
        variance = (one - other).var(axis=1)
        count = int(0.1 * variance[0].size)
        for sample, values in enumerate(variance):
            chosen = np.zeros(values.size, bool)
            chosen[np.argsort(values, axis=None)[values.size - count :]] = True
            block = size // len(values)
            union[sample] |= np.kron(chosen.reshape(values.shape), np.ones((block, block), bool))
    return union


def main() -> None:
    rng = np.random.default_rng(2026)
    kept: dict[str, np.ndarray] = {}
    kept["ana/images"] = rng.random((2, 1, 12, 10))
    layers = list(zip(WIDTHS, WIDTHS[1:], KERNELS, strict=False))
    weights = [rng.random((after, before, size, size)) for before, after, size in layers]
    biases = [rng.random(after) for _, after, _ in layers]
    kept |= {f"ana/weight/{n}": one for n, one in enumerate(weights)}
    kept |= {f"ana/bias/{n}": one for n, one in enumerate(biases)}
    kept["ana/value"] = analytic(kept["ana/images"], weights, biases)

    kept["dom/old"] = rng.normal(3, 2, (5, 1, 12, 10)) * rng.uniform(0.5, 2, (5, 1, 1, 1))
    kept["dom/images"] = rng.normal(0, 1, (3, 1, 12, 10))
    kept["dom/value"] = restyled(kept["dom/images"], kept["dom/old"])

    kept["kd/student"], kept["kd/teacher"] = rng.normal(0, 2, (2, 3, 2, 12, 10))
    for name, axis in (("classes", 1), ("width", 3)):
        found = cross_entropy(kept["kd/student"], kept["kd/teacher"], axis)
        kept[f"kd/value/{name}"] = np.array(found)

    kept["pcd/images"] = rng.normal(0, 1, (4, 1, 8, 8))
    kept["pcd/value"] = np.array(probe_loss(kept["pcd/images"]))

    size = 64
    shapes = [(3, c, size // s, size // s) for c, s in zip(CHANNELS, SCALES, strict=True)]
    every = [[rng.normal(size=shape) for shape in shapes] for _ in range(2)]
    for who, maps in zip(("student", "teacher"), every, strict=True):
        kept |= {f"vma/{who}/{n}": one for n, one in enumerate(maps)}
    kept["vma/value"] = masked(*every, size)
    np.savez_compressed(FILE, **kept)


if __name__ == "__main__":
    main()
