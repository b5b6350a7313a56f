"""Ridge regression on embeddings, fitted on the training models of a zoo, scored on its held-out ones."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sane_engine.zoo import Zoo

PENALTIES = np.logspace(-1, 5, 13)
FOLDS = 5


def held_out_r2(zoo: Zoo, features: NDArray[np.float32], target: str) -> float:
    """R² of a target over the checkpoints of split ``"test"``.

    The penalty is chosen by cross-validation within the training models, grouped by model.
    """
    split = zoo.table["split"].to_numpy()
    values = zoo.table[target].to_numpy(dtype=np.float64)
    groups = zoo.table[zoo.group_column].to_numpy()
    train, test = split == "train", split == "test"
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": PENALTIES}, cv=GroupKFold(FOLDS), scoring="r2"
    )
    with warnings.catch_warnings():
        # Collinear features at the smallest penalty; such a penalty is not chosen.
        warnings.simplefilter("ignore", LinAlgWarning)
        search.fit(features[train], values[train], groups=groups[train])
    return float(search.score(features[test], values[test]))
