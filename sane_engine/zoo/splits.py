"""Who is trained on and who is tested: splits by model, never by checkpoint.

Checkpoints of one run (and files of one group) are near copies of each other. If some of them were trained on and
others tested, every probe would look better than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
# When there are fewer models than splits, the earlier of these get one first.
_FIRST_SERVED = (0, 2, 1)


def split_sizes(n: int, fractions: Sequence[float]) -> tuple[int, int, int]:
    """How many of ``n`` models go to train, validation and test.

    Largest-remainder rounding; a split with a positive fraction gets at least one model where there are enough.

    Raises:
        ValueError: The fractions are not three non-negative numbers that sum to one.
    """
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or not np.isclose(shares.sum(), 1.0):
        raise ValueError(f"fractions must be three non-negative numbers that sum to 1, got {tuple(fractions)}")
    exact = n * shares
    sizes = np.floor(exact + 1e-9).astype(int)
    for index in np.argsort(-(exact - sizes), kind="stable")[: n - sizes.sum()]:
        sizes[index] += 1
    for index in _FIRST_SERVED:
        if shares[index] > 0 and sizes[index] == 0:
            # Train gives first: it has most. Test never gives to validation when it has only one.
            donors = [d for d in range(3) if sizes[d] > 1]
            if donors:
                sizes[max(donors, key=lambda d: sizes[d])] -= 1
                sizes[index] += 1
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def split_by_group(
    groups: Sequence[Any] | NDArray[Any], *, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> NDArray[np.object_]:
    """Assign every row to a split so that rows of one group stay together.

    Args:
        groups: One value a row (the model, or the group several models belong to).
        fractions: Shares of the *groups* for train, validation and test.
        seed: Which shuffle of the groups.

    Returns:
        One of ``"train"``, ``"validation"``, ``"test"`` for each row, shape ``[len(groups)]``. It depends only on
        the set of groups and the seed, not on the order of the rows.
    """
    names = np.asarray([str(g) for g in groups], dtype=object)
    unique = sorted(set(names.tolist()))
    sizes = split_sizes(len(unique), fractions)
    order = np.random.default_rng(seed).permutation(len(unique))
    labels = np.repeat(np.asarray(SPLITS, dtype=object), sizes)
    of_group = {unique[position]: label for position, label in zip(order, labels, strict=True)}
    return np.asarray([of_group[name] for name in names], dtype=object)
