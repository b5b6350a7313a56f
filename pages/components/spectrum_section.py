"""The section *Spectrum of a layer* on the pages Layers and Inspect: click a layer, see its ESD and the fit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.errors import explain, show_failure
from pages.components.esd_chart import LayerSpectrum, View, esd_figure
from pages.components.memory import Memory
from pages.components.palette import palette
from pages.components.show import one_line, show_caption, show_figure, show_table, three
from pages.components.working import working
from sane_engine.baselines.esd import CONVOLUTION_SCALE, COST_HERE, Esd, esd, marchenko_pastur, power_law
from sane_engine.progress import CancelCheck, Cancelled

if TYPE_CHECKING:
    from torch import Tensor

MOST_SPECTRA = 4
VIEWS: dict[str, View] = {"Density": "density", "Share above": "tail"}
# The layer that is shown first is decomposed in a blink.
_COST_OF_FIRST = 2e8

_SPECTRA: Memory[Esd] = Memory(128)


@dataclass(frozen=True)
class Network:
    """One network of which a layer can be shown.

    Attributes:
        name: In the legend.
        key: What its weights are known by, in any session.
        tensors: Reads its weights.
        table: WeightWatcher's layer table of it.
        colour: Number of its colour in the layer curves.
    """

    name: str
    key: Hashable
    tensors: Callable[[], Mapping[str, Tensor]]
    table: pd.DataFrame
    colour: int


def offered_layers(networks: Sequence[Network]) -> list[str]:
    """The layers with eigenvalues; sees to it that one of them is chosen, for the line in the layer curves."""
    offered = list(dict.fromkeys(layer for network in networks for layer in _with_spectrum(network)["name"]))
    state.keep_valid(state.SPECTRUM, offered, _first(networks))
    return offered


def spectrum_section(networks: Sequence[Network], *, name: str) -> None:
    """Draw the section.

    Args:
        networks: In the order of the curves; the first ones that have the layer are drawn.
        name: For the files.
    """
    st.subheader("Spectrum of a layer", anchor=False)
    offered = offered_layers(networks)
    if not offered:
        explain("None of these layers has eigenvalues that WeightWatcher looks at.", "The table says why.")
        return
    state.keep_valid("spectrum-view", list(VIEWS))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        layer = st.selectbox(
            "Layer",
            offered,
            key=state.SPECTRUM,
            format_func=one_line,
            persist_state="session",
            width=320,
            help="Or click a point of the layer curves above.",
        )
        view = st.segmented_control(
            "Spectrum as",
            list(VIEWS),
            key="spectrum-view",
            required=True,
            persist_state="session",
            help="The density as a histogram with logarithmic bins, or the share of eigenvalues at or above each "
            "(the complementary cumulative distribution), which needs no bins.",
        )
    having = [network for network in networks if layer in set(_with_spectrum(network)["name"])]
    try:
        shown = _spectra(having[:MOST_SPECTRA], str(layer))
    except Cancelled:
        return  # the line that stands here says so and offers to resume; the rest of the page goes on
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        show_failure(error, f"computing the spectrum of {layer}")
        return
    shown = [item for item in shown if len(item.esd.positive)]
    if not shown:
        explain("All eigenvalues of this layer are zero.")
        return
    left, right = st.columns([1.6, 1], gap="medium")
    with left:
        figure = esd_figure(shown, VIEWS[str(view)], colours=palette())
        alt = f"Eigenvalue spectrum of the layer {one_line(layer)} on logarithmic axes"
        show_figure(figure, f"{name}-spectrum", _caption(shown, str(layer), len(having), len(networks)), alt=alt)
    with right:
        _numbers(shown, having, str(layer), name)


def _with_spectrum(network: Network) -> pd.DataFrame:
    return network.table[network.table["num_evals"].notna()]


def _first(networks: Sequence[Network]) -> str | None:
    """The layer with most eigenvalues among those that have a fit and cost little; its plot says most."""
    for network in networks:
        table = _with_spectrum(network)
        table = table[table["alpha"].notna()]
        cheap = table[table["M"] ** 2 * table["N"] * table["rf"] <= _COST_OF_FIRST]
        if len(cheap):
            return str(cheap["name"].iloc[int(cheap["num_evals"].astype(float).argmax())])
        if len(table):
            return str(table.iloc[0]["name"])
    return None


def _row(network: Network, layer: str) -> dict[Any, Any]:
    table = network.table
    return dict(table[table["name"] == layer].iloc[0])


def _spectra(networks: Sequence[Network], layer: str) -> list[LayerSpectrum]:
    waiting = [network for network in networks if _SPECTRA.peek((network.key, layer)) is None]
    cost = 0.0
    for network in waiting:
        row = _row(network, layer)
        cost += float(row["M"]) ** 2 * float(row["N"]) * float(row["rf"])
    if cost <= COST_HERE / 4:
        _compute(waiting, layer, lambda i: False)
    else:
        with working("Eigenvalues") as progress:

            def asked(i: int) -> bool:
                progress(i, len(waiting), f"{waiting[i].name}: {layer}")
                return False

            _compute(waiting, layer, asked)
    found = [_SPECTRA.get((network.key, layer), partial(_esd, network, layer)) for network in networks]
    return [
        LayerSpectrum(network.name, spectrum, power_law(_row(network, layer)), network.colour)
        for network, spectrum in zip(networks, found, strict=True)
    ]


def _compute(networks: Sequence[Network], layer: str, asked: Callable[[int], bool]) -> None:
    for i, network in enumerate(networks):
        asked(i)
        _SPECTRA.put((network.key, layer), _esd(network, layer, partial(asked, i)))


def _esd(network: Network, layer: str, cancelled: CancelCheck | None = None) -> Esd:
    return esd(network.tensors(), layer, cancelled=cancelled)


def _caption(shown: Sequence[LayerSpectrum], layer: str, having: int, networks: int) -> str:
    first = shown[0].esd
    counts = sorted({len(item.esd.eigenvalues) for item in shown})
    said = f"{layer} · n = {' or '.join(f'{count:,}' for count in counts)} eigenvalues"
    said += f" each of {len(shown)} networks" if len(shown) > 1 else ""
    long, short = first.sides
    if first.positions > 1 or first.scale == CONVOLUTION_SCALE:
        said += f" · {first.positions} kernel positions, each {long} × {short}, times √½, as WeightWatcher does"
    else:
        said += f" · a matrix of {long:,} × {short:,}"
    hidden = sum(len(item.esd.eigenvalues) - len(item.esd.positive) for item in shown)
    said += f" · {hidden} are zero and not drawn" if hidden else ""
    lowest = min(float(item.esd.positive[0]) for item in shown)
    said += f" · the smallest is {three(lowest)}" if lowest < 1e-3 * first.eigenvalues[-1] else ""
    if len(shown) < having:
        said += f" · the first {len(shown)} of {having} networks that have this layer"
    elif having < networks:
        said += f" · {having} of {networks} networks have this layer"
    return said + " · dashed: WeightWatcher's power law from x-min on · no split: weights only"


def _numbers(shown: Sequence[LayerSpectrum], having: Sequence[Network], layer: str, name: str) -> None:
    table = pd.DataFrame(
        {
            "network": [one_line(item.name) for item in shown],
            "alpha": [item.law.alpha if item.law else np.nan for item in shown],
            "±": [item.law.sigma if item.law else np.nan for item in shown],
            "x-min": [item.law.xmin if item.law else np.nan for item in shown],
            "D": [item.law.D if item.law else np.nan for item in shown],
            "tail": pd.array([item.law.n if item.law else None for item in shown], dtype="Int64"),
            "n": [len(item.esd.eigenvalues) for item in shown],
            "λ max": [float(item.esd.eigenvalues[-1]) for item in shown],
        }
    )
    show_table(table.drop(columns="network") if len(shown) == 1 else table, f"{name}-spectrum-numbers")
    show_caption(
        "alpha: exponent of the tail's density λ^(−alpha) from x-min on, 2 to 6 is usual; ±: its standard error; "
        "D: Kolmogorov–Smirnov distance between tail and fit, 0 to 1; tail: eigenvalues in it, of n."
    )
    if len(shown) == 1:
        edge = float(marchenko_pastur(shown[0].esd).eigenvalues[-1])
        beyond = int((shown[0].esd.eigenvalues > edge).sum())
        show_caption(
            f"Beyond {three(edge)}, where the spectrum of random weights of this shape and size ends (dotted): "
            f"{beyond} eigenvalue{'' if beyond == 1 else 's'}."
        )
    said: dict[str, list[str]] = {}
    rows = {network.name: _row(network, layer) for network in having}
    for item in shown:
        row = rows[item.name]
        verdict = str(row.get("warning") or "")
        parts = [str(row[key]) for key in ("reason", "note") if row.get(key)]
        text = " ".join([*parts, *([f"WeightWatcher's verdict: {verdict}."] if verdict else [])])
        if text:
            said.setdefault(text, []).append(item.name)
    for text, names in said.items():
        show_caption(text if len(names) == len(shown) else f"{', '.join(names)}: {text}")
