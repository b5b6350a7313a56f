"""The empirical spectral density (ESD) of one layer, the power law of its tail, and what chance alone would give.

The eigenvalues are those that WeightWatcher analyses, to the bit: of WᵀW, without division by a side; of a 2-D
convolution, those of the matrices [outputs, inputs] at all kernel positions together, each matrix times √½. The
fit is not made again: it is the one in WeightWatcher's table (:func:`power_law`).

Martin & Mahoney, "Implicit self-regularization in deep neural networks", JMLR 22 (2021); Clauset, Shalizi & Newman,
"Power-law distributions in empirical data", SIAM Review 51 (2009); Marchenko & Pastur, Math. USSR-Sbornik 1 (1967).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sane_engine.progress import CancelCheck

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

# Up to this SVD cost (about a second) the eigenvalues are computed here, beyond it in a child that can be stopped.
COST_HERE = 2e9
# The package's normalisation of a convolution's matrices.
CONVOLUTION_SCALE = 0.5**0.5
# Below this share of the largest eigenvalue there is rounding error only (float32 weights, squared).
ROUNDING = 1e-13


@dataclass(frozen=True)
class Esd:
    """The spectrum of one layer.

    Attributes:
        eigenvalues: All of them, ascending, float64 [num_evals].
        sides: Longer and shorter side of the matrix, at one kernel position.
        positions: Number of matrices: kernel positions of a convolution, else 1.
        scale: What each matrix is multiplied by first.
        note: How the layer was read, if not in WeightWatcher's own way.
    """

    eigenvalues: Array
    sides: tuple[int, int]
    positions: int = 1
    scale: float = 1.0
    note: str = ""

    @property
    def positive(self) -> Array:
        """The eigenvalues above rounding error, ascending: those that a logarithmic axis can show."""
        above = self.eigenvalues[-1] * ROUNDING if len(self.eigenvalues) else 0.0
        return self.eigenvalues[self.eigenvalues > above]


@dataclass(frozen=True)
class PowerLaw:
    """The density λ^(−alpha) that WeightWatcher fitted to the tail xmin ≤ λ ≤ xmax.

    Attributes:
        alpha: Exponent, above 1.
        xmin: Smallest eigenvalue of the tail.
        xmax: Largest one.
        D: Kolmogorov–Smirnov distance between tail and fit, 0 to 1.
        sigma: Standard error of alpha.
        n: Number of eigenvalues in the tail.
    """

    alpha: float
    xmin: float
    xmax: float
    D: float
    sigma: float
    n: int

    def density(self, eigenvalues: Array, total: int) -> Array:
        """Its density at each eigenvalue, scaled to the share of the tail among ``total`` eigenvalues."""
        return self.n / total * (self.alpha - 1) / self.xmin * (eigenvalues / self.xmin) ** -self.alpha

    def share_above(self, eigenvalues: Array, total: int) -> Array:
        """The share of ``total`` eigenvalues at or above each eigenvalue, according to the fit."""
        return self.n / total * (eigenvalues / self.xmin) ** (1 - self.alpha)


def power_law(row: Mapping[Any, Any]) -> PowerLaw | None:
    """The fit of one row of WeightWatcher's layer table, or None where it has none."""
    names = ("alpha", "xmin", "xmax", "D", "sigma", "num_pl_spikes")
    alpha, xmin, xmax, distance, sigma, n = (float(row.get(name, np.nan)) for name in names)
    if not (np.isfinite([alpha, xmin, xmax, n]).all() and alpha > 1 and xmin > 0):
        return None
    return PowerLaw(alpha, xmin, xmax, distance, sigma, int(n))


def esd(tensors: Mapping[str, Tensor], layer_name: str, *, cancelled: CancelCheck | None = None) -> Esd:
    """The eigenvalues of one layer.

    Args:
        tensors: State dict, name → tensor; only the layer's own weights are read.
        layer_name: As in the column ``name`` of a layer table.
        cancelled: Asked while a large matrix is decomposed in a child process.

    Raises:
        KeyError: No layer of that name.
        ValueError: The layer has no spectrum; the message is the reason.
        Cancelled: ``cancelled`` answered true.
    """
    from sane_engine.baselines.layer_axis import weight_layers
    from sane_engine.baselines.spectral import as_shown, no_spectrum, spectrum, svd_cost

    layer = {layer.name: layer for layer in weight_layers(tensors)}[layer_name]
    tensor, note = as_shown(layer, tensors[layer.weight])
    reason = no_spectrum(tensor)
    if reason:
        raise ValueError(reason)
    short, long = sorted(tensor.shape[:2])
    convolution = tensor.ndim == 4
    scale = CONVOLUTION_SCALE if convolution else 1.0
    positions = tensor.shape[2] * tensor.shape[3] if convolution else 1
    if svd_cost(tensor.shape) > COST_HERE:
        values = spectrum(tensors, layer_name, cancelled=cancelled).eigenvalues
    else:
        weights = tensor.detach().float().double().numpy()
        matrices = weights.reshape(*weights.shape[:2], -1).transpose(2, 0, 1) * scale
        values = np.asarray(np.linalg.svd(matrices, compute_uv=False).ravel() ** 2, dtype=np.float64)
    return Esd(np.sort(values), (long, short), positions, scale, note)


def share_above(spectrum: Esd) -> tuple[Array, Array]:
    """The complementary cumulative distribution: each positive eigenvalue, and the share of all at or above it."""
    values, total = spectrum.positive, len(spectrum.eigenvalues)
    return values, np.arange(len(values), 0, -1) / total


def log_histogram(spectrum: Esd, edges: Array) -> Array:
    """The density per unit of eigenvalue in each bin ``[edges[i], edges[i + 1])``; over all bins it has area 1.

    Args:
        spectrum: The layer.
        edges: Ascending and positive; the last one belongs to the last bin.
    """
    counts, _ = np.histogram(spectrum.eigenvalues, edges)
    density: Array = counts / (np.diff(edges) * len(spectrum.eigenvalues))
    return density


@dataclass(frozen=True)
class RandomSpectrum:
    """What a matrix of independent entries has: the Marchenko–Pastur law.

    Attributes:
        eigenvalues: Ascending, [k].
        density: Per unit of eigenvalue, [k].
        share_above: Share of the eigenvalues above each, [k].
    """

    eigenvalues: Array
    density: Array
    share_above: Array


def marchenko_pastur(spectrum: Esd, points: int = 400) -> RandomSpectrum:
    """The spectrum of random matrices of the same shape and the same sum of squares as the layer's.

    Eigenvalues beyond its right edge are what training (or a few large weights) added.
    """
    long, short = spectrum.sides
    variance = float(spectrum.eigenvalues.sum()) / (long * short * spectrum.positions)
    low, high = (variance * (long**0.5 + sign * short**0.5) ** 2 for sign in (-1, 1))
    # Even steps of the angle: the density rises like a root at both edges, or falls from a pole at zero.
    angle = np.linspace(0, np.pi, 4 * points)[1:-1]
    values = low + (high - low) * (1 - np.cos(angle)) / 2
    density = np.sqrt((high - values) * (values - low)) / (2 * np.pi * variance * short * values)
    weight = density * np.sin(angle)
    above = np.cumsum(weight[::-1])[::-1] / weight.sum()
    return RandomSpectrum(values[::4], density[::4], above[::4])
