"""The features each view gives to a layer: name, label and meaning. What a page offers to choose from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One numeric column of a layer table.

    Attributes:
        name: Column name; for WeightWatcher the package's own.
        label: What an axis is titled.
        meaning: One sentence, with the unit where there is one.
    """

    name: str
    label: str
    meaning: str


_WEIGHTWATCHER = (
    Feature("alpha", "alpha", "Exponent of the power law fitted to the tail of the spectrum; 2 to 6 is usual."),
    Feature("alpha_weighted", "alpha (weighted)", "alpha · log10 of the largest eigenvalue."),
    Feature("log_alpha_norm", "log alpha-norm", "log10 of the sum of the eigenvalues to the power alpha."),
    Feature("log_norm", "log norm", "log10 of the sum of the eigenvalues (squared Frobenius norm)."),
    Feature("log_spectral_norm", "log spectral norm", "log10 of the largest eigenvalue."),
    Feature("stable_rank", "stable rank", "Sum of the eigenvalues divided by the largest."),
    Feature("matrix_rank", "matrix rank", "Number of singular values above rounding error, summed over positions."),
    Feature("entropy", "matrix entropy", "Entropy of the normalised eigenvalues, divided by log of the rank."),
    Feature("D", "Kolmogorov–Smirnov distance", "Distance between the tail and its power-law fit, 0 to 1."),
    Feature("sigma", "alpha's standard error", "Standard error of alpha."),
    Feature("num_pl_spikes", "eigenvalues in the tail", "Number of eigenvalues the power law is fitted to."),
    Feature("xmin", "tail from", "Smallest eigenvalue of the fitted tail."),
    Feature("xmax", "tail to", "Largest eigenvalue of the fitted tail."),
    Feature("norm", "norm", "Sum of the eigenvalues (squared Frobenius norm)."),
    Feature("spectral_norm", "spectral norm", "Largest eigenvalue (squared largest singular value)."),
    Feature("num_evals", "eigenvalues", "Number of eigenvalues; of a convolution, over all kernel positions."),
    Feature("N", "N", "Longer side of the matrix (at one kernel position)."),
    Feature("M", "M", "Shorter side of the matrix (at one kernel position)."),
    Feature("rf", "kernel positions", "Number of kernel positions (receptive field)."),
)

_MOMENTS = (
    ("mean", "mean", "Mean"),
    ("var", "variance", "Population variance"),
    ("q0", "minimum", "Minimum"),
    ("q25", "25 % quantile", "25 % quantile"),
    ("q50", "median", "Median"),
    ("q75", "75 % quantile", "75 % quantile"),
    ("q100", "maximum", "Maximum"),
)

_STATISTICS = tuple(
    Feature(f"{of}_{short}", f"{of} {label}", f"{meaning} of the layer's {plural}.")
    for of, plural in (("weight", "weights"), ("bias", "biases"))
    for short, label, meaning in _MOMENTS
)

_SANE = (
    Feature("norm", "embedding norm", "Euclidean norm of the mean of the layer's token latents."),
    Feature("spread", "embedding spread", "Euclidean norm of the standard deviation of the layer's token latents."),
    Feature(
        "distance",
        "distance to the zoo",
        "Euclidean distance of the layer's embedding to the zoo's mean for this layer; for a network of another "
        "architecture, to the mean over all layers of the zoo.",
    ),
    Feature(
        "distance_ratio",
        "distance to the zoo, relative",
        "That distance divided by its root mean square over the zoo: 1 is typical of the zoo.",
    ),
    Feature(
        "pc1", "principal component 1", "Coordinate on the first principal axis of the zoo's layer embeddings."
    ),
    Feature("pc2", "principal component 2", "Projection on the second principal axis."),
    Feature("pc3", "principal component 3", "Projection on the third principal axis."),
)

FEATURES: dict[str, tuple[Feature, ...]] = {
    "weightwatcher": _WEIGHTWATCHER,
    "statistics": _STATISTICS,
    "sane": _SANE,
}


def feature(kind: str, name: str) -> Feature:
    """Look up one feature.

    Raises:
        KeyError: There is no such kind or feature.
    """
    for candidate in FEATURES[kind]:
        if candidate.name == name:
            return candidate
    raise KeyError(f"{kind} has no feature {name!r}")
