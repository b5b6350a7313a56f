"""SANE: an autoencoder over the weights of networks, its training, and what it says of models.

Every name is imported on first use; :class:`Embeddings`, which holds precomputed results, never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.sane.config import SaneConfig as SaneConfig
    from sane_engine.sane.embedding import embed as embed
    from sane_engine.sane.embeddings import Embeddings as Embeddings
    from sane_engine.sane.encoder_file import encoder_folders as encoder_folders
    from sane_engine.sane.encoder_file import encoder_record as encoder_record
    from sane_engine.sane.encoder_file import load_encoder as load_encoder
    from sane_engine.sane.fidelity import decode_models as decode_models
    from sane_engine.sane.fidelity import decoded_accuracy as decoded_accuracy
    from sane_engine.sane.fidelity import reconstruction as reconstruction
    from sane_engine.sane.model import Sane as Sane
    from sane_engine.sane.normalisation import Normalizer as Normalizer
    from sane_engine.sane.pretraining import pretrain as pretrain
    from sane_engine.sane.reference import ReferenceEncoder as ReferenceEncoder
    from sane_engine.sane.reference import load_reference_encoder as load_reference_encoder
    from sane_engine.sane.windows import plan_windows as plan_windows

_HOME = {
    "Embeddings": "embeddings",
    "Normalizer": "normalisation",
    "ReferenceEncoder": "reference",
    "Sane": "model",
    "SaneConfig": "config",
    "decode_models": "fidelity",
    "decoded_accuracy": "fidelity",
    "embed": "embedding",
    "encoder_folders": "encoder_file",
    "encoder_record": "encoder_file",
    "load_encoder": "encoder_file",
    "load_reference_encoder": "reference",
    "plan_windows": "windows",
    "pretrain": "pretraining",
    "reconstruction": "fidelity",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
