"""Networks as vectors: every representation under one interface, by name.

A representation has a ``name``, learns from training models with ``fit`` and turns any models into vectors with
``transform``. Importing this package loads neither torch nor scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.representations.agreement import ConsensusAgreement as ConsensusAgreement
    from sane_engine.representations.behaviour import NoiseBehaviour as NoiseBehaviour
    from sane_engine.representations.layer_tables import WeightStatistics as WeightStatistics
    from sane_engine.representations.layer_tables import WeightWatcherFeatures as WeightWatcherFeatures
    from sane_engine.representations.protocol import Representation as Representation
    from sane_engine.representations.raw import AlignedWeights as AlignedWeights
    from sane_engine.representations.raw import RawWeights as RawWeights
    from sane_engine.representations.registry import Entry as Entry
    from sane_engine.representations.registry import representation as representation
    from sane_engine.representations.registry import representations as representations
    from sane_engine.representations.sane_encodings import SaneEncoding as SaneEncoding
    from sane_engine.representations.sane_encodings import TokenPca as TokenPca

_HOME = {
    "AlignedWeights": "raw",
    "ConsensusAgreement": "agreement",
    "Entry": "registry",
    "NoiseBehaviour": "behaviour",
    "RawWeights": "raw",
    "Representation": "protocol",
    "SaneEncoding": "sane_encodings",
    "TokenPca": "sane_encodings",
    "WeightStatistics": "layer_tables",
    "WeightWatcherFeatures": "layer_tables",
    "representation": "registry",
    "representations": "registry",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
