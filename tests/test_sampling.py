"""Sampling: anchors, spaces, methods, and draws that come back bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sane_zoos
import torch

from sane_engine import Checkpoint, Provenance, Refusal, Zoo, load_zoo
from sane_engine.sampling import METHODS, SPACES, choose_anchors, method_of, prepare, sample, task_of
from sane_engine.sampling.draws import generator_of
from sane_engine.sampling.frame import frame_of
from sane_engine.sampling.spaces import decode_models, encode_models, space_of
from sane_engine.sane import Normalizer, Sane, SaneConfig
from sane_engine.sane.normalisation import fit_statistics, structure
from sane_engine.tokens import tokenize_batch

ONLY_WEIGHTS = ("kde-token", "kde-layer", "kde-sequence", "gaussian", "low-rank", "difference", "interpolation")


@pytest.fixture(scope="module")
def digits() -> Zoo:
    """A part of the embedded zoo: 40 training models at their last epoch, and some held out."""
    zoo = load_zoo("digits")
    last = zoo.table["epoch"] == 25
    train = np.flatnonzero(last & (zoo.table["split"] == "train"))[:40]
    test = np.flatnonzero(last & (zoo.table["split"] == "test"))[:5]
    return zoo.select(np.concatenate((train, test)))


def small_encoder(zoo: Zoo) -> Sane:
    """An untrained encoder that knows a zoo's layout."""
    config = SaneConfig(token_size=25, latent=8, d_model=16, layers=1, heads=2, feedforward=16, window=16)
    batch = tokenize_batch(zoo.stacked(), config.token_size)
    statistics = {structure(batch.layout): fit_statistics([batch])}
    return Sane(config, normalizer=Normalizer(statistics), position_range=(30.0, 3.0, 10.0)).eval()


# ---- anchors ----------------------------------------------------------------------------------------------------


def test_anchors_of_every_kind_are_the_same_models(digits: Zoo) -> None:
    rows = [3, 5, 8]
    mask = np.isin(np.arange(len(digits)), rows)
    names = "model in [" + ", ".join(repr(digits.table["model"].iloc[r]) for r in rows) + "]"
    loaded = [Checkpoint(f"c{r}", digits.tensors(r), {}, Provenance("", "memory", 0)) for r in rows]
    chosen = [choose_anchors(digits, each) for each in (rows, rows[::-1], mask, pd.Series(mask), names, loaded)]
    assert {each.digest for each in chosen} == {chosen[0].digest}
    assert all(len(each) == 3 for each in chosen)


@pytest.mark.parametrize(
    ("anchors", "code"), [([1], "few-anchors"), ([0, 99_999], "bad-anchors"), ([True, False], "bad-anchors")]
)
def test_anchors_that_cannot_be(digits: Zoo, anchors: list[int], code: str) -> None:
    with pytest.raises(Refusal) as refusal:
        choose_anchors(digits, anchors)
    assert refusal.value.code == code


# ---- spaces -----------------------------------------------------------------------------------------------------


def test_weights_and_full_pca_give_models_back(digits: Zoo) -> None:
    frame = frame_of(digits, 0)
    stacked = digits.stacked(slice(0, 6))
    for space in (space_of("weights", frame), space_of("pca", frame, zoo=digits, components=37)):
        back = decode_models(space, encode_models(space, stacked))
        for name, tensor in stacked.items():
            torch.testing.assert_close(back[name], tensor, rtol=1e-4, atol=1e-5)


def test_alignment_makes_permuted_copies_one_point(digits: Zoo) -> None:
    frame = frame_of(digits, 0, align="always")
    assert frame.symmetry is not None
    space = space_of("weights", frame)
    tensors = digits.tensors(2)
    shuffled = frame.symmetry.permute(tensors, frame.symmetry.random(generator_of(0, "test")))
    stacked = {name: torch.stack((tensors[name], shuffled[name])) for name in tensors}
    one, other = encode_models(space, stacked)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_shared_initialisation_is_not_aligned_unless_asked(digits: Zoo) -> None:
    assert frame_of(digits, 0).symmetry is None
    provenance = {**digits.provenance, "spec": {**digits.provenance["spec"], "shared_initialisation": False}}
    other = Zoo.from_stacked(
        "x", digits.table, digits.stacked(), architecture=digits.architecture, provenance=provenance
    )
    assert frame_of(other, 0).symmetry is not None


