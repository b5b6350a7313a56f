"""All representations by name: what each is, what it needs, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sane_engine.checkpoint import Refusal
from sane_engine.representations.protocol import Representation

if TYPE_CHECKING:
    from sane_engine.sane.config import Reacting

Make = Callable[[int], Representation]


@dataclass(frozen=True)
class Entry:
    """One representation on offer.

    Attributes:
        name: In tables and on the command line.
        label: What a page calls it.
        description: One sentence.
        needs: ``"weights"``, ``"architecture"`` or ``"training"``.
        make: From a seed to an unfitted representation.
        depends_on_training: Whether features depend on which models were fitted on; else they are computed once
            for all splits.
        seeded: Whether the seed changes anything; else one seed says all.
        version: Raised when the features change, so that what is cached under an earlier one is not used.
    """

    name: str
    label: str
    description: str
    needs: str
    make: Make
    depends_on_training: bool = False
    seeded: bool = False
    version: int = 1


def _raw(seed: int) -> Representation:
    from sane_engine.representations.raw import RawWeights

    return RawWeights()


def _aligned(seed: int) -> Representation:
    from sane_engine.representations.raw import AlignedWeights

    return AlignedWeights()


def _statistics(seed: int) -> Representation:
    from sane_engine.representations.layer_tables import WeightStatistics

    return WeightStatistics()


def _weightwatcher(seed: int) -> Representation:
    from sane_engine.representations.layer_tables import WeightWatcherFeatures

    return WeightWatcherFeatures()


def _behaviour(seed: int) -> Representation:
    from sane_engine.representations.behaviour import NoiseBehaviour

    return NoiseBehaviour()


def _consensus(seed: int) -> Representation:
    from sane_engine.representations.agreement import ConsensusAgreement

    return ConsensusAgreement()


def _token_pca(seed: int) -> Representation:
    from sane_engine.representations.sane_encodings import TokenPca

    return TokenPca()


def _hyper(seed: int) -> Representation:
    from sane_engine.baselines.hyper_representation import HyperRepresentation

    return HyperRepresentation(seed=seed)


def _functional(seed: int) -> Representation:
    from sane_engine.baselines.functional import FunctionalConfig, FunctionalRepresentation

    return FunctionalRepresentation(config=FunctionalConfig(seed=seed))


def _sane(name: str, **options: Any) -> Make:
    def make(seed: int) -> Representation:
        from sane_engine.representations.sane_encodings import SaneEncoding

        return SaneEncoding(name, seed=seed, **options)

    return make


def _predictive(name: str, reactions: Reacting) -> Make:
    def make(seed: int) -> Representation:
        from sane_engine.representations.sane_encodings import SaneEncoding
        from sane_engine.sane.config import SaneConfig
        from sane_engine.workspace import assets_root

        config = SaneConfig.from_file(assets_root() / "configs" / "representation.json")
        # What the readout sees are summaries and reactions, which know no order of units; latents would add nothing
        # (docs/prediction.md), so there is nothing to align and nothing to train.
        config = replace(config, reactions=reactions, align=False, permute=0.0)
        return SaneEncoding(name, pooling="predictive", config=config, seed=seed, trained=False)

    return make


_ENTRIES = (
    Entry("raw", "Raw weights", "All weights, one after another.", "weights", _raw),
    Entry(
        "aligned",
        "Aligned raw weights",
        "All weights aligned to the mean of the training models, signs included where the activation allows.",
        "weights",
        _aligned,
        depends_on_training=True,
    ),
    Entry(
        "statistics",
        "Weight statistics s(W)",
        "Mean, variance and quantiles of each layer's weights and biases (Unterthiner et al. 2020).",
        "weights",
        _statistics,
        depends_on_training=True,
        version=2,
    ),
    Entry(
        "weightwatcher",
        "WeightWatcher",
        "Spectrum and power-law fit of each layer (Martin and Mahoney 2021); layers it skips are left out.",
        "weights",
        _weightwatcher,
        depends_on_training=True,
        version=2,
    ),
    Entry(
        "behaviour",
        "Behaviour on noise",
        "Path norms, activations and outputs on fixed noise, white and smooth; runs the network.",
        "architecture",
        _behaviour,
        version=2,
    ),
    Entry(
        "consensus",
        "Agreement on noise",
        "How near the answers to fixed noise come to the mean answer of the training models; runs the network.",
        "architecture",
        _consensus,
        depends_on_training=True,
    ),
    Entry(
        "token-pca",
        "Per-token PCA",
        "Control: principal components of the tokens, as many as SANE has latents, pooled like SANE per layer.",
        "weights",
        _token_pca,
        depends_on_training=True,
    ),
    Entry(
        "sane-untrained",
        "SANE, untrained",
        "Control: an encoder with random weights, pooled like SANE per layer.",
        "weights",
        _sane("sane-untrained", trained=False),
        depends_on_training=True,
        seeded=True,
    ),
    Entry(
        "hyper-representation",
        "Hyper-representation",
        "The whole network as one sequence, a compression token, contrast (Schürholt et al. 2021, 2022).",
        "training",
        _hyper,
        depends_on_training=True,
        seeded=True,
    ),
    Entry(
        "functional",
        "Universal neural functional",
        "Supervised: a permutation-invariant network trained on accuracy, epoch and gap of the training models "
        "(Zhou et al. 2024); intervals come out too narrow, since it saw the training labels.",
        "training",
        _functional,
        depends_on_training=True,
        seeded=True,
    ),
    Entry(
        "sane",
        "SANE, as published",
        "Mean of all token latents of an encoder trained on the training models (Schürholt et al. 2024).",
        "training",
        _sane("sane", pooling="mean"),
        depends_on_training=True,
        seeded=True,
    ),
    Entry(
        "sane-layers",
        "SANE, per layer",
        "Mean and standard deviation of the token latents of each layer, of the same encoder.",
        "training",
        _sane("sane-layers"),
        depends_on_training=True,
        seeded=True,
    ),
    Entry(
        "sane-weights",
        "SANE, from weights alone",
        "Summaries of layers, and reactions to noise of the two plainest networks with such weights, beside those "
        "of the training models; random features of them.",
        "weights",
        _predictive("sane-weights", "shapes"),
        depends_on_training=True,
        seeded=True,
        version=3,
    ),
    Entry(
        "sane-predictive",
        "SANE, for prediction",
        "Summaries of layers and reactions to noise, beside those of the training models; random features of them.",
        "architecture",
        _predictive("sane-predictive", "architecture"),
        depends_on_training=True,
        seeded=True,
        version=5,
    ),
)

COMBINATION = "combination"
"""Not a representation of its own: concatenated from the others by inner cross-validation, for each target."""


def representations() -> dict[str, Entry]:
    """Every representation by name, in the order a table shows them."""
    return {entry.name: entry for entry in _ENTRIES}


def representation(name: str) -> Entry:
    """One of them.

    Raises:
        Refusal: There is none of that name (``no-representation``).
    """
    known = representations()
    if name not in known:
        raise Refusal(
            "no-representation", f"There is no representation {name!r}.", f"Known are {', '.join(sorted(known))}."
        )
    return known[name]
