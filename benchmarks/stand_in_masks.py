"""Masks with published densities, where the published weights are not to be had: stand-ins, drawn and deterministic.

The densities of the layers of a pruned VGG-16 and of two modules of a pruned GoogLeNet, as used to evaluate SCNN
(Parashar et al., ISCA 2017) and read in the files of a public simulator, become explicit masks.  Which weights and
activations are zero is drawn here, so a mask has its layer's density exactly and nothing else of the network.  Read
published_ratios.py next.

How a mask is drawn.  Weights: the largest scores survive, score = |normal| x exp(0.5 normal of the filter) x exp(0.5
normal of the input channel), because pruning leaves some filters and channels fuller than others.  Activations: score =
normal of the channel + noise averaged over 3x3 pixels and scaled to variance 1, the largest survive, because
activations cluster in space and by channel.  The generator is seeded by the layer's name.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator import Conv2d, Gemm, LayerTrace, Trace
from simulator.structure import parse, project

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

# name: input channels, filters, input plane, kernel, density of weights, density of input activations
VGG16 = {
    "1_1": (3, 64, 224, 3, 0.57, 1.00), "1_2": (64, 64, 224, 3, 0.21, 0.50),
    "2_1": (64, 128, 112, 3, 0.33, 0.89), "2_2": (128, 128, 112, 3, 0.35, 0.79),
    "3_1": (128, 256, 56, 3, 0.53, 0.81), "3_2": (256, 256, 56, 3, 0.22, 0.63), "3_3": (256, 256, 56, 3, 0.41, 0.69),
    "4_1": (256, 512, 28, 3, 0.32, 0.71), "4_2": (512, 512, 28, 3, 0.26, 0.50), "4_3": (512, 512, 28, 3, 0.34, 0.45),
    "5_1": (512, 512, 14, 3, 0.35, 0.39), "5_2": (512, 512, 14, 3, 0.29, 0.33), "5_3": (512, 512, 14, 3, 0.36, 0.32),
}
GOOGLENET_3A = {
    "1x1": (192, 64, 28, 1, 0.38, 0.71), "3x3 reduce": (192, 96, 28, 1, 0.42, 0.71),
    "3x3": (96, 128, 28, 3, 0.45, 0.67), "5x5 reduce": (192, 16, 28, 1, 0.36, 0.71),
    "5x5": (16, 32, 28, 5, 0.35, 0.77), "pool": (192, 32, 28, 1, 0.43, 0.96),
}
GOOGLENET_5B = {
    "1x1": (832, 384, 7, 1, 0.32, 0.31), "3x3 reduce": (832, 192, 7, 1, 0.33, 0.31),
    "3x3": (192, 384, 7, 3, 0.37, 0.30), "5x5 reduce": (832, 48, 7, 1, 0.33, 0.31),
    "5x5": (48, 128, 7, 5, 0.36, 0.46), "pool": (832, 128, 7, 1, 0.32, 0.57),
}
NETWORKS = {"VGG-16": VGG16, "GoogLeNet 3a": GOOGLENET_3A, "GoogLeNet 5b": GOOGLENET_5B}


def generator(text: str) -> np.random.Generator:
    """The random numbers of a name: the same on every machine."""
    return np.random.default_rng(zlib.crc32(text.encode()))


def largest(scores: Floats, density: float) -> Bools:
    """The round(density * size) largest scores."""
    kept = round(density * scores.size)
    mask = np.zeros(scores.size, dtype=bool)
    if kept:
        mask[np.argpartition(scores.reshape(-1), scores.size - kept)[scores.size - kept:]] = True
    return mask.reshape(scores.shape)


def weight_scores(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Scores of a weight [out, in, ...]: some filters and some channels matter more than others."""
    rest = (1,) * (len(shape) - 2)
    scores: Floats = np.abs(rng.standard_normal(shape))
    scores *= np.exp(0.5 * rng.standard_normal((shape[0], 1, *rest)))
    scores *= np.exp(0.5 * rng.standard_normal((1, shape[1], *rest)))
    return scores


def input_scores(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Scores of activations [batch, channels, h, w]: clustered in space and by channel."""
    noise = np.pad(rng.standard_normal(shape), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap")
    height, width = shape[2], shape[3]
    smooth = sum(noise[:, :, r : r + height, s : s + width] for r in range(3) for s in range(3))
    return np.asarray(smooth / 3 + rng.standard_normal((shape[0], shape[1], 1, 1)), dtype=np.float64)


@dataclass(frozen=True)
class Sketch:
    """A layer before its masks are made: its operation, the two densities and the scores that fill them."""

    name: str
    operation: Conv2d
    weight_density: float
    input_density: float
    weights: Floats
    inputs: Floats

    def masked(self, weights: Bools | None = None, inputs: Bools | None = None) -> LayerTrace:
        """The layer with masks of its densities, or with those that are given."""
        return LayerTrace(self.name, self.operation,
                          largest(self.weights, self.weight_density) if weights is None else weights,
                          largest(self.inputs, self.input_density) if inputs is None else inputs)


def sketches(network: str) -> list[Sketch]:
    """The layers of a network of NETWORKS."""
    found = []
    for name, (channels, filters, side, kernel, weights, inputs) in NETWORKS[network].items():
        pad = kernel // 2
        operation = Conv2d(channels, filters, side, side, kernel, kernel, padding_h=pad, padding_w=pad)
        rng = generator(f"{network} {name}")
        found.append(Sketch(name, operation, weights, inputs, weight_scores(operation.weight_shape, rng),
                            input_scores(operation.input_shape, rng)))
    return found


def stand_in(network: str) -> Trace:
    """The network with unstructured masks of its densities."""
    return Trace([sketch.masked() for sketch in sketches(network)])


def structured_weights(scores: Floats, structure: str, density: float = 1.0) -> Bools:
    """A mask of a convolution's weight, projected on a structure along k (in, row, column)."""
    filters = scores.shape[0]
    kept = project(scores.reshape(filters, -1).T, parse(structure), density)
    return np.ascontiguousarray(kept.T).reshape(scores.shape)


def bounded_channels(mask: Bools, scores: Floats, bound: int, block: int) -> Bools:
    """`mask` less the lowest scores wherever `block` consecutive channels (axis 1) hold more than `bound`."""
    channels = mask.shape[1]
    ranked = np.where(mask, scores, -np.inf)
    kept = mask.copy()
    for first in range(0, channels, block):
        part = ranked[:, first : first + block]
        if part.shape[1] > bound:
            # rank of each entry among its block, the largest first
            rank = np.argsort(np.argsort(-part, axis=1, kind="stable"), axis=1, kind="stable")
            kept[:, first : first + block] &= rank < bound
    return kept


def gemm_trace(shapes: list[tuple[int, int, int]], weights: float, inputs: float) -> Trace:
    """GEMMs (m, k, n) with masks of two densities; scores as for a 1x1 convolution's weight, inputs even."""
    layers = []
    for m, k, n in shapes:
        rng = generator(f"gemm {m} {k} {n}")
        layers.append(LayerTrace(f"{m}x{k}x{n}", Gemm(m, k, n), largest(weight_scores((n, k), rng), weights).T,
                                 largest(rng.random((m, k)), inputs)))
    return Trace(layers)
