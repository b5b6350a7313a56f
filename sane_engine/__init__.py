"""The engine of SANE Explorer: populations of neural networks as data.

Checkpoint → zoo → tokens → embeddings → probe, projection or sample. Every public name is imported on first use:
``import sane_engine`` is cheap, and what needs no torch (a zoo's table, precomputed embeddings) never loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.baselines import layer_features as layer_features
    from sane_engine.checkpoint import Checkpoint as Checkpoint
    from sane_engine.checkpoint import Provenance as Provenance
    from sane_engine.checkpoint import Refusal as Refusal
    from sane_engine.intake import load_checkpoint as load_checkpoint
    from sane_engine.intake import load_tensors as load_tensors
    from sane_engine.intake import save_checkpoint as save_checkpoint
    from sane_engine.probing import ProbeResult as ProbeResult
    from sane_engine.probing import probe as probe
    from sane_engine.progress import Cancelled as Cancelled
    from sane_engine.projection import Projection as Projection
    from sane_engine.projection import project as project
    from sane_engine.sampling import Sample as Sample
    from sane_engine.sampling import sample as sample
    from sane_engine.sane import Embeddings as Embeddings
    from sane_engine.sane import Sane as Sane
    from sane_engine.sane import SaneConfig as SaneConfig
    from sane_engine.sane import embed as embed
    from sane_engine.sane import load_encoder as load_encoder
    from sane_engine.sane import load_reference_encoder as load_reference_encoder
    from sane_engine.sane import pretrain as pretrain
    from sane_engine.symmetry import Symmetry as Symmetry
    from sane_engine.symmetry import align as align
    from sane_engine.symmetry import align_zoo as align_zoo
    from sane_engine.symmetry import find_symmetry as find_symmetry
    from sane_engine.symmetry import symmetry_of_tensors as symmetry_of_tensors
    from sane_engine.symmetry import symmetry_of_zoo as symmetry_of_zoo
    from sane_engine.tokens import TokenBatch as TokenBatch
    from sane_engine.tokens import TokenSequence as TokenSequence
    from sane_engine.tokens import detokenize as detokenize
    from sane_engine.tokens import tokenize as tokenize
    from sane_engine.tokens import tokenize_batch as tokenize_batch
    from sane_engine.zoo import Zoo as Zoo
    from sane_engine.zoo import load_zoo as load_zoo
    from sane_engine.zoo import train_zoo as train_zoo

_HOME = {
    "Cancelled": "progress",
    "Checkpoint": "checkpoint",
    "Embeddings": "sane",
    "ProbeResult": "probing",
    "Projection": "projection",
    "Provenance": "checkpoint",
    "Refusal": "checkpoint",
    "Sample": "sampling",
    "Sane": "sane",
    "SaneConfig": "sane",
    "Symmetry": "symmetry",
    "TokenBatch": "tokens",
    "TokenSequence": "tokens",
    "Zoo": "zoo",
    "align": "symmetry",
    "align_zoo": "symmetry",
    "detokenize": "tokens",
    "embed": "sane",
    "find_symmetry": "symmetry",
    "layer_features": "baselines",
    "load_checkpoint": "intake",
    "load_encoder": "sane",
    "load_reference_encoder": "sane",
    "load_tensors": "intake",
    "load_zoo": "zoo",
    "pretrain": "sane",
    "probe": "probing",
    "project": "projection",
    "sample": "sampling",
    "save_checkpoint": "intake",
    "symmetry_of_tensors": "symmetry",
    "symmetry_of_zoo": "symmetry",
    "tokenize": "tokens",
    "tokenize_batch": "tokens",
    "train_zoo": "zoo",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
