"""What holds for every test: one thread, the user's own workspace out of reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two test processes on two cores: a second thread in each makes small matrix products many times slower.
# Set before torch is imported anywhere, and inherited by the children that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the engine's workspace at a folder that goes away."""
    folder = tmp_path_factory.mktemp("workspace")
    monkeypatch.setenv("SANE_WORKSPACE", str(folder))
    monkeypatch.setenv("SANE_OPEN_ROOT", str(tmp_path_factory.getbasetemp()))
    return folder
