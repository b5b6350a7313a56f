"""The spectrum of one layer: WeightWatcher's eigenvalues, a planted power law, and what chance gives."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sane_engine.baselines import esd as room
from sane_engine.baselines import layer_features, spectrum
from sane_engine.baselines.esd import Esd, PowerLaw, esd, log_histogram, marchenko_pastur, power_law, share_above


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def planted(alpha: float, n: int = 300, seed: int = 0) -> Tensor:
    """A matrix whose squared singular values are drawn from a Pareto law with density exponent ``alpha``."""
    generator = np.random.default_rng(seed)
    eigenvalues = (1 - generator.random(n)) ** (-1 / (alpha - 1))
    left, right = (np.linalg.qr(generator.standard_normal((side, n)))[0] for side in (n, n + 40))
    return torch.from_numpy(left @ np.diag(eigenvalues**0.5) @ right.T).float()


def test_a_convolution_has_the_eigenvalues_that_weightwatcher_analyses() -> None:
    tensors = {"conv.weight": normal(6, 8, 2, 3)}
    found = esd(tensors, "conv")
    np.testing.assert_allclose(found.eigenvalues, spectrum(tensors, "conv").eigenvalues, rtol=1e-12)
    assert (found.sides, found.positions) == ((8, 6), 6)
    # Each matrix is multiplied by √½, so the eigenvalues are half of the sum of squares.
    assert found.eigenvalues.sum() == pytest.approx(float(tensors["conv.weight"].square().sum()) / 2)


def test_a_large_matrix_is_decomposed_in_a_child_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"fc.weight": normal(20, 36), "fc.bias": normal(20)}
    here = esd(tensors, "fc")
    monkeypatch.setattr(room, "COST_HERE", 0.0)
    np.testing.assert_allclose(esd(tensors, "fc").eigenvalues, here.eigenvalues, rtol=1e-12)


def test_a_layer_that_weightwatcher_would_skip_is_read_as_the_table_says() -> None:
    found = esd({"line.weight": normal(9, 9, 3)}, "line")
    assert found.sides == (27, 9) and "WeightWatcher would skip it" in found.note


def test_what_has_no_spectrum_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="All weights are zero"):
        esd({"zero.weight": torch.zeros(9, 9)}, "zero")
    with pytest.raises(ValueError, match="NaN"):
        esd({"bad.weight": torch.full((9, 9), float("nan"))}, "bad")
    with pytest.raises(KeyError):
        esd({"a.weight": normal(9, 9)}, "nowhere")


def test_the_drawn_line_is_weightwatchers_fit_of_a_planted_tail() -> None:
    tensors = {"fc.weight": planted(2.5)}
    row = layer_features(tensors).iloc[0].to_dict()
    law, found = power_law(row), esd(tensors, "fc")
    assert law is not None
    assert abs(law.alpha - 2.5) < 4 * law.sigma
    tail = found.eigenvalues[found.eigenvalues >= law.xmin * (1 - 1e-9)]
    assert (len(tail), tail[-1]) == (law.n, pytest.approx(law.xmax))
    # The two curves of the plot are as far apart as the Kolmogorov-Smirnov distance in the table says.
    total = len(found.eigenvalues)
    values, share = share_above(found)
    gap = np.abs(share - law.share_above(values, total))[-law.n :].max() * total / law.n
    assert gap == pytest.approx(law.D, abs=1.5 / law.n)


@given(st.floats(1.5, 8), st.floats(1e-4, 1e4), st.integers(8, 400))
@settings(max_examples=40, deadline=None)
def test_density_and_share_of_a_law_are_one_law(alpha: float, xmin: float, n: int) -> None:
    law, total = PowerLaw(alpha, xmin, xmin * 1e6, 0.1, 0.1, n), 1000
    x = xmin * np.geomspace(1, 100, 20_001)
    assert law.share_above(x[:1], total)[0] == pytest.approx(n / total)
    falls = -np.gradient(law.share_above(x, total), x)
    np.testing.assert_allclose(falls[1:-1], law.density(x, total)[1:-1], rtol=1e-4)


def test_a_row_without_a_fit_has_no_law() -> None:
    row = layer_features({"constant.weight": torch.ones(9, 9)}).iloc[0].to_dict()
    assert np.isfinite(row["log_norm"]) and power_law(row) is None
    assert power_law({"name": "norm"}) is None


@given(st.integers(5, 60))
@settings(max_examples=15, deadline=None)
def test_a_histogram_has_area_one_and_the_tail_counts_every_eigenvalue(bins: int) -> None:
    found = esd({"a.weight": normal(30, 50)}, "a")
    edges = np.geomspace(found.eigenvalues[0], found.eigenvalues[-1], bins + 1)
    edges[0], edges[-1] = found.eigenvalues[0], found.eigenvalues[-1]
    assert (log_histogram(found, edges) * np.diff(edges)).sum() == pytest.approx(1)
    values, share = share_above(found)
    assert len(values) == 30 and (share[0], share[-1]) == (1.0, pytest.approx(1 / 30))


def test_zero_eigenvalues_are_counted_but_stand_on_no_logarithmic_axis() -> None:
    wide = normal(4, 30)
    found = esd({"a.weight": torch.cat([wide, wide, wide])}, "a")  # rank 4 of 12
    values, share = share_above(found)
    assert len(found.eigenvalues) == 12 and len(values) == 4
    assert share[0] == pytest.approx(4 / 12)


@pytest.mark.parametrize("shape", [(300, 300), (200, 600), (90, 60, 3, 3)])
def test_random_weights_follow_the_marchenko_pastur_law(shape: tuple[int, ...]) -> None:
    found = esd({"a.weight": 0.07 * normal(*shape)}, "a")
    law = marchenko_pastur(found)
    assert np.trapezoid(law.density, law.eigenvalues) == pytest.approx(1, abs=0.03)
    assert found.eigenvalues[-1] == pytest.approx(law.eigenvalues[-1], rel=0.08)
    values, share = share_above(found)
    expected = np.interp(values, law.eigenvalues, law.share_above, left=1, right=0)
    assert np.abs(expected - share).max() < 0.02


def test_a_heavy_tail_reaches_beyond_the_random_edge() -> None:
    found = esd({"fc.weight": planted(2.0)}, "fc")
    assert found.eigenvalues[-1] > 3 * marchenko_pastur(found).eigenvalues[-1]


def test_an_empty_spectrum_draws_nothing() -> None:
    assert len(Esd(np.zeros(0), (0, 0)).positive) == 0


def test_the_room_loads_no_torch() -> None:
    code = "import sys, sane_engine.baselines.esd\nassert not {'torch', 'scipy'} & set(sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stderr
