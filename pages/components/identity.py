"""The identity card of a checkpoint: what the intake found in the file."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.components.inspection import Inspected
from pages.components.show import show_caption, show_table, three
from sane_engine.baselines.layer_axis import shapes_of
from sane_engine.checkpoint import is_running_statistic

_UNITS = ("B", "kB", "MB", "GB")


def size(n: float) -> str:
    """Bytes as a person reads them."""
    for unit in _UNITS:
        if n < 1000 or unit == _UNITS[-1]:
            return f"{three(n)} {unit}"
        n /= 1000
    return ""


def identity_card(model: Inspected) -> None:
    """Draw the card. Every text is shown as it is, never read as Markdown."""
    tensors = model.tensors
    stand_ins = shapes_of(tensors)
    unique = {id(t): (name, t.numel()) for name, t in stand_ins.items() if t.is_floating_point()}.values()
    parameters = sum(n for name, n in unique if not is_running_statistic(name))
    buffers = sum(n for name, n in unique if is_running_statistic(name))
    cells = st.columns(4)
    cells[0].metric("Tensors", f"{len(tensors):,}")
    cells[1].metric(
        "Parameters",
        f"{parameters:,}",
        f"+ {buffers:,} buffers" if buffers else None,
        delta_color="off",
        delta_arrow="off",
        help="What an optimiser trains; buffers are running means and variances. Tied tensors count once.",
    )
    checkpoint = model.checkpoint
    if checkpoint is None:
        cells[2].metric("From", "the zoo")
        return
    origin = checkpoint.provenance
    cells[2].metric("Container", origin.container)
    cells[3].metric("Size", size(origin.size_bytes))
    lines = [
        ("sha256", origin.sha256),
        ("dtypes", ", ".join(f"{name} × {count}" for name, count in origin.dtypes.items())),
        ("unwrapped", " › ".join(origin.key_path) or "the tensors were at the top"),
        ("prefixes stripped", ", ".join(origin.prefixes_stripped) or "none"),
        *(
            (str(name), f"{value:.6g}" if isinstance(value, float) else str(value))
            for name, value in checkpoint.properties.items()
        ),
    ]
    width = max(len(name) for name, _ in lines)
    st.code(
        "\n".join(f"{name:<{width}}  {' '.join(text.split())}" for name, text in lines),
        language=None,
        wrap_lines=True,
    )
    if origin.ignored:
        with st.expander(f"{len(origin.ignored)} entries ignored", icon=":material/block:"):
            ignored = pd.DataFrame(origin.ignored, columns=["entry", "reason"])
            show_table(ignored, f"ignored-{model.key}")
    with st.expander(f"{len(tensors)} tensors", icon=":material/data_array:"):
        rows = [
            (name, " × ".join(map(str, t.shape)) or "scalar", str(t.dtype).removeprefix("torch."), t.numel())
            for name, t in stand_ins.items()
        ]
        show_table(pd.DataFrame(rows, columns=["tensor", "shape", "dtype", "entries"]), f"tensors-{model.key}")
    if "non_finite" in checkpoint.properties:
        show_caption(f"{checkpoint.properties['non_finite']} entries are infinite or not a number.")
