"""The methods by name, with their parameters and what each is in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sane_engine.checkpoint import Refusal
from sane_engine.sampling.conditional import Conditional
from sane_engine.sampling.gaussian import LowRankGaussian, ShrunkGaussian
from sane_engine.sampling.kde import KernelDensity
from sane_engine.sampling.moves import Difference, Interpolation
from sane_engine.sampling.selection import Bootstrapped, Subsampled
from sane_engine.sampling.trained import Refined, Trained


@dataclass(frozen=True)
class Entry:
    """A method as a user meets it.

    Attributes:
        default: With its default parameters.
        says: What it does, in one line.
        knob: The parameter that trades novelty for accuracy; of the base where it starts with ``base.``.
        levels: Values of the knob from near copies to far from every anchor.
    """

    default: Any
    says: str
    knob: str
    levels: tuple[float, ...]


_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
_WIDTHS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.2)
_BASE = "base.temperature"

METHODS: Mapping[str, Entry] = {
    "kde-token": Entry(
        KernelDensity("token"), "every token from an anchor of its own, plus noise", "temperature", _TEMPERATURES
    ),
    "kde-layer": Entry(
        KernelDensity("layer"), "every layer from an anchor of its own, plus noise", "temperature", _TEMPERATURES
    ),
    "kde-sequence": Entry(
        KernelDensity("sequence", bandwidth=0.5, temperature=1.0), "a whole anchor, plus noise", "bandwidth",
        _WIDTHS,
    ),
    "gaussian": Entry(ShrunkGaussian(), "independent coordinates about the anchors' mean", "scale", _TEMPERATURES),
    "low-rank": Entry(
        LowRankGaussian(), "the anchors' main directions, independent noise for the rest", "scale", _TEMPERATURES
    ),
    "difference": Entry(
        Difference(), "an anchor moved by the difference of two others", "step", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3)
    ),
    "interpolation": Entry(
        Interpolation(among=3, concentration=2.0), "a mixture of some anchors", "reach",
        (0.3, 0.6, 0.8, 1.0, 1.5, 2.0),
    ),
    "subsampled": Entry(Subsampled(), "the best of many draws on validation images", _BASE, _TEMPERATURES),
    "bootstrapped": Entry(
        Bootstrapped(), "rounds in which the best draws become the anchors", _BASE, (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
    ),
    "conditional": Entry(
        Conditional(), "draws moved until a probe predicts a chosen property", "base.bandwidth", _WIDTHS
    ),
    "refined": Entry(Refined(), "each draw improved on training images, held near itself", _BASE, _TEMPERATURES),
    "trained": Entry(
        Trained(), "draws through a map tuned on the task loss of its own samples", "base.scale",
        (0.4, 0.6, 0.8, 1.0, 1.2, 1.4),
    ),
}  # fmt: skip


def method_of(name: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """A method by its name.

    Args:
        name: One of :data:`METHODS`.
        parameters: Fields of the method by name; ``base`` names another method, ``base.temperature`` (or any field
            that only the base has, by its own name) is the base's.

    Raises:
        Refusal: There is no such method (``bad-method``), or it has no such parameter or not of this kind
            (``bad-parameter``).
    """
    if name not in METHODS:
        raise Refusal("bad-method", f"There is no method {name!r}.", f"Choose from {', '.join(METHODS)}.")
    method = METHODS[name].default
    given = dict(parameters or {})
    if "base" in given:
        if not hasattr(method, "base"):
            raise Refusal("bad-parameter", f"{name} has no base.", f"It has {_listed(method)}.")
        method = replace(method, base=method_of(str(given.pop("base"))))
    for key, value in given.items():
        method = with_parameter(method, key, value)
    return method


def with_parameter(method: Any, key: str, value: Any) -> Any:
    """The method with one parameter changed; ``base.x``, or ``x`` where only the base has it, is the base's.

    Raises:
        Refusal: It has no such parameter, or not of this kind (``bad-parameter``).
    """
    own, _, rest = key.partition(".")
    names = {field.name for field in fields(method)}
    if own == "base" and rest and "base" in names:
        return replace(method, base=with_parameter(method.base, rest, value))
    if key not in names or key == "base":
        if "base" in names and key in {field.name for field in fields(method.base)}:
            return replace(method, base=with_parameter(method.base, key, value))
        raise Refusal("bad-parameter", f"There is no parameter {key!r}.", f"There are {_listed(method)}.")
    present = getattr(method, key)
    try:
        if isinstance(present, str):
            return replace(method, **{key: _one_of(present, str(value))})
        number = float(value)
        if not number == number or abs(number) == float("inf"):
            raise ValueError(key)
        if isinstance(present, int):
            if number != int(number) or number < 1:
                raise ValueError(key)
            number = int(number)
        elif number < 0 and key != "value":
            raise ValueError(key)
        return replace(method, **{key: number})
    except (TypeError, ValueError) as error:
        raise Refusal(
            "bad-parameter", f"{key} cannot be {str(value)[:40]!r}.", f"It is {present!r} by default."
        ) from error


def _one_of(present: str, value: str) -> str:
    units = ("token", "layer", "sequence")
    if present in units and value not in units:
        raise ValueError(value)
    return value


def _listed(method: Any) -> str:
    own = [field.name for field in fields(method) if field.name != "base"]
    return ", ".join(
        [*own, *(["base", *(f"base.{f.name}" for f in fields(method.base))] if hasattr(method, "base") else [])]
    )


def described(method: Any) -> dict[str, Any]:
    """A method's parameters as plain values for the record, those of the base under ``base``."""
    values: dict[str, Any] = asdict(method)
    if hasattr(method, "base"):
        values["base"] = {"method": name_of(method.base), **described(method.base)}
    return values


def name_of(method: Any) -> str:
    """The name under which a method is known; of a new one, its class."""
    for name, entry in METHODS.items():
        same_unit = getattr(entry.default, "unit", None) == getattr(method, "unit", None)
        if type(entry.default) is type(method) and same_unit:
            return name
    return type(method).__name__
