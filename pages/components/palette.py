"""Colours: one accent, ten for categories, one scale for numbers, in the theme that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st


@dataclass(frozen=True)
class Palette:
    """The colours of one theme, as ``#rrggbb``.

    Attributes:
        categories: Ten colours for unordered values; the first is the accent.
        sequence: Perceptually uniform (viridis), low to high; the high end stands off the background.
        text: Text and thin lines.
        faint: Grid lines, bands, points that are not selected.
        background: What the plot lies on.
    """

    categories: tuple[str, ...]
    sequence: tuple[str, ...]
    text: str
    faint: str
    background: str

    @property
    def accent(self) -> str:
        """The one colour for what the user chose."""
        return self.categories[0]

    @property
    def scale(self) -> list[tuple[float, str]]:
        """The sequence as a Plotly colour scale."""
        last = len(self.sequence) - 1
        return [(i / last, colour) for i, colour in enumerate(self.sequence)]

    def category(self, index: int) -> str:
        """The colour of the category number ``index``; after ten they repeat."""
        return self.categories[index % len(self.categories)]


def _configured(theme: str, option: str) -> object:
    return st.get_option(f"theme.{theme}.{option}")


def palette(theme: str | None = None) -> Palette:
    """The palette of a theme, ``"light"`` or ``"dark"``; by default the one on the user's screen.

    The colours are those of ``.streamlit/config.toml``, so that plots and page agree.
    """
    theme = theme or st.context.theme.type or "light"
    return Palette(
        categories=_colours(_configured(theme, "chartCategoricalColors")),
        sequence=_colours(_configured(theme, "chartSequentialColors")),
        text=str(_configured(theme, "textColor")),
        faint=str(_configured(theme, "borderColor")),
        background=str(_configured(theme, "backgroundColor")),
    )


def _colours(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or not value:
        raise RuntimeError(
            "The theme's colours are missing: start the app from its own folder with `streamlit run app.py`."
        )
    return tuple(str(colour) for colour in value)


def transparent(colour: str, opacity: float) -> str:
    """The colour ``#rrggbb`` with an opacity between 0 and 1, as Plotly writes it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
