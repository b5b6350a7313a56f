"""The section Symmetry of the pages Layers and Inspect: what can be permuted, and what alignment does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.barrier_chart import barrier_figure
from pages.components.errors import explain, show_failure, show_refusal
from pages.components.networks import Networks, Option
from pages.components.palette import palette
from pages.components.show import one_line, show_caption, show_figure, show_table, three
from pages.components.working import working
from sane_engine.checkpoint import Refusal
from sane_engine.progress import Cancelled

if TYPE_CHECKING:
    from sane_engine.symmetry import Barrier, Movement, Symmetry

_MOST_NOTES = 6
_HELP = "Which hidden neurons may change places without changing what the network computes, and what aligning does."


def follow(name: str, shown: tuple[Option, ...]) -> None:
    """Forget the chosen pair when the page shows other networks than at its last run."""
    before = st.session_state.get(f"symmetry-{name}")
    if before is not None and before != shown:
        st.session_state[state.MOVED] = st.session_state[state.REFERENCE] = None
    st.session_state[f"symmetry-{name}"] = shown


def symmetry_section(
    networks: Networks,
    moving: Sequence[Option],
    *,
    reference: Option | None = None,
    name: str,
) -> None:
    """Draw the section. Nothing is computed, and torch is not loaded, until the user opens it.

    Args:
        networks: What can be looked at.
        moving: The networks on offer to be aligned; the first one that is not the reference is the default.
        reference: Aligned to by default.
        name: For the files.
    """
    state.keep_valid(state.SYMMETRY, (False, True))
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.subheader("Symmetry", anchor=False, width="content")
        opened = st.toggle("Show", key=state.SYMMETRY, persist_state="session", help=_HELP)
    if not opened or not moving:
        return
    chosen, other = _pair(networks, moving, reference)
    try:
        seen = _look(networks, chosen, other)
    except Cancelled:
        return  # the line that stands here says so and offers to resume; the rest of the page goes on
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        show_failure(error, f"aligning {networks.name(chosen)}")
        return
    symmetry, movement, line, refusal = seen.symmetry, seen.movement, seen.barrier, seen.refusal
    if symmetry.is_trivial:
        _unknown(symmetry)
        return
    _found(networks, chosen, symmetry, movement, name)
    if other is None:
        explain(
            "Nothing else here has the same layout, so there is nothing to align it to.",
            "Drop a second checkpoint of the same network, or open the zoo that it belongs to.",
        )
    elif movement is None and refusal is not None:
        show_refusal(refusal)
    elif line is None and refusal is not None:
        explain(f"No walk from one network to the other: {refusal}", refusal.hint)
    elif line is not None:
        _walk(line, networks.name(chosen), networks.name(other), name)


@dataclass(frozen=True)
class _Seen:
    """What there is to show of a pair, and why there is no more."""

    symmetry: Symmetry
    movement: Movement | None = None
    barrier: Barrier | None = None
    refusal: Refusal | None = None


def _look(networks: Networks, chosen: Option, other: Option | None) -> _Seen:
    with working("Symmetry") as progress:
        progress(0, 3, "which neurons may change places")
        symmetry = networks.symmetry(chosen)
        if symmetry.is_trivial or other is None:
            return _Seen(symmetry)
        movement = None
        try:
            progress(1, 3, "aligning")
            movement = networks.movement(chosen, other)
            progress(2, 3, "walking from one to the other")

            def walking(done: int, total: int, message: str, /) -> None:
                progress(2 * total + done, 3 * total, message)

            return _Seen(symmetry, movement, networks.barrier(chosen, other, progress=walking))
        except Refusal as refusal:
            return _Seen(symmetry, movement, refusal=refusal)


def _pair(networks: Networks, moving: Sequence[Option], reference: Option | None) -> tuple[Option, Option | None]:
    """The network to move, and the one that stays or None where no other has its layout."""
    left, right = st.columns(2, gap="medium")
    first = next((option for option in moving if option != reference), moving[0])
    state.keep_valid(state.MOVED, moving, first)
    chosen: Option = left.selectbox(
        "Network",
        moving,
        key=state.MOVED,
        persist_state="session",
        format_func=lambda option: one_line(networks.name(option)),
        help="Its neurons are put into the order of the reference.",
    )
    others = networks.like(chosen)
    if not others:
        return chosen, None
    state.keep_valid(state.REFERENCE, others, reference)
    other: Option = right.selectbox(
        "Reference",
        others,
        key=state.REFERENCE,
        persist_state="session",
        format_func=lambda option: one_line(networks.name(option)),
        help="It stays as it is. Networks of the same layout are on offer; the pinned one is the default.",
    )
    return chosen, other


def _unknown(symmetry: Symmetry) -> None:
    said = symmetry.notes[-1] if symmetry.notes else "unknown: not aligned"
    explain(
        f"{said[:1].upper()}{said[1:]}.",
        "From Python, find_symmetry(module, example_input) traces any network; what its to_json() gives, saved as "
        "symmetry.json beside a zoo, is used here.",
    )


def _found(networks: Networks, chosen: Option, symmetry: Symmetry, movement: Movement | None, name: str) -> None:
    from sane_engine.symmetry import groups_table

    table = groups_table(symmetry)
    signed = sum(int(units) for units, free in zip(table["units"], table["signs"], strict=True) if free)
    cells = st.columns(6)
    cells[0].metric("Permutable neurons", f"{symmetry.n_neurons:,}")
    cells[1].metric(
        "Groups",
        f"{len(symmetry.groups):,}",
        help="Neurons of one group may change places with each other, in all tensors at once.",
    )
    if symmetry.n_blocks:
        cells[2].metric("Blocks", f"{symmetry.n_blocks:,}", help="Attention heads, groups of a convolution.")
    else:
        cells[2].metric("Free signs", f"{signed:,}", help="Neurons whose sign may flip: their activation is odd.")
    if movement is not None:
        cells[3].metric(
            "Distance",
            f"{three(movement.distance_before)} → {three(movement.distance_after)}",
            help="To the reference, before and after alignment; in units of the reference's own size, every tensor "
            "scaled to unit root mean square.",
        )
        cells[4].metric("Neurons moved", f"{100 * movement.moved:.3g} %")
        if signed:
            cells[5].metric("Signs flipped", f"{100 * movement.flipped:.3g} %")
    show_table(_groups(table, movement), f"{name}-symmetry", columns=_columns())
    show_caption(_said(networks, chosen, symmetry, signed, movement))
    if symmetry.notes:
        with st.expander(f"{len(symmetry.notes)} left as they are", icon=":material/block:"):
            for note in symmetry.notes[:_MOST_NOTES]:
                st.text(note)
            if len(symmetry.notes) > _MOST_NOTES:
                show_caption(f"and {len(symmetry.notes) - _MOST_NOTES} more")


def _groups(table: pd.DataFrame, movement: Movement | None) -> pd.DataFrame:
    """One row a group: where it is, how many units, what alignment did to them, what it touches."""
    parts = table.copy()
    parts["signs"] = ["free" if free else "fixed" for free in table["signs"]]
    if movement is not None:
        parts.insert(3, "moved", movement.groups["moved"].to_numpy())
        if movement.groups["flipped"].notna().any():
            parts.insert(4, "flipped", movement.groups["flipped"].to_numpy())
    return parts if (table["inside"] != "").any() else parts.drop(columns="inside")


def _columns() -> dict[str, object]:
    return {
        "group": st.column_config.TextColumn("group", help="Where its neurons are found first.", width="medium"),
        "moved": st.column_config.NumberColumn("moved", format="percent", help="Share of its units."),
        "flipped": st.column_config.NumberColumn("sign flipped", format="percent", help="Share of its units."),
        "tensors": st.column_config.TextColumn("tensors it touches", width="large"),
    }


def _said(networks: Networks, chosen: Option, symmetry: Symmetry, signed: int, movement: Movement | None) -> str:
    parts = [networks.origin(chosen)]
    if symmetry.n_blocks:
        parts.append(f"{signed:,} neurons with a free sign")
    if not symmetry.notes:
        parts.append("nothing had to be left fixed")
    if movement is not None:
        parts.append("aligned by weight matching, seed 0")
    return " · ".join(parts)


def _walk(line: Barrier, a: str, b: str, name: str) -> None:
    """The straight line between both networks, before and after."""
    where = f"(1 − t) · [{a}] + t · [{b}]"
    scope = f"n = {line.n_images} test images of {line.dataset} · {len(line.before.share)} points"
    if line.conditioned:
        scope += " · running statistics measured again at every point, on training images without labels"
    before, after = three(line.before.height), three(line.after.height)
    left, right = st.columns(2, gap="medium")
    with left:
        show_figure(
            barrier_figure(line, "loss", colours=palette()),
            f"{name}-barrier-loss",
            f"Barrier {before} nats before, {after} after: the largest excess over the straight line between the "
            f"ends · {where} · {scope} · weight matching, seed 0",
            alt="Test loss on the straight line between two networks, before and after alignment",
        )
    with right:
        show_figure(
            barrier_figure(line, "accuracy", colours=palette()),
            f"{name}-barrier-accuracy",
            f"{where} · {scope} · weight matching, seed 0",
            alt="Test accuracy on the straight line between two networks, before and after alignment",
        )
    with st.expander(f"The {len(line.before.share)} points", icon=":material/table_rows:"):
        show_table(line.table(), f"{name}-barrier")
