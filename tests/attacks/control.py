"""The positive control: load files as nobody should. Run only in a process of its own, in a temporary folder.

``python -m tests.attacks.control FILE…`` unpickles every file with the means of torch, pickle and numpy, with no
care at all. What comes of it is not looked at; a payload that works leaves its marker.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import torch


def load_without_care(path: Path) -> None:
    """Everything that a careless script might do."""
    warnings.simplefilter("ignore")
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    with contextlib.suppress(Exception), path.open("rb") as file:
        pickle.load(file)
    with contextlib.suppress(Exception):
        archive = np.load(path, allow_pickle=True)
        _ = [archive[name] for name in archive.files]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        load_without_care(Path(name))
