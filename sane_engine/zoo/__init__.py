"""Zoos: populations of trained networks, a table of models beside their lazily read tensors.

Importing this package loads neither torch nor pandas; every public name is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.zoo.combined import combine_zoos as combine_zoos
    from sane_engine.zoo.loading import embedded_zoos as embedded_zoos
    from sane_engine.zoo.loading import load_zoo as load_zoo
    from sane_engine.zoo.loading import zoo_folders as zoo_folders
    from sane_engine.zoo.population import train_zoo as train_zoo
    from sane_engine.zoo.spec import ZooSpec as ZooSpec
    from sane_engine.zoo.zoo import Zoo as Zoo

_HOME = {
    "Zoo": "zoo",
    "ZooSpec": "spec",
    "combine_zoos": "combined",
    "embedded_zoos": "loading",
    "zoo_folders": "loading",
    "load_zoo": "loading",
    "train_zoo": "population",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
