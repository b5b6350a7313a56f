"""How closely one number of a network goes with a property: correlation with an interval over models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sane_engine.probing.folds import Groups

DRAWS = 400
"""Bootstrap draws of groups."""

_LEVEL = 0.95


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ and Kendall's τ-b of two columns.

    Attributes:
        rho: Spearman's rank correlation.
        tau: Kendall's τ-b.
        low: Lower end of the 95 % bootstrap interval of ρ; whole groups are drawn.
        high: Upper end.
        n: Rows with both values.
        n_groups: Their groups.
        seed: Of the bootstrap.
    """

    rho: float
    tau: float
    low: float
    high: float
    n: int
    n_groups: int
    seed: int


def correlate(
    x: NDArray[np.floating], y: NDArray[np.floating], groups: Groups, *, seed: int = 0
) -> Correlation | None:
    """Correlate two columns ``[n]``; rows where either is missing are left out.

    Returns:
        ``None`` where fewer than three rows are left or one of the columns never varies.
    """
    from scipy.stats import kendalltau, rankdata

    known = np.isfinite(x) & np.isfinite(y)
    a, b, own = x[known].astype(float), y[known].astype(float), groups[known]
    if len(a) < 3 or len(set(a.tolist())) < 2 or len(set(b.tolist())) < 2:
        return None
    ranks = np.stack([rankdata(a), rankdata(b)])
    members = [np.flatnonzero(own == group) for group in sorted(set(own.tolist()))]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS if len(members) > 1 else 0):
        rows = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        # Ranks of the whole are kept: drawing anew changes which rows count, not how they are ordered.
        part = ranks[:, rows]
        if part.std(axis=1).min() > 0:
            drawn.append(float(np.corrcoef(part)[0, 1]))
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if drawn else (np.nan, np.nan)
    return Correlation(
        rho=float(np.corrcoef(ranks)[0, 1]),
        tau=float(kendalltau(a, b).statistic),
        low=float(low),
        high=float(high),
        n=len(a),
        n_groups=len(members),
        seed=seed,
    )
