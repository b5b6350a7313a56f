"""How well strangers were ranked and predicted; uncertainty by drawing whole groups of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.stranger_probes import Fitted

DRAWS = 1000
_LEVEL = 0.95
_GOOD = 0.9


@dataclass(frozen=True)
class Scores:
    """Of one configuration.

    Attributes:
        tau: Kendall's τ-b of predicted and true accuracy.
        low: Lower end of its 95 % interval, bootstrap over groups.
        high: Upper end.
        tau_good: τ among those with a true accuracy above .9.
        mae_good: Mean absolute error among these.
        flagged: Share that is said to lie outside of what the zoo knows.
        covered: Share inside their 90 % interval.
        covered_or_flagged: Share that is either.
        width: Median width of the intervals.
    """

    tau: float
    low: float
    high: float
    tau_good: float
    mae_good: float
    flagged: float
    covered: float
    covered_or_flagged: float
    width: float


def score(
    truth: NDArray[np.float64], groups: NDArray[np.object_], found: Fitted, *, draws: int = DRAWS, seed: int = 0
) -> Scores:
    """Score predictions of strangers with true accuracies ``[n]`` in groups ``[n]``; without draws no interval."""
    from scipy.stats import kendalltau

    members = [np.flatnonzero(groups == group) for group in sorted(set(groups.tolist()))]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        drawn.append(float(kendalltau(truth[rows], found.value[rows]).statistic))
    tail = (1 - _LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail]) if drawn else (np.nan, np.nan)
    good = truth > _GOOD
    covered, flagged = (found.low <= truth) & (truth <= found.high), found.outside > 1
    return Scores(
        tau=float(kendalltau(truth, found.value).statistic),
        low=float(low),
        high=float(high),
        tau_good=float(kendalltau(truth[good], found.value[good]).statistic),
        mae_good=float(np.abs(truth - found.value)[good].mean()),
        flagged=float(flagged.mean()),
        covered=float(covered.mean()),
        covered_or_flagged=float((covered | flagged).mean()),
        width=float(np.median(found.high - found.low)),
    )
