"""A selectbox whose choice outlives a change of page, and is always one of what is on offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pages.components import state
from pages.components.labels import short_label
from pages.components.show import one_line

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator


def choose(
    place: DeltaGenerator,
    label: str,
    options: Sequence[str],
    key: str,
    *,
    default: str | None = None,
    shown: Callable[[str], str] = one_line,
    on_change: Callable[[], None] | None = None,
    width: int | Literal["stretch"] = "stretch",
) -> str:
    """Draw it and return what is chosen.

    Args:
        place: A column, or another container.
        label: Above it.
        options: What is on offer, at least one.
        key: Of the session's state; pages that share it share the choice.
        default: What is chosen at first; the first option where it is not on offer.
        shown: An option as the user reads it.
        on_change: Called before the page runs again.
        width: In pixels, or all there is.
    """
    state.keep_valid(key, options, default)
    return str(
        place.selectbox(
            label, options, format_func=shown, key=key, persist_state="session", on_change=on_change, width=width
        )
    )


def choose_property(
    place: DeltaGenerator,
    label: str,
    names: Sequence[str],
    key: str,
    *,
    default: str | None = None,
    on_change: Callable[[], None] | None = None,
    width: int | Literal["stretch"] = "stretch",
) -> str:
    """As :func:`choose`, of columns of a zoo's table."""
    return choose(
        place,
        label,
        names,
        key,
        default=default,
        shown=lambda n: one_line(short_label(n)),
        on_change=on_change,
        width=width,
    )