# ---- draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ONLY_WEIGHTS)
def test_a_draw_is_the_same_to_the_bit_whatever_n(method: str, space: str) -> None:
    zoo = sane_zoos.zoo(30)
    encoder = small_encoder(zoo)
    few = sample(encoder, zoo, anchors=range(12), n=3, method=method, space=space, seed=5)
    many = sample(encoder, zoo, anchors=range(12), n=19, method=method, space=space, seed=5)
    again = sample(encoder, zoo, anchors=range(12), n=3, method=method, space=space, seed=6)
    for a, b, other in zip(few, many[:3], again, strict=True):
        assert a.provenance == b.provenance and a.name == b.name
        assert {n: (t.shape, t.dtype) for n, t in a.tensors.items()} == {
            n: (t.shape, t.dtype) for n, t in zoo.tensors(0).items()
        }
        for name in a.tensors:
            assert torch.equal(a.tensors[name], b.tensors[name])
        assert any(not torch.equal(a.tensors[name], other.tensors[name]) for name in a.tensors)
    assert not torch.equal(few[0].tensors["fc.weight"], few[1].tensors["fc.weight"])


@pytest.mark.parametrize("method", ["subsampled", "bootstrapped", "refined", "trained", "conditional"])
def test_methods_that_run_their_samples_repeat_too(digits: Zoo, method: str) -> None:
    quick = {"subsampled": {"candidates": 4}, "bootstrapped": {"population": 12, "keep": 4, "candidates": 2}}
    quick |= {"refined": {"steps": 2}, "trained": {"steps": 3}}
    runs = [
        sample(
            None, digits, anchors=range(20), n=n, method=method, space="weights", seed=1,
            parameters=quick.get(method, {}),
        )
        for n in (2, 4)
    ]  # fmt: skip
    for a, b in zip(*(run[:2] for run in runs), strict=True):
        assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_tokens_are_drawn_independently_and_layers_together() -> None:
    zoo = sane_zoos.zoo(30)
    chosen = {}
    for unit in ("token", "layer", "sequence"):
        prepared = prepare(
            None,
            zoo,
            anchors=range(10),
            method=f"kde-{unit}",
            space="weights",
            parameters={"bandwidth": 0.0, "temperature": 1.0},
        )
        vectors = prepared.sampler.draw(generator_of(3, "test"))
        anchor = (prepared.vectors - vectors).abs().sum(dim=2).argmin(dim=0)
        assert torch.allclose(prepared.vectors[anchor, torch.arange(len(anchor))], vectors, atol=1e-6)
        layers = prepared.space.frame.layout.layer_of_token()
        chosen[unit] = [len(set(anchor[layers == layer].tolist())) for layer in range(int(layers.max()) + 1)]
        chosen[unit].append(len(set(anchor.tolist())))
    assert chosen["sequence"] == [1, 1, 1]
    assert chosen["layer"] == [1, 1, 2]
    assert chosen["token"][0] > 1 and chosen["token"][1] > 1


def test_noise_of_different_tokens_is_uncorrelated() -> None:
    zoo = sane_zoos.zoo(30)
    prepared = prepare(None, zoo, anchors=range(10), method="gaussian", space="weights", parameters={"scale": 1.0})
    draws = torch.stack([prepared.sampler.draw(generator_of(i, "test")) for i in range(400)])
    unit = ((draws - draws.mean(0)) / draws.std(0).clamp_min(1e-9))[:, :, :9].flatten(1)
    correlation = unit.T @ unit / len(draws) - torch.eye(unit.shape[1])
    assert float(correlation.abs().max()) < 0.3


