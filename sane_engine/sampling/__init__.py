"""New models from a population: anchors, spaces, methods, their scores, and files to take home.

Every name is imported on first use, so that importing this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.sampling.anchors import Anchors as Anchors
    from sane_engine.sampling.anchors import choose_anchors as choose_anchors
    from sane_engine.sampling.draws import Method as Method
    from sane_engine.sampling.evaluation import Evaluation as Evaluation
    from sane_engine.sampling.evaluation import evaluate_samples as evaluate_samples
    from sane_engine.sampling.fine_tuning import fine_tune as fine_tune
    from sane_engine.sampling.methods import METHODS as METHODS
    from sane_engine.sampling.methods import method_of as method_of
    from sane_engine.sampling.query import matching_rows as matching_rows
    from sane_engine.sampling.sampling import Sample as Sample
    from sane_engine.sampling.sampling import draw_samples as draw_samples
    from sane_engine.sampling.sampling import prepare as prepare
    from sane_engine.sampling.sampling import sample as sample
    from sane_engine.sampling.spaces import SPACES as SPACES
    from sane_engine.sampling.targets import sample_target as sample_target
    from sane_engine.sampling.task import Task as Task
    from sane_engine.sampling.task import task_from_module as task_from_module
    from sane_engine.sampling.task import task_of as task_of
    from sane_engine.sampling.tracing import trace as trace

_HOME = {
    "METHODS": "methods",
    "SPACES": "spaces",
    "Anchors": "anchors",
    "Method": "draws",
    "Sample": "sampling",
    "Task": "task",
    "Evaluation": "evaluation",
    "choose_anchors": "anchors",
    "draw_samples": "sampling",
    "evaluate_samples": "evaluation",
    "fine_tune": "fine_tuning",
    "matching_rows": "query",
    "method_of": "methods",
    "prepare": "sampling",
    "sample": "sampling",
    "sample_target": "targets",
    "task_from_module": "task",
    "task_of": "task",
    "trace": "tracing",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
