"""What the user is looking at: the zoo, the encoder, and which of its models are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import streamlit as st

from pages.components import embed_job, state
from pages.components.errors import explain, show_failure
from pages.components.labels import accuracy_columns, counted
from pages.components.library import get_zoo, kept, make_kept, zoo_choices
from pages.components.working import working
from sane_engine.checkpoint import Refusal
from sane_engine.demo import Precomputed
from sane_engine.zoo import Zoo


@dataclass(frozen=True)
class Current:
    """The shared state, resolved.

    Attributes:
        key: What links call the zoo.
        name: What the user calls it; an uploaded zoo lies under another name on disk.
        zoo: The zoo.
        encoder: Name of the encoder, or None where there is none.
        selected: Row numbers in ``zoo.table``.
        pinned: Row number, or None.
    """

    key: str
    name: str
    zoo: Zoo
    encoder: str | None
    selected: tuple[int, ...]
    pinned: int | None

    @property
    def accuracy(self) -> str | None:
        """The accuracy to speak of: test before validation before train."""
        found = accuracy_columns(list(self.zoo.table.columns))
        return found[0] if found else None

    def name_of(self, row: int) -> str:
        """A checkpoint's name as it stands in legends and menus."""
        return self._names[row]

    @cached_property
    def _names(self) -> list[str]:
        # Menus ask for every row at every run; row by row that is tenths of a second for a thousand.
        table = self.zoo.table
        return [f"{model} · epoch {epoch}" for model, epoch in zip(table["model"], table["epoch"], strict=True)]

    @property
    def scope(self) -> str:
        """How many models, for captions."""
        return describe(self.zoo)


def describe(zoo: Zoo) -> str:
    """How many models and epochs: ``n = 320 models × 7 epochs``."""
    models, epochs, rows = zoo.table["model"].nunique(), zoo.table["epoch"].nunique(), len(zoo.table)
    if models * epochs == rows:
        return f"n = {counted(models, 'model')} × {counted(epochs, 'epoch')}"
    return f"n = {counted(rows, 'checkpoint')} of {counted(models, 'model')}"


def current() -> Current | None:
    """The current zoo with what is chosen in it; without a zoo, says what to do and returns None."""
    key = st.session_state.get(state.ZOO)
    if key is None:
        explain(
            "There is no zoo yet.", "Open one in the sidebar: drop a zip of checkpoints or give a folder's path."
        )
        return None
    zoo = get_zoo(key)
    n = len(zoo.table)
    return Current(
        key,
        zoo_choices().get(key, zoo.name),
        zoo,
        st.session_state.get(state.ENCODER),
        state.selected_rows(key, n),
        state.pinned_row(key, n),
    )


def embedded(now: Current) -> Precomputed | None:
    """The zoo as the encoder sees it; where that was never computed, a button that does."""
    if now.encoder is None:
        explain("There is no encoder yet.", "Pretrain one on the page Train.")
        return None
    found = kept(now.key, now.encoder)
    if found is not None:
        return found
    if len(now.zoo.table) > embed_job.AT_ONCE:
        embed_job.embed_job(now.key, now.name, now.zoo, now.encoder)
        return None
    wanted = f"embed-{now.key}-{now.encoder}"
    if not st.session_state.get(wanted):
        explain(
            f"{now.name} has not been seen through the encoder {now.encoder}.",
            "Embed it once: embeddings, maps and WeightWatcher's features are then kept.",
        )
        label = f"Embed {len(now.zoo.table):,} checkpoints"
        if not st.button(label, type="primary", icon=":material/play_arrow:"):
            return None
        st.session_state[wanted] = True
    try:
        with working("Embedding the zoo") as progress:
            make_kept(now.key, now.encoder, progress=progress)
    except Refusal:
        st.session_state[wanted] = False
        raise
    except (ValueError, RuntimeError, OSError) as error:
        st.session_state[wanted] = False
        show_failure(error, "embedding the zoo")
        return None
    st.session_state[wanted] = False
    st.rerun()