def test_temperature_and_step_zero_are_the_mean_and_the_anchors() -> None:
    zoo = sane_zoos.zoo(30)
    mean = prepare(
        None, zoo, anchors=range(10), method="kde-token", space="weights", parameters={"temperature": 0.0}
    )
    torch.testing.assert_close(mean.sampler.draw(generator_of(0, "t")), mean.vectors.mean(0))
    still = prepare(None, zoo, anchors=range(10), method="difference", space="weights", parameters={"step": 0.0})
    point = still.sampler.draw(generator_of(0, "t"))
    assert any(torch.equal(point, anchor) for anchor in still.vectors)


def test_interpolation_stays_between_its_anchors() -> None:
    zoo = sane_zoos.zoo(30)
    prepared = prepare(
        None, zoo, anchors=[0, 1], method="interpolation", space="weights",
        parameters={"among": 2, "concentration": 0.5},
    )  # fmt: skip
    a, b = prepared.vectors
    shares = []
    for i in range(50):
        point = prepared.sampler.draw(generator_of(i, "t"))
        share = float(((point - a) * (b - a)).sum() / (b - a).square().sum())
        torch.testing.assert_close(point, a + share * (b - a), rtol=1e-4, atol=1e-4)
        shares.append(share)
    assert min(shares) >= 0 and max(shares) <= 1 and min(shares) < 0.1 < 0.9 < max(shares)


@pytest.mark.parametrize("concentration", [1e-300, 1e-8, 0.01, 1e6])
def test_mixtures_of_any_concentration_are_finite(concentration: float) -> None:
    zoo = sane_zoos.zoo(30)
    prepared = prepare(
        None, zoo, anchors=range(5), space="weights",
        method=replace(METHODS["interpolation"].default, concentration=concentration),
    )  # fmt: skip
    points = torch.stack([prepared.sampler.draw(generator_of(i, "t")) for i in range(8)])
    assert bool(points.isfinite().all())
    nearest = (points[:, None] - prepared.vectors).abs().amax(dim=(2, 3)).min(dim=1).values
    assert bool((nearest < 1e-4).all()) == (concentration < 0.001)


@pytest.mark.parametrize("concentration", [0.0, -1.0, float("nan"), 1e39])
def test_mixtures_of_no_concentration_are_refused(concentration: float) -> None:
    with pytest.raises(Refusal) as refusal:
        prepare(
            None, sane_zoos.zoo(30), anchors=range(5), space="weights",
            method=replace(METHODS["interpolation"].default, concentration=concentration),
        )  # fmt: skip
    assert refusal.value.code == "bad-parameter"


# ---- methods ----------------------------------------------------------------------------------------------------


