"""Ten colours that ten categories can be told apart by, whoever looks."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CONFIG = tomllib.loads(
    (Path(__file__).resolve().parents[2] / ".streamlit" / "config.toml").read_text(encoding="utf-8")
)

# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
EYES = {
    "all colours": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray[Any, Any]:
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    x, y, z = np.cbrt(np.clip(to_xyz @ rgb, 1e-6, None) / (0.95047, 1.0, 1.08883))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    high, low = sorted((float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (one, other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", EYES)
def test_categories_stay_apart(theme: str, eyes: str) -> None:
    colours = CONFIG["theme"][theme]["chartCategoricalColors"]
    assert len(set(colours)) == 10
    seen = [lab(np.clip(np.array(EYES[eyes]) @ linear(colour), 0, 1)) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 20


@pytest.mark.parametrize(("theme", "least"), [("light", 2.4), ("dark", 2.9)])
def test_categories_stand_off_the_background(theme: str, least: float) -> None:
    settings = CONFIG["theme"][theme]
    assert (
        min(contrast(colour, settings["backgroundColor"]) for colour in settings["chartCategoricalColors"]) >= least
    )
    assert contrast(settings["textColor"], settings["backgroundColor"]) >= 7
    assert settings["primaryColor"] == settings["chartCategoricalColors"][0], "one accent"
    assert contrast("#ffffff", settings["primaryColor"]) >= 3, "buttons of the accent bear white text"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_scale_rises_in_lightness(theme: str) -> None:
    scale = CONFIG["theme"][theme]["chartSequentialColors"]
    assert len(scale) == 10
    steps = np.diff([lab(linear(colour))[0] for colour in scale])
    assert (steps > 0).all()
    assert steps.max() < 2.5 * steps.min(), "equal steps of the number are about equal steps for the eye"


def test_users_see_no_tracebacks_and_nobody_else_sees_the_server() -> None:
    assert CONFIG["server"]["address"] == "127.0.0.1"
    assert CONFIG["browser"]["gatherUsageStats"] is False
    assert CONFIG["client"]["showErrorDetails"] == "none"


def test_upload_limits_agree() -> None:
    from pages.components.sidebar import UPLOAD_LIMIT_MB

    assert CONFIG["server"]["maxUploadSize"] == UPLOAD_LIMIT_MB
