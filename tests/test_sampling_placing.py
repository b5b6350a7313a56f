"""A place on the map decodes to the models around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sane_engine.checkpoint import Refusal
from sane_engine.sampling import task_of
from sane_engine.sampling.frame import frame_of
from sane_engine.sampling.placing import decode_place, shares_at
from sane_engine.sampling.spaces import space_of
from sane_engine.zoo import load_zoo

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [np.nan, 0.5]])


def test_a_point_counts_alone_and_the_middle_is_shared() -> None:
    rows, shares = shares_at(SQUARE, (1.0, 0.0))
    assert rows.tolist() == [1] and shares.tolist() == [1.0]
    rows, shares = shares_at(SQUARE, (0.5, 0.5))
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    assert shares == pytest.approx([0.25] * 4)


def test_what_is_nearer_counts_more() -> None:
    rows, shares = shares_at(SQUARE, (0.2, 0.1), neighbours=3)
    assert rows.tolist() == [0, 1, 2]
    assert shares[0] > shares[1] > shares[2] and shares.sum() == pytest.approx(1)


def test_places_on_and_between_models_decode_to_networks_that_work() -> None:
    zoo = load_zoo("digits")
    best = zoo.table["test_accuracy"].to_numpy().argsort()[-4:]
    frame = frame_of(zoo, int(best[0]))
    space, task = space_of("weights", frame), task_of(zoo)
    on = decode_place(space, zoo, best, SQUARE[:4], (0.0, 1.0), task)
    assert on.rows.tolist() == [best[2]]
    # The table's accuracy is of another run of the same network: to a rounding of one image in some hundreds.
    assert on.accuracy == pytest.approx(float(on.around[0]), abs=1e-9)
    for name, tensor in zoo.tensors(int(best[2])).items():
        torch.testing.assert_close(on.tensors[name], tensor, rtol=1e-4, atol=1e-5)
    assert np.allclose(on.layers["decoded"], on.layers["low"], rtol=1e-4)
    between = decode_place(space, zoo, best, SQUARE[:4], (0.5, 0.5), task)
    assert len(between.rows) == 4 and between.accuracy > 0.85


def test_an_empty_map_is_refused() -> None:
    zoo = load_zoo("digits")
    space = space_of("weights", frame_of(zoo, 0))
    with pytest.raises(Refusal) as refusal:
        decode_place(space, zoo, np.array([0]), np.array([[np.nan, np.nan]]), (0.0, 0.0), None)
    assert refusal.value.code == "empty-map"