def test_parameters_reach_the_method_or_its_base() -> None:
    method = method_of("subsampled", {"base": "kde-layer", "candidates": 5, "temperature": 0.25})
    assert (method.candidates, method.base.unit, method.base.temperature) == (5, "layer", 0.25)
    assert method_of("refined", {"base.bandwidth": "0.5"}).base.bandwidth == 0.5


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nothing", {}),
        ("kde-token", {"base": "gaussian"}),
        ("kde-token", {"width": 1}),
        ("kde-token", {"bandwidth": "nan"}),
        ("kde-token", {"bandwidth": -1}),
        ("kde-token", {"unit": "planet"}),
        ("subsampled", {"candidates": 2.5}),
        ("subsampled", {"candidates": 0}),
        ("subsampled", {"base": "nothing"}),
    ],
)
def test_wrong_methods_and_parameters_are_named(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(Refusal) as refusal:
        method_of(name, parameters)
    assert refusal.value.code in {"bad-method", "bad-parameter"}


@pytest.mark.parametrize("name", METHODS)
def test_every_knob_is_a_parameter(name: str) -> None:
    entry = METHODS[name]
    assert method_of(name, {entry.knob: entry.levels[-1]}) != replace(entry.default)


def test_choosing_and_training_help(digits: Zoo) -> None:
    task = task_of(digits)
    scores = {}
    for method, parameters in (
        ("kde-token", {"temperature": 1.0}),
        ("subsampled", {"candidates": 12, "temperature": 1.0}),
        ("refined", {"steps": 10, "temperature": 1.0}),
        ("trained", {"base": "kde-token", "steps": 60, "temperature": 1.0}),
    ):
        samples = sample(
            None, digits, anchors=range(40), n=8, method=method, space="weights", parameters=parameters
        )
        stacked = {name: torch.stack([s.tensors[name] for s in samples]) for name in samples[0].tensors}
        scores[method] = float(task.score(stacked, task.test)[0].mean())
    plain = scores.pop("kde-token")
    assert all(score > plain + 0.02 for score in scores.values()), (plain, scores)


def test_a_conditional_sample_has_what_was_asked_for(digits: Zoo) -> None:
    task = task_of(digits)
    found = []
    for value in (0.5, 0.95):
        samples = sample(
            None, digits, anchors=range(40), n=8, method="conditional", space="weights", seed=2,
            parameters={"target": "test_accuracy", "value": value, "bandwidth": 0.1},
        )  # fmt: skip
        stacked = {name: torch.stack([s.tensors[name] for s in samples]) for name in samples[0].tensors}
        found.append(float(task.score(stacked, task.test)[0].mean()))
    assert found[1] > found[0] + 0.1


def test_images_to_choose_on_are_not_those_to_score_on(digits: Zoo) -> None:
    task = task_of(digits)
    parts = [{image.numpy().tobytes() for image in part.images} for part in (task.fit, task.validation, task.test)]
    whole = [len(part) for part in (task.fit, task.validation, task.test)]
    assert sum(whole) == 1797 and min(whole) > 250
    assert not parts[0] & parts[1] and not parts[1] & parts[2]


def test_what_cannot_be_sampled_is_refused(digits: Zoo) -> None:
    for arguments, code in (
        ({"n": 0}, "bad-number"),
        ({"seed": -1}, "bad-seed"),
        ({"space": "latents"}, "no-encoder"),
        ({"space": "nowhere"}, "bad-space"),
        ({"anchors": [{"a": torch.zeros(2)}, {"a": torch.ones(2)}]}, "foreign-anchors"),
        ({"method": "conditional", "parameters": {"target": "optimiser"}}, "bad-target"),
    ):
        with pytest.raises(Refusal) as refusal:
            sample(None, digits, **{"anchors": range(4), "space": "weights", **arguments})
        assert refusal.value.code == code
    with pytest.raises(Refusal) as refusal:
        sample(None, sane_zoos.zoo(12), anchors=range(4), space="weights", method="trained")
    assert refusal.value.code == "no-task"


# ---- checkpoints from files -------------------------------------------------------------------------------------


def test_the_order_of_tensors_in_a_file_does_not_matter(digits: Zoo) -> None:
    rows = [3, 5, 8, 9]
    models = [digits.tensors(row) for row in rows]
    by_name = [dict(sorted(model.items())) for model in models]
    assert list(by_name[0]) != list(models[0])
    half = [{name: tensor.double() for name, tensor in model.items()} for model in by_name]
    wanted = prepare(None, digits, anchors=rows, space="weights", seed=1)
    for files in (by_name, [models[0], *by_name[1:]], half):
        found = prepare(None, digits, anchors=files, space="weights", seed=1)
        assert found.anchors.digest == wanted.anchors.digest
        assert torch.equal(found.vectors, wanted.vectors)
    stacked = digits.stacked(rows)
    with pytest.raises(Refusal) as refusal:
        wanted.space.frame.tokens({name: stacked[name] for name in sorted(stacked)})
    assert refusal.value.code == "other-layout"
