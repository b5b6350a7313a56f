"""Figures and tables on the page, each with its downloads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import streamlit as st

from pages.components.labels import label, short_label
from pages.components.palette import Palette, palette
from sane_engine.tables import to_csv_bytes

if TYPE_CHECKING:
    import plotly.graph_objects as go

_PNG_SIZE = (1200, 700)


def file_name(text: str, suffix: str) -> str:
    """A file name made of ``text``, with nothing in it that a file system could mind."""
    return (re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "sane-explorer")[:80] + suffix


def config_of(name: str) -> dict[str, Any]:
    """Plotly's settings: no advertisement, camera button with a real name and double resolution."""
    return {
        "displaylogo": False,
        "scrollZoom": False,
        "toImageButtonOptions": {"format": "png", "filename": file_name(name, ""), "scale": 2},
    }


def _standalone(figure: go.Figure, caption: str, colours: Palette) -> go.Figure:
    """A copy that carries the theme and the caption with it, for files."""
    import plotly.graph_objects as go

    copy = go.Figure(figure)
    copy.update_layout(
        paper_bgcolor=colours.background,
        plot_bgcolor=colours.background,
        font={"color": colours.text, "family": "Source Sans 3, Source Sans Pro, Helvetica, Arial, sans-serif"},
        colorway=list(colours.categories),
        margin={"l": 70, "r": 30, "t": 50, "b": 90},
    )
    copy.update_xaxes(gridcolor=colours.faint, zerolinecolor=colours.faint, linecolor=colours.faint)
    copy.update_yaxes(gridcolor=colours.faint, zerolinecolor=colours.faint, linecolor=colours.faint)
    copy.add_annotation(
        text=caption.replace("<", "&lt;"),
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        yshift=-62,
        showarrow=False,
        xanchor="left",
        yanchor="top",
        font={"size": 11},
        align="left",
    )
    return copy


def _html_maker(figure: go.Figure, caption: str) -> Callable[[], str]:
    colours = palette()  # the theme on the screen is known here, not where the click is answered

    def make() -> str:
        # The library is written into the file: it opens without a network, years from now.
        return str(_standalone(figure, caption, colours).to_html(include_plotlyjs=True, full_html=True))

    return make


def _png_maker(figure: go.Figure, caption: str) -> Callable[[], bytes]:
    colours = palette()

    def make() -> bytes:
        copy = _standalone(figure, caption, colours)
        return bytes(copy.to_image(format="png", width=_PNG_SIZE[0], height=_PNG_SIZE[1], scale=2))

    return make


def caption_and_downloads(figure: go.Figure, name: str, caption: str) -> None:
    """Under a plot: what it is made of, and the plot as one HTML file or as a picture, both made on click."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        show_caption(caption)
        # Both buttons in one box: they go to the next line together.
        with st.container(horizontal=True, gap="small", width="content"):
            st.download_button(
                "HTML",
                _html_maker(figure, caption),
                file_name(name, ".html"),
                "text/html",
                key=f"html-{name}",
                icon=":material/download:",
                type="tertiary",
                on_click="ignore",
                help="The interactive plot as one file that opens offline.",
            )
            st.download_button(
                "PNG",
                _png_maker(figure, caption),
                file_name(name, ".png"),
                "image/png",
                key=f"png-{name}",
                icon=":material/image:",
                type="tertiary",
                on_click="ignore",
                help="Made by the Chromium of this machine; without one, use the camera above the plot.",
            )


def show_figure(figure: go.Figure, name: str, caption: str, *, height: int | None = None, alt: str) -> None:
    """Draw a figure with its caption and downloads.

    Args:
        figure: The figure; nothing on it reacts to clicks.
        name: Unique on the page; also the name of the downloaded files.
        caption: Number of models, split, seed. Shown as plain text.
        height: In pixels.
        alt: What the plot shows, for a screen reader.
    """
    if height:
        figure.update_layout(height=height)
    st.plotly_chart(figure, key=f"figure-{name}", config=config_of(name), alt=alt)
    caption_and_downloads(figure, name, caption)


_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|<>~$:&@])|^(?=[-+]\s)|(?<=www)(?=\.)", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d+)(?=[.)]\s)")


def inert(text: object) -> str:
    """Text from a file, for a place that reads Markdown: what would be read as markup is escaped, on one line."""
    escaped = _MARKDOWN.sub(lambda match: "\\" + match.group(0), " ".join(str(text).split()))
    return _NUMBERED.sub(r"\1\\", escaped)


def one_line(text: object) -> str:
    """Text from a file, for a place that shows it as it is, such as the options of a menu."""
    return " ".join(str(text).split())


def show_caption(text: str) -> None:
    """A line of small print; the text is shown as it is, never read as Markdown."""
    st.caption(inert(text))


def show_table(
    table: pd.DataFrame,
    name: str,
    *,
    height: int | Literal["auto"] = "auto",
    columns: Mapping[str, Any] | None = None,
    selectable: bool = False,
) -> list[int]:
    """Draw a sortable table with a CSV download.

    Args:
        table: What to show; its index is left out.
        name: Unique on the page; also the name of the downloaded file.
        height: In pixels; by default as high as ten rows at most.
        columns: Streamlit column configurations that replace the automatic ones.
        selectable: Whether rows can be chosen.

    Returns:
        Positions of the chosen rows.
    """
    settings = {str(column): _setting(str(column), table[column]) for column in table.columns} | dict(columns or {})
    chosen: list[int] = []
    if selectable:
        event = st.dataframe(
            table,
            hide_index=True,
            height=height,
            column_config=settings,
            # What was ticked is remembered by position: other rows are another table, with nothing ticked.
            key=f"table-{name}-{_identity(table)}",
            on_select="rerun",
            selection_mode="multi-row",
        )
        chosen = [row for row in event["selection"]["rows"] if row < len(table)]
    else:
        st.dataframe(
            table,
            hide_index=True,
            height=height,
            column_config=settings,
            placeholder="–",
            key=f"table-{name}",
        )
    st.download_button(
        "CSV",
        lambda: to_csv_bytes(table),
        file_name(name, ".csv"),
        "text/csv",
        key=f"csv-{name}",
        icon=":material/download:",
        type="tertiary",
        on_click="ignore",
        help="The table as it stands, every digit kept.",
    )
    return chosen


def _identity(table: pd.DataFrame) -> str:
    """A few letters that change when rows do: their labels, their order, or what the first column calls them."""
    hashes = pd.util.hash_pandas_object(table.iloc[:, :1], index=True)
    return hashlib.blake2b(hashes.to_numpy().tobytes(), digest_size=6).hexdigest()


def _setting(column: str, values: pd.Series[Any]) -> Any:
    """A column as people read it: its words and unit, and three significant digits for real numbers."""
    said, unit = short_label(column), label(column)
    explained = unit if unit != said else None
    if pd.api.types.is_float_dtype(values.dtype):
        return st.column_config.NumberColumn(said, help=explained, format="%.3g")
    return st.column_config.Column(said, help=explained)


def three(value: float | None) -> str:
    """A number with three significant digits, without needless exponents."""
    if value is None or value != value:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        text = f"{value:.3g}"
        return f"{value:.0f}" if "e" in text else text
    return f"{value:.2e}"
