"""What all pages share, kept in the session and carried by the link.

The zoo, the encoder, the selected models and the pinned one are chosen once and seen everywhere. Widgets keep their
values in ``st.session_state`` under the keys listed here; the link is read once, when a session starts, and written
at the end of every run, so that copying the address copies the view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

ZOO, ENCODER = "zoo", "encoder"
SELECTION, SELECTION_ZOO, PINNED = "selection", "selection_zoo", "pinned"
LEVEL, METHOD, COLOUR, EPOCH, GESTURE = "level", "map", "colour", "epoch", "gesture"
LAYER_LEFT, LAYER_RIGHT = "left", "right"
SPECTRUM = "spectrum"
OPENED_MODEL = "model"
PREDICT_VIEW, PREDICT_SCORE, PREDICT_BY, PREDICT_TARGET = "show", "score", "by", "target"
FEATURE_VIEW, FEATURE_NAME, FEATURE_LAYER = "of", "feature", "layer"
SYMMETRY, MOVED, REFERENCE = "symmetry", "moved", "reference"

# Longer addresses are cut by some programs; a selection that does not fit stays in the session only.
_LONGEST_ROWS = 1500


def write_rows(rows: Iterable[int]) -> str:
    """Write row numbers compactly: ``(1, 2, 3, 7)`` → ``"1-3,7"``."""
    parts: list[list[int]] = []
    for row in sorted(set(rows)):
        if parts and row == parts[-1][1] + 1:
            parts[-1][1] = row
        else:
            parts.append([row, row])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def read_rows(text: str) -> tuple[int, ...]:
    """Read what :func:`write_rows` wrote; anything else reads as no rows."""
    rows: set[int] = set()
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            start, stop = int(first), int(last or first)
            if not 0 <= start <= stop < 10_000_000 or stop - start > 1_000_000:
                return ()
            rows.update(range(start, stop + 1))
    except ValueError:
        return ()
    return tuple(sorted(rows))


@dataclass(frozen=True)
class _Linked:
    """One part of the link: the query's name is the session's key."""

    key: str
    default: Any
    read: Callable[[str], Any] = str
    write: Callable[[Any], str] = str


def _read_row(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 9 else None


def _write_row(row: Any) -> str:
    """A dropped checkpoint is no row: it stays in the session."""
    return str(row) if isinstance(row, int) else ""


_LINKED = (
    _Linked(ZOO, None),
    _Linked(ENCODER, None),
    _Linked(SELECTION, (), read_rows, write_rows),
    _Linked(PINNED, None, _read_row),
    _Linked(LEVEL, "Models"),
    _Linked(METHOD, "UMAP"),
    _Linked(COLOUR, None),
    _Linked(EPOCH, "All"),
    _Linked(LAYER_LEFT, None),
    _Linked(LAYER_RIGHT, None),
    _Linked(SPECTRUM, None),
    _Linked(OPENED_MODEL, None),
    _Linked(PREDICT_VIEW, "Table"),
    _Linked(PREDICT_SCORE, None),
    _Linked(PREDICT_BY, None),
    _Linked(PREDICT_TARGET, None),
    _Linked(FEATURE_VIEW, None),
    _Linked(FEATURE_NAME, None),
    _Linked(FEATURE_LAYER, None),
    _Linked(SYMMETRY, False, lambda text: text == "1", lambda shown: "1" if shown else ""),
    _Linked(MOVED, None, _read_row, _write_row),
    _Linked(REFERENCE, None, _read_row, _write_row),
)


def restore_from_link() -> None:
    """Once a session: take from the address what it carries, and the defaults for the rest."""
    if st.session_state.get("restored"):
        return
    st.session_state["restored"] = True
    for part in _LINKED:
        text = st.query_params.get(part.key)
        st.session_state.setdefault(part.key, part.default if text is None else part.read(text))
    # The rows in a link belong to the zoo it names.
    st.session_state.setdefault(SELECTION_ZOO, st.session_state[ZOO])


def link() -> dict[str, str]:
    """The shared state as an address carries it; defaults are left out."""
    wanted: dict[str, str] = {}
    # Rows are of the zoo they were chosen in; beside the name of another one they would choose other models.
    foreign = st.session_state.get(SELECTION_ZOO) not in (st.session_state.get(ZOO), None)
    for part in _LINKED:
        value = st.session_state.get(part.key)
        if value is None or value == part.default or (foreign and part.key in (SELECTION, PINNED)):
            continue
        text = part.write(value)
        if text and len(text) <= _LONGEST_ROWS:
            wanted[part.key] = text
    return wanted


def write_link() -> None:
    """Put the shared state into the address."""
    wanted = link()
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def forget_rows() -> None:
    """Another zoo is shown: what was opened or compared as a row of the last one means nothing in it."""
    for key in (OPENED_MODEL, MOVED, REFERENCE):
        st.session_state[key] = None


def keep_valid(key: str, options: Sequence[Any], default: Any = None) -> None:
    """Before a widget is drawn: set its value to the one remembered, or to one that is on offer.

    The value is written even when nothing changes. The same widget on two pages is two widgets to Streamlit, each
    with a memory of its own (``persist_state``); only a value that was written outranks what the other page's
    widget had when it was last seen.
    """
    value = st.session_state.get(key)
    if value not in options:
        value = default if default in options else (options[0] if options else None)
    st.session_state[key] = value


def selected_rows(zoo_name: str | None, n_rows: int) -> tuple[int, ...]:
    """The selected rows of the current zoo, in order; a selection made in another zoo does not count."""
    if st.session_state.get(SELECTION_ZOO) not in (zoo_name, None):
        return ()
    return tuple(row for row in st.session_state.get(SELECTION, ()) if row < n_rows)


def pinned_row(zoo_name: str | None, n_rows: int) -> int | None:
    """The pinned row of the current zoo, if there is one."""
    row = st.session_state.get(PINNED)
    if row is None or row >= n_rows or st.session_state.get(SELECTION_ZOO) not in (zoo_name, None):
        return None
    return int(row)


def select(rows: Iterable[int], *, redraw: bool = True) -> None:
    """Make ``rows`` the selection.

    Args:
        rows: Row numbers in the current zoo's table.
        redraw: False when the map itself made the selection and shows it already. Redrawing it would lose the
            user's zoom and lasso.
    """
    _forget_other_zoo()
    st.session_state[SELECTION] = tuple(sorted({int(row) for row in rows}))
    if redraw:
        redraw_map()


def pin(row: int | None) -> None:
    """Pin one model, to be compared with everything else, or none."""
    _forget_other_zoo()
    st.session_state[PINNED] = None if row is None else int(row)


def redraw_map() -> None:
    """Have the map drawn anew with the selection as it is now."""
    st.session_state["map_drawing"] = st.session_state.get("map_drawing", 0) + 1
    st.session_state["map_seed"] = st.session_state.get(SELECTION, ())


def clear_selection() -> None:
    """Select nothing."""
    select(())


def _forget_other_zoo() -> None:
    if st.session_state.get(SELECTION_ZOO) != st.session_state.get(ZOO):
        st.session_state[SELECTION] = ()
        st.session_state[PINNED] = None
        st.session_state[SELECTION_ZOO] = st.session_state.get(ZOO)
