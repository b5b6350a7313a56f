"""The form of a new encoder: every field of its configuration, with the engine's own words as help."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from typing import Any, get_args

import streamlit as st

from pages.components.library import encoder_choices, encoder_config
from pages.components.show import inert
from sane_engine.sane import SaneConfig
from sane_engine.sane.config import LossNormalisation

DEFAULTS = "defaults"
_FIRST = (
    "latent",
    "token_size",
    "d_model",
    "layers",
    "steps",
    "batch_size",
    "learning_rate",
    "gamma",
    "align",
    "seed",
)
_COLUMNS = 4


def encoder_form(zoo_key: str) -> SaneConfig | None:
    """Draw the form; returns the configuration, or None where something is wrong, which a red line says."""
    template = st.selectbox(
        "Start from",
        [DEFAULTS, *encoder_choices()],
        key="encoder-template",
        help="The settings of another encoder.",
    )
    values = SaneConfig() if template in (None, DEFAULTS) else encoder_config(str(template))
    fields = {field.name: field for field in dataclasses.fields(SaneConfig)}
    chosen: dict[str, Any] = {}
    _fields([fields[name] for name in _FIRST if name in fields], values, f"{zoo_key}-{template}", chosen)
    with st.expander("All settings", icon=":material/tune:"):
        rest = [field for name, field in fields.items() if name not in _FIRST]
        _fields(rest, values, f"{zoo_key}-{template}", chosen)
    try:
        config = SaneConfig.from_json(chosen)
    except ValueError as error:
        st.error(inert(str(error)), icon=":material/error:")
        return None
    with st.expander("The configuration, for the command line", icon=":material/data_object:"):
        st.code(json.dumps(config.to_json(), indent=1), language="json", height=240)
    return config


def _fields(fields: list[dataclasses.Field[Any]], values: SaneConfig, prefix: str, chosen: dict[str, Any]) -> None:
    columns = st.columns(_COLUMNS)
    for number, field in enumerate(fields):
        with columns[number % _COLUMNS]:
            chosen[field.name] = _field(field.name, getattr(values, field.name), f"encoder-{prefix}-{field.name}")


def _field(name: str, value: Any, key: str) -> Any:
    """The widget that suits a value."""
    title, said = name.replace("_", " ").capitalize(), inert(descriptions().get(name, ""))
    if name == "loss_normalisation":
        options = list(get_args(LossNormalisation))
        return st.selectbox(title, options, index=options.index(value), key=key, help=said)
    if isinstance(value, bool):
        return st.toggle(title, value, key=key, help=said)
    if isinstance(value, int):
        return st.number_input(title, value=value, min_value=0, step=1, key=key, help=said)
    if isinstance(value, float):
        return st.number_input(
            title, value=value, min_value=0.0, format="%.4g", step=value / 10 or 0.01, key=key, help=said
        )
    text = st.text_input(
        title, "" if value is None else json.dumps(value), placeholder="automatic", key=key, help=said
    )
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        return text.strip()


@cache
def descriptions() -> dict[str, str]:
    """What each field means, out of the docstring of the configuration."""
    text = (SaneConfig.__doc__ or "").partition("Attributes:")[2]
    found = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w+: |\Z)", text + "\n", re.M | re.S)
    return {name: " ".join(said.split()) for name, said in found}
