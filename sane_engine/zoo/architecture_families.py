"""The kinds of architecture a zoo may have, told apart by ``family`` in their JSON. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sane_engine.zoo.architecture_spec import ArchitectureSpec
from sane_engine.zoo.resnet_spec import FAMILY, ResNetSpec

Architecture = ArchitectureSpec | ResNetSpec


def architecture_from_json(content: Mapping[str, Any]) -> Architecture:
    """The architecture that a JSON object describes; one without a ``family`` is a small CNN.

    Raises:
        SpecError: A field is unknown or has an impossible value.
    """
    if isinstance(content, Mapping) and content.get("family") == FAMILY:
        return ResNetSpec.from_json(content)
    return ArchitectureSpec.from_json(content)
