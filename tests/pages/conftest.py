"""A tiny zoo with an encoder, made by the engine itself, in the place of the embedded ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from tiny_zoo import tiny_zoo

from pages.components import library, warm
from pages.components.memory import Memory
from sane_engine.demo import precompute
from sane_engine.sane import SaneConfig, pretrain

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def tiny_assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like ``assets``, with one zoo, its encoder, and what is computed from them."""
    root = tmp_path_factory.mktemp("assets")
    zoo = tiny_zoo()
    zoo.save(root / "zoos" / "tiny")
    config = SaneConfig(steps=4, batch_size=4, latent=4, d_model=8, heads=2, feedforward=16, layers=1)
    encoder = pretrain(zoo, config)
    encoder.save(root / "encoders" / "tiny-sane")
    shutil.copytree(ROOT / "assets" / "specs", root / "specs")
    precompute(zoo, encoder, root / "embeddings" / "tiny--tiny-sane", provenance={"command": "a test"})
    return root


def _use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANE_ASSETS", str(root))
    monkeypatch.setattr(library, "_KEPT", Memory(6))
    monkeypatch.setattr(warm._WarmUp, "started", True)  # a thread that imports would outlive the test


Open = Callable[..., AppTest]


@pytest.fixture
def app(tiny_assets: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open a page on the tiny zoo; keyword arguments are the link's query."""
    _use(tiny_assets, monkeypatch)
    yield open_page


@pytest.fixture
def empty_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open a page where there is neither a zoo nor an encoder."""
    _use(tmp_path, monkeypatch)
    yield open_page


def open_page(page: str, **query: str) -> AppTest:
    test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in query.items():
        test.query_params[name] = value
    test.run()
    return test if page == "explore" else test.switch_page(f"pages/{page}.py").run()


@pytest.fixture
def broken_app(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open a page on the tiny assets with damaged embeddings."""
    root = tmp_path / "assets"
    shutil.copytree(tiny_assets, root)
    for path in (root / "embeddings").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:40])
    _use(root, monkeypatch)
    yield open_page
