"""The attack corpus: nothing runs, nothing hangs, and every file has exactly the outcome that it should have."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from attacks.corpus import corpus, verdict

from sane_engine.checkpoint import Checkpoint, Refusal
from sane_engine.intake import load_each

CASES = {case.name: case for case in corpus()}
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each case; payloads put their marker there."""
    folder = tmp_path_factory.mktemp("hostile-place")
    return {name: folder / str(number) for number, name in enumerate(CASES)}


@pytest.fixture(scope="module")
def outcomes(homes: dict[str, Path]) -> dict[str, list[Checkpoint] | Refusal]:
    """All files through one child, which must survive every one of them."""
    paths = [case.write(homes[name]) for name, case in CASES.items()]
    started = time.monotonic()
    found = dict(zip(CASES, load_each(paths), strict=True))
    assert time.monotonic() - started < 300
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_outcome_is_the_expected_one(
    name: str, outcomes: dict[str, list[Checkpoint] | Refusal], homes: dict[str, Path]
) -> None:
    outcome = outcomes[name]
    assert not verdict(CASES[name], outcome)
    assert not (homes[name] / "it-ran").exists()
    if isinstance(outcome, Refusal):
        assert "hostile-place" not in outcome.line()


def test_the_payloads_work_where_nobody_takes_care(tmp_path: Path) -> None:
    """The positive control: otherwise that nothing ran would prove nothing."""
    armed = [case for case in CASES.values() if case.armed]
    homes = [tmp_path / str(number) for number in range(len(armed))]
    paths = [case.write(home) for case, home in zip(armed, homes, strict=True)]
    command = [sys.executable, "-m", "tests.attacks.control", *map(str, paths)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    silent = [case.name for case, home in zip(armed, homes, strict=True) if not (home / "it-ran").exists()]
    assert not silent
    assert len(armed) >= 30


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 200
    assert sum(bool(case.code) for case in CASES.values()) >= 150
