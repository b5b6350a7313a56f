"""Property prediction from frozen features: probes, intervals, and what lies outside of a zoo.

Every name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.probing.folds import grouped_folds as grouped_folds
    from sane_engine.probing.folds import split_hash as split_hash
    from sane_engine.probing.held_out import probe as probe
    from sane_engine.probing.outside import Detector as Detector
    from sane_engine.probing.predictor import Prediction as Prediction
    from sane_engine.probing.predictor import Predictor as Predictor
    from sane_engine.probing.predictor import fit_predictor as fit_predictor
    from sane_engine.probing.result import ProbeResult as ProbeResult
    from sane_engine.probing.running import probe_table as probe_table
    from sane_engine.probing.scores import ProbeTable as ProbeTable
    from sane_engine.probing.scores import known_table as known_table
    from sane_engine.probing.targets import probe_targets as probe_targets

_HOME = {
    "Detector": "outside",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "ProbeResult": "result",
    "ProbeTable": "scores",
    "fit_predictor": "predictor",
    "grouped_folds": "folds",
    "known_table": "scores",
    "probe": "held_out",
    "probe_table": "running",
    "probe_targets": "targets",
    "split_hash": "folds",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
