"""Windows and halo: any length is covered once, at a bounded cost, and gives what encoding by hand gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sane_engine.sane.windows import Window, map_windows, overhead, plan_windows


@given(n=st.integers(0, 5000), window=st.integers(1, 300))
def test_every_token_is_kept_once_at_no_more_than_a_quarter_extra(n: int, window: int) -> None:
    plan = plan_windows(n, window)
    kept = [token for w in plan for token in range(w.core_start, w.core_stop)]
    assert kept == list(range(n))
    assert all(0 <= w.start <= w.core_start < w.core_stop <= w.stop <= n for w in plan)
    assert all(w.stop - w.start <= window for w in plan)
    assert overhead(plan) <= 1.25


@pytest.mark.parametrize("window", [8, 10, 64, 128])
def test_every_length_up_to_many_windows(window: int) -> None:
    for n in range(1, 8 * window):
        plan = plan_windows(n, window)
        assert sum(w.stop - w.start for w in plan) <= 1.25 * n
        sizes = [w.core_stop - w.core_start for w in plan]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == n


def test_each_window_has_its_halo_except_where_the_sequence_ends() -> None:
    for w in plan_windows(1000, 128, 12):
        assert w.start == max(0, w.core_start - 12)
        assert w.stop == min(1000, w.core_stop + 12)


def test_what_fits_into_a_window_has_no_halo() -> None:
    assert plan_windows(64, 64, 31) == (Window(0, 64, 0, 64),)
    assert len(plan_windows(65, 64, 6)) == 2


@pytest.mark.parametrize(("n", "window", "halo"), [(-1, 8, 1), (9, 0, 0), (9, 8, 4), (9, 8, -1)])
def test_impossible_plans_are_refused(n: int, window: int, halo: int) -> None:
    with pytest.raises(ValueError, match=r"tokens|halo"):
        plan_windows(n, window, halo)


def neighbourhood_sum(reach: int):  # type: ignore[no-untyped-def]
    """Sum over the neighbours within ``reach``, plus the position: a function of known receptive field."""

    def apply(x: Tensor, positions: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (0, 0, reach, reach))
        return padded.unfold(1, 2 * reach + 1, 1).sum(-1) + positions[..., :1]

    return apply


@settings(deadline=None)
@given(n=st.integers(1, 200), halo=st.integers(0, 7), batch_size=st.integers(1, 9), m=st.integers(1, 3))
def test_halo_as_wide_as_the_receptive_field_gives_the_unwindowed_result(
    n: int, halo: int, batch_size: int, m: int
) -> None:
    x = torch.randint(-50, 50, (m, n, 2)).double()
    positions = torch.arange(n)[:, None].expand(-1, 3)
    function = neighbourhood_sum(halo)
    windowed = map_windows(function, x, positions, plan_windows(n, 16, halo), batch_size=batch_size)
    assert torch.equal(windowed, function(x, positions))


def test_a_halo_that_is_too_narrow_shows() -> None:
    x = torch.ones(1, 100, 1)
    positions = torch.zeros(100, 3)
    function = neighbourhood_sum(3)
    windowed = map_windows(function, x, positions, plan_windows(100, 16, 2), batch_size=4)
    assert not torch.equal(windowed, function(x, positions))


def test_progress_inside_a_sequence_only_rises() -> None:
    seen: list[int] = []
    plan = plan_windows(500, 16)
    x, positions = torch.zeros(2, 500, 1), torch.zeros(500, 3)
    map_windows(lambda x, p: x, x, positions, plan, batch_size=5, between=seen.append)
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert 0.9 * 1000 < seen[-1] <= 1000
