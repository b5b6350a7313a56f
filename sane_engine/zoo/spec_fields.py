"""What a specification may say in a field: checked numbers, choices, and values to draw from. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


class SpecError(ValueError):
    """A specification that cannot be trained, and why, in one line."""


def from_mapping(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``content``, once each is known to be a field of ``kind``; JSON's lists become tuples."""
    if not isinstance(content, Mapping):
        raise SpecError(f"{kind.__name__} must be a JSON object, not {type(content).__name__}.")
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise SpecError(f"{kind.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def is_whole(value: object) -> bool:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Range:
    """An interval to draw a number from.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Draw the logarithm uniformly instead of the value itself.
        zero: Fraction of the draws that are exactly zero instead (some models without weight decay, say).
    """

    low: float
    high: float
    log: bool = False
    zero: float = 0.0

    def __post_init__(self) -> None:
        """Check that the interval can be drawn from.

        Raises:
            SpecError: It cannot.
        """
        if not all(is_number(value) for value in (self.low, self.high, self.zero)):
            raise SpecError("A range needs numbers for low, high and zero.")
        if not 0 <= self.low <= self.high:
            raise SpecError(f"A range needs 0 ≤ low ≤ high, not {self.low} and {self.high}.")
        if self.log and self.low == 0:
            raise SpecError("A logarithmic range cannot start at 0; use its field 'zero' for exact zeros.")
        if not 0 <= self.zero <= 1:
            raise SpecError(f"The fraction of zeros must lie in [0, 1], not {self.zero}.")


Values = tuple[float, ...] | Range
"""What a numeric hyper-parameter is drawn from: a few values, or a range."""


def values_of(name: str, content: object) -> Values:
    """A field that holds a number of at least 0, a list of such, or a range.

    Raises:
        SpecError: It holds something else.
    """
    if isinstance(content, Range):
        return content
    if isinstance(content, Mapping):
        return Range(**from_mapping(Range, content))
    values = tuple(content) if isinstance(content, list | tuple) else (content,)
    if not values or not all(is_number(value) and value >= 0 for value in values):
        raise SpecError(f"{name} must be a number of at least 0, a list of such, or a range; not {content!r}.")
    return values


def choices_of(name: str, content: object, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """A field that holds one or several of the words allowed.

    Raises:
        SpecError: It holds none, or another word.
    """
    choices = tuple(content) if isinstance(content, list | tuple) else (content,)
    if not choices:
        raise SpecError(f"{name} needs at least one value.")
    for choice in choices:
        if choice not in allowed:
            raise SpecError(f"{name} {choice!r} is unknown; choose from {', '.join(allowed)}.")
    return choices


def largest(values: Values) -> float:
    """The largest value that can be drawn."""
    return values.high if isinstance(values, Range) else max(values)


def smallest(values: Values) -> float:
    """The smallest value that can be drawn."""
    if isinstance(values, Range):
        return 0.0 if values.zero else values.low
    return min(values)
