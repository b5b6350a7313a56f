"""Networks of unknown architectures on the pages: seen by the universal encoder, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as to_safetensors
from streamlit.testing.v1 import AppTest
from test_pages import assert_healthy, texts
from tiny_zoo import network, tiny_zoo

from pages.components import state
from sane_engine.sane import SaneConfig, pretrain
from sane_engine.zoo import Zoo, combine_zoos

Open = Callable[..., AppTest]


@pytest.fixture
def universal(app: Open, tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """The tiny assets with a universal encoder of two zoos."""
    root = tmp_path / "assets"
    shutil.copytree(tiny_assets, root)
    models = [{"a.weight": torch.randn(6, 5), "b.weight": torch.randn(3, 6)} for _ in range(8)]
    table = tiny_zoo().table.iloc[:8][["model", "epoch"]]
    zoo = combine_zoos([tiny_zoo(), Zoo.from_models("mlps", table, models)])
    config = SaneConfig(
        steps=2, batch_size=4, latent=4, d_model=8, heads=2, feedforward=16, layers=1, universal=True, align=False,
        gamma=0.0, summary_weight=0.3, token_size=16,
    )  # fmt: skip
    encoder = pretrain(zoo, config)
    encoder.provenance.update(zoos=zoo.provenance["combined"])
    encoder.save(root / "encoders" / "universal")
    monkeypatch.setenv("SANE_ASSETS", str(root))
    return app


def foreign(seed: int = 0) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"stem.weight": (9, 3, 3, 3), "stem.bias": (9,), "head.weight": (4, 9), "head.bias": (4,)}
    return to_safetensors({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def drop(shown: AppTest, *files: tuple[str, bytes]) -> AppTest:
    return shown.file_uploader(key="checkpoints-0").set_value([(n, c, "") for n, c in files]).run(timeout=120)


def test_a_foreigner_is_seen_by_the_universal_encoder_and_the_page_says_what_that_knows(universal: Open) -> None:
    shown = drop(universal("inspect", zoo="tiny"), ("foreign.safetensors", foreign()))
    assert_healthy(shown)
    said = texts(shown)
    assert "encoder universal, for any architecture, trained on 44 checkpoints of 2 zoos: tiny, mlps" in said
    layers = next(frame.value for frame in shown.dataframe if "SANE · embedding norm" in frame.value.columns)
    assert (
        layers[["SANE · embedding norm", "SANE · distance to the zoo", "SANE · principal component 1"]]
        .notna()
        .all()
        .all()
    )
    assert "another architecture than those of" in texts(shown)  # no accuracy is made up for it


def test_a_network_of_the_zoo_beside_a_foreigner_is_on_the_same_scale(universal: Open) -> None:
    own = to_safetensors(network(3))
    alone = drop(universal("inspect", zoo="tiny"), ("own.safetensors", own))
    assert_healthy(alone)
    assert "encoder tiny-sane" in texts(alone)
    both = drop(universal("inspect", zoo="tiny"), ("own.safetensors", own), ("foreign.safetensors", foreign()))
    assert_healthy(both)
    assert "encoder universal, for any architecture" in texts(both)


def test_it_is_picked_where_no_encoder_bears_the_zoos_name(universal: Open, workspace: Path) -> None:
    other = tiny_zoo().select(range(30))  # the encoder of the whole zoo was trained on other content
    other.save(workspace / "zoos" / "other")
    shown = universal("explore", zoo="other")
    assert_healthy(shown)
    assert shown.selectbox(key=state.ENCODER).value == "universal"
    assert "Trained on 44 checkpoints of 2 zoos: tiny, mlps" in texts(shown)
    assert universal("explore", zoo="tiny").selectbox(key=state.ENCODER).value == "tiny-sane"
