"""Zoos: populations of trained networks, a table of models beside their lazily read tensors.

Importing this package loads neither torch nor pandas; every public name is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sane_engine.zoo.loading import embedded_zoos as embedded_zoos
    from sane_engine.zoo.loading import load_zoo as load_zoo
    from sane_engine.zoo.population import train_zoo as train_zoo
    from sane_engine.zoo.spec import ZooSpec as ZooSpec
    from sane_engine.zoo.zoo import Zoo as Zoo

_HOME = {
    "Zoo": "zoo",
    "ZooSpec": "spec",
    "embedded_zoos": "loading",
    "load_zoo": "loading",
    "train_zoo": "population",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
