"""The form of a new zoo: from a template to a checked specification."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from pages.components.show import inert, show_caption
from sane_engine.workspace import assets_root, workspace_root
from sane_engine.zoo import ZooSpec
from sane_engine.zoo.architecture_spec import ACTIVATIONS, ArchitectureSpec, ConvSpec
from sane_engine.zoo.resnet_spec import ResNetSpec
from sane_engine.zoo.spec import INITIALISATIONS, OPTIMISERS
from sane_engine.zoo.spec_fields import Range, SpecError

_CONVOLUTION = {"out": "Channels", "kernel": "Kernel (px)", "stride": "Stride (px)", "padding": "Padding (px)"}
_CONVOLUTION |= {"pool": "Max-pool (px)"}
_NONE = "defaults"
OWN_FILES = "files of yours …"
# Where the template has no range for an optimiser.
_RATES = {"sgd": (3e-3, 0.6), "momentum": (5e-4, 0.1)}


def zoo_form() -> tuple[ZooSpec, Path | None] | None:
    """Draw the form.

    Returns:
        The specification and where the data's files lie (None: found by name), or None where something is wrong,
        which a red line says.
    """
    templates = {path.stem: path for path in sorted((assets_root() / "specs").glob("*.json"))}
    offered = list(templates) or [_NONE]
    first = offered.index("digits") if "digits" in offered else 0
    left, right = st.columns(2)
    chosen = left.selectbox(
        "Start from",
        offered,
        index=first,
        key="zoo-template",
        help="A specification that ships with the code.",
    )
    base = ZooSpec.load(templates[chosen]) if chosen in templates else ZooSpec("zoo")
    form = _Form(chosen, base)
    name = right.text_input("Name", f"my-{chosen}", key=form.key("name"), max_chars=60)
    try:
        dataset, data, image = form.data()
        st.markdown("**Architecture**")
        architecture = form.architecture(image)
        st.markdown("**Population**")
        population = form.population()
        st.markdown("**What every model draws for itself**")
        varied = form.variations()
        spec = replace(base, name=name, dataset=dataset, architecture=architecture, **population, **varied)
    except (SpecError, ValueError) as error:
        st.error(inert(str(error)), icon=":material/error:")
        return None
    weights = sum(_size(shape) for shape in architecture.shapes.values())
    show_caption(
        f"{weights:,} weights a model · {spec.n_models:,} models × {len(spec.checkpoint_epochs)} checkpoints "
        f"= {4e-6 * weights * spec.n_models * len(spec.checkpoint_epochs):,.1f} MB · seed {spec.seed}"
    )
    with st.expander("The specification, for the command line", icon=":material/data_object:"):
        st.code(json.dumps(spec.to_json(), indent=1), language="json", height=240)
    return spec, data


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _whole_numbers(text: str, what: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(";", ",").split(",") if part.strip())
    except ValueError:
        raise SpecError(f"{what} must be whole numbers with commas between them, not {text[:40]!r}.") from None


class _Form:
    """The parts of the form; what a widget holds belongs to the template it was drawn for."""

    def __init__(self, template: str, base: ZooSpec) -> None:
        self._template, self._base = template, base

    def key(self, name: str) -> str:
        return f"zoo-{self._template}-{name}"

    def data(self) -> tuple[str, Path | None, tuple[int, int]]:
        """Name of the data, its files, and channels and side of an image."""
        base = self._base
        folder = workspace_root() / "data"
        known = {entry.stem if entry.suffix == ".npz" else entry.name: entry for entry in sorted(folder.glob("*"))}
        offered = ["digits", *known, OWN_FILES]
        left, middle, right, last = st.columns([1.2, 2, 0.8, 0.8])
        index = offered.index(base.dataset) if base.dataset in offered else len(offered) - 1
        chosen = left.selectbox("Images", offered, index=index, key=self.key("data"))
        place = middle.text_input(
            "Their files",
            "",
            placeholder="/data/mnist: a folder of IDX files or of pictures by class, or an .npz",
            disabled=chosen != OWN_FILES,
            key=self.key("files"),
        )
        channels, side, _ = base.architecture.input_shape
        channels = right.number_input("Channels", 1, 4, channels, key=self.key("channels"), help="1 grey, 3 colour")
        side = last.number_input("Side (px)", 4, 128, side, key=self.key("side"))
        if chosen == OWN_FILES:
            if not place.strip():
                raise SpecError("Say where the images lie, or choose digits.")
            path = Path(place.strip()).expanduser()
            if not path.exists():
                raise SpecError(f"There is nothing at {place.strip()}.")
            return (base.dataset if base.dataset not in offered else path.stem), path.resolve(), (channels, side)
        return str(chosen), None, (channels, side)

    def architecture(self, image: tuple[int, int]) -> ArchitectureSpec | ResNetSpec:
        base = self._base.architecture
        return self._residual(base, image) if isinstance(base, ResNetSpec) else self._plain(base, image)

    def _residual(self, base: ResNetSpec, image: tuple[int, int]) -> ResNetSpec:
        left, middle, right = st.columns([2, 1, 1])
        widths = left.text_input(
            "Channels of the stages", ", ".join(map(str, base.widths)), key=self.key("widths"),
            help="Residual blocks with batch norm; each stage but the first halves the image.",
        )  # fmt: skip
        blocks = middle.text_input("Blocks of the stages", ", ".join(map(str, base.blocks)), key=self.key("blocks"))
        classes = right.number_input("Classes", 2, 1000, base.classes, key=self.key("classes"))
        channels, side = image
        return replace(
            base,
            input_shape=(channels, side, side),
            widths=_whole_numbers(widths, "The channels"),
            blocks=_whole_numbers(blocks, "The blocks"),
            classes=classes,
        )

    def _plain(self, base: ArchitectureSpec, image: tuple[int, int]) -> ArchitectureSpec:
        left, right = st.columns([3, 2])
        rows = [
            {title: getattr(layer, name) for name, title in _CONVOLUTION.items()} for layer in base.convolutions
        ]
        with left:
            edited = st.data_editor(
                pd.DataFrame(rows, columns=list(_CONVOLUTION.values())),
                num_rows="dynamic",
                hide_index=True,
                key=self.key("convolutions"),
                column_config={
                    title: st.column_config.NumberColumn(
                        title,
                        min_value=0 if name == "padding" else 1,
                        step=1,
                        default=0 if name == "padding" else 1,
                    )
                    for name, title in _CONVOLUTION.items()
                },
            )
            show_caption("Convolutions, first to last; none makes a multilayer perceptron")
        convolutions = tuple(
            ConvSpec(**{name: int(row[title]) for name, title in _CONVOLUTION.items()})
            for _, row in edited.dropna().iterrows()
        )
        hidden = right.text_input(
            "Fully connected layers (widths)", ", ".join(map(str, base.hidden)), key=self.key("hidden")
        )
        classes = right.number_input("Classes", 2, 1000, base.classes, key=self.key("classes"))
        channels, side = image
        return replace(
            base,
            input_shape=(channels, side, side),
            convolutions=convolutions,
            hidden=_whole_numbers(hidden, "The widths"),
            classes=classes,
        )

    def population(self) -> dict[str, Any]:
        base = self._base
        cells = st.columns([1, 1, 2, 1])
        models = cells[0].number_input("Models", 2, 100_000, base.n_models, key=self.key("models"))
        epochs = cells[1].number_input("Epochs", 1, 10_000, base.epochs, key=self.key("epochs"))
        kept_epochs, key = base.checkpoint_epochs, "checkpoints"
        if epochs != base.epochs:
            # Another number of epochs has a field of its own, which begins with what fits.
            kept_epochs = tuple(sorted({*(epoch for epoch in kept_epochs if epoch <= epochs), epochs}))
            key = f"checkpoints-{epochs}"
        kept = cells[2].text_input("Checkpoints after epochs", ", ".join(map(str, kept_epochs)), key=self.key(key))
        seed = cells[3].number_input("Seed", 0, 2**31 - 1, base.seed, key=self.key("seed"))
        shared = st.toggle(
            "One shared initialisation",
            base.shared_initialisation,
            key=self.key("shared"),
            help="Models that start from the same weights stay comparable neuron by neuron: easy to compress and "
            "to sample. Independent ones are the honest hard case.",
        )
        epochs_kept = _whole_numbers(kept, "The checkpoints' epochs")
        return {
            "n_models": models,
            "epochs": epochs,
            "checkpoint_epochs": epochs_kept,
            "shared_initialisation": shared,
            "seed": seed,
            "stop_epoch": tuple(epoch for epoch in base.stop_epoch if epoch <= epochs),
        }

    def variations(self) -> dict[str, Any]:
        base = self._base
        cells = st.columns(3)
        activation = cells[0].multiselect(
            "Activation", ACTIVATIONS, list(dict.fromkeys(base.activation)), key=self.key("activation")
        )
        initialisation = cells[1].multiselect(
            "Initialisation", INITIALISATIONS, list(dict.fromkeys(base.initialisation)), key=self.key("init")
        )
        optimiser = cells[2].multiselect(
            "Optimiser", OPTIMISERS, list(dict.fromkeys(base.optimiser)), key=self.key("optimiser")
        )
        left, right = st.columns([3, 2])
        with left:
            ranges = self._ranges(optimiser)
        sizes = right.text_input(
            "Batch sizes", ", ".join(map(str, dict.fromkeys(base.batch_size))), key=self.key("batch")
        )
        pruning = right.text_input(
            "Pruned copies (sparsities)",
            ", ".join(map(str, base.pruning)),
            placeholder="0.5, 0.8",
            key=self.key("pruning"),
            help="For each sparsity, a copy of every model's last checkpoint without its smallest weights.",
        )
        try:
            sparsities = tuple(float(part) for part in pruning.split(",") if part.strip())
        except ValueError:
            raise SpecError("Sparsities must be numbers between 0 and 1 with commas between them.") from None
        return {
            "activation": tuple(activation),
            "initialisation": tuple(initialisation),
            "optimiser": tuple(optimiser),
            "learning_rate": {name: ranges[f"learning rate, {name}"] for name in optimiser},
            "weight_decay": ranges["weight decay"],
            "dropout": ranges["dropout"],
            "batch_size": _whole_numbers(sizes, "Batch sizes"),
            "pruning": sparsities,
        }

    def _ranges(self, optimisers: list[str]) -> dict[str, Range]:
        """A table of intervals to draw from, one row a quantity."""
        rows = [(f"learning rate, {name}", *self._rate(name), 0.0) for name in optimisers]
        for title, values in (("weight decay", self._base.weight_decay), ("dropout", self._base.dropout)):
            low, high = _ends(values)
            rows.append((title, low, high, values.zero if isinstance(values, Range) else float(high == 0)))
        edited = st.data_editor(
            pd.DataFrame(rows, columns=["quantity", "from", "to", "share of zeros"]),
            hide_index=True,
            key=self.key(f"ranges-{'-'.join(optimisers)}"),
            disabled=["quantity"],
            column_config={
                "from": st.column_config.NumberColumn("From", min_value=0.0, format="%.3g", required=True),
                "to": st.column_config.NumberColumn("To", min_value=0.0, format="%.3g", required=True),
                "share of zeros": st.column_config.NumberColumn(
                    "Share that has none", min_value=0.0, max_value=1.0, format="%.3g", required=True
                ),
                "quantity": st.column_config.TextColumn("Drawn from a range"),
            },
        )
        show_caption("Drawn log-uniformly where the range begins above zero; dropout uniformly")
        return {
            str(title): Range(float(low), float(high), log=low > 0 and title != "dropout", zero=float(zero))
            for title, low, high, zero in edited.itertuples(index=False)
        }

    def _rate(self, optimiser: str) -> tuple[float, float]:
        rates = self._base.learning_rate
        known = rates.get(optimiser) if isinstance(rates, Mapping) else rates
        return _RATES.get(optimiser, (2e-4, 2e-2)) if known is None else _ends(known)


def _ends(values: Any) -> tuple[float, float]:
    if isinstance(values, Range):
        return float(values.low), float(values.high)
    return float(min(values)), float(max(values))
