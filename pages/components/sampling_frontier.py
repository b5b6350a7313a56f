"""What each method reaches on an embedded zoo, measured once over seeds: the backdrop of a user's samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pandas as pd
import streamlit as st

from pages.components.sampling_trace import SPACES
from pages.components.show import show_caption, show_table

if TYPE_CHECKING:
    from sane_engine.sampling.frontier import Frontier
    from sane_engine.sampling.spaces import SpaceName


def frontier_lines(frontier: Frontier) -> dict[str, pd.DataFrame]:
    """The upper edge of all methods in each space, by what a legend calls it."""
    return {f"best known, {SPACES[cast('SpaceName', space)]}": line for space, line in frontier.best.items()}


def frontier_said(frontier: Frontier) -> str:
    """What these lines are, for captions."""
    return (
        f"the best that any method reaches, {frontier.seeds} seeds of {frontier.n} samples, anchors "
        f"{frontier.anchors} (benchmarks.sampling_frontier)"
    )


def frontier_table(frontier: Frontier) -> None:
    """What each method reaches, closed until it is asked for."""
    with st.expander("What each method reaches on this zoo"):
        show_table(frontier.table(), "frontier")
        show_caption(
            f"Accuracy at epoch 0 at a novelty · mean of {frontier.seeds} seeds of {frontier.n} samples · anchors "
            f"{frontier.anchors} · empty where no setting reaches that novelty · benchmarks.sampling_frontier"
        )
