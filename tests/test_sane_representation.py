"""What is added for prediction: scale features, summary tokens, the auxiliary head; each does what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sane_zoos import SYMMETRIC, WIDE, shuffled, stacked, symmetric_zoo

from sane_engine import tokenize_batch
from sane_engine.behaviour.networks import plainest_architecture, runnable
from sane_engine.progress import Cancelled
from sane_engine.sampling.frame import frame_of
from sane_engine.sampling.spaces import encode_models, space_of
from sane_engine.sane import Embeddings, Sane, SaneConfig, decode_models, embed, load_encoder, pretrain
from sane_engine.sane.auxiliary import layer_means
from sane_engine.sane.fidelity import reconstruct_tokens
from sane_engine.sane.layer_summaries import OF_WEIGHTS, SPECTRUM, STATISTICS, summarise
from sane_engine.sane.noise_behaviour import OF_LAYER, noise_behaviour
from sane_engine.sane.path_summaries import REACH, path_summaries
from sane_engine.sane.reactions import fit_reactions, split_reactions
from sane_engine.sane.readout import fit_readout
from sane_engine.sane.scale_features import scale_features
from sane_engine.sane.summariser import SUMMARY, Summariser
from sane_engine.sane.windows import map_windows, plan_windows
from sane_engine.zoo import Zoo
from sane_engine.zoo.architecture_spec import ArchitectureSpec, ConvSpec
from sane_engine.zoo.architectures import as_architecture, build

CONFIG = SaneConfig(
    token_size=8, latent=5, d_model=16, layers=1, heads=2, feedforward=24, window=16, steps=12, batch_size=8,
    gamma=0.0, noise=0.1, permute=0.5, scale_features=True, summary_weight=0.3, auxiliary_weight=1.0,
    noise_behaviour=True, reactions="architecture", readout=20,
)  # fmt: skip
PLAIN = replace(
    CONFIG,
    scale_features=False,
    summary_weight=0.0,
    auxiliary_weight=0.0,
    noise_behaviour=False,
    reactions="none",
    readout=0,
)
LAYERS = 4


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return symmetric_zoo()


@pytest.fixture(scope="module")
def encoder(zoo: Zoo) -> Sane:
    return pretrain(zoo, CONFIG)


def test_scale_features_tell_scale() -> None:
    tokens = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    small, large = scale_features(tokens), scale_features(10 * tokens)
    for place in (0, 3, 4):
        assert torch.allclose(large[..., place] - small[..., place], torch.tensor(10.0).log(), atol=1e-5)
    assert torch.allclose(large[..., 1:3], 10 * small[..., 1:3], atol=1e-5)
    assert torch.isfinite(scale_features(torch.zeros(1, 1, 9))).all()


def test_summaries_hold_the_singular_values_and_the_size(zoo: Zoo) -> None:
    tensors = zoo.stacked([0, 1])
    found = summarise(tokenize_batch(tensors, 8))
    assert found.shape == (2, LAYERS, OF_WEIGHTS)
    weight = tensors["fc1.weight"].double()
    assert torch.allclose(found[:, 2, 0], weight.flatten(1).square().mean(dim=1).sqrt().log().float())
    values = torch.linalg.svdvals(weight).log().flip(1)
    expected = torch.stack([torch.quantile(row, torch.tensor(SPECTRUM, dtype=torch.float64)) for row in values])
    assert torch.allclose(found[:, 2, 12 : 12 + len(SPECTRUM)], expected.float(), atol=1e-5)


def test_path_norm_is_the_sum_over_paths(zoo: Zoo) -> None:
    tensors = {n: t for n, t in zoo.stacked([0]).items() if n.startswith("fc") and n.endswith("weight")}
    found = path_summaries(tokenize_batch(tensors, 8))
    first, second = (tensors[name][0].double().abs() for name in ("fc1.weight", "fc2.weight"))
    assert torch.allclose(found[0, 1, 0], (second @ first).sum(dim=1).mean().log())
    product = tensors["fc2.weight"][0].double() @ tensors["fc1.weight"][0].double()
    assert torch.allclose(found[0, 1, 8], torch.linalg.svdvals(product)[0].log(), atol=1e-6)


def test_what_paths_and_noise_tell_does_not_depend_on_the_order_of_units(zoo: Zoo) -> None:
    other = shuffled(zoo)
    tokens = [tokenize_batch(each.stacked(), 8) for each in (zoo, other)]
    assert not torch.equal(tokens[0].tokens, tokens[1].tokens)
    paths = [path_summaries(each) for each in tokens]
    assert torch.allclose(paths[0][..., :REACH], paths[1][..., :REACH], atol=1e-4)
    assert torch.allclose(paths[0][:, 0], paths[1][:, 0], atol=1e-4), "noise sent in at the input meets other units"
    architecture = runnable(zoo, np.arange(len(zoo)))
    assert architecture is not None
    found = [noise_behaviour(architecture, each.stacked()) for each in (zoo, other)]
    # The spread of the mean over units, and the share of them that is negative, do change with the signs of units.
    kept = [place for place in range(OF_LAYER) if place not in (1, 4)]
    assert torch.allclose(found[0][..., kept], found[1][..., kept], atol=1e-3)
    assert torch.allclose(found[0][:, -1], found[1][:, -1], atol=1e-3)
    assert torch.isfinite(found[0][:, -1]).all()
    assert torch.isnan(found[0][:, 0, OF_LAYER:]).all()


def test_noise_goes_through_pooling_too() -> None:
    architecture = ArchitectureSpec((1, 8, 8), (ConvSpec(3, 3, pool=2),), (5,), 4, "relu")
    networks = [build(architecture) for _ in range(3)]
    stack = {
        name: torch.stack([network.state_dict()[name] for network in networks]) for name in architecture.shapes
    }
    found = noise_behaviour(architecture.to_json(), stack)
    assert found.shape[:2] == (3, 3)
    assert torch.isfinite(found[:, -1]).all()


def test_unknown_chains_and_architectures_are_left_out() -> None:
    norm = {"conv.weight": torch.randn(2, 4, 1, 3, 3), "norm.weight": torch.randn(2, 4)}
    found = path_summaries(tokenize_batch(norm, 8))
    assert torch.isfinite(found[:, 0, :REACH]).all()
    assert torch.isnan(found[:, 1]).all()
    assert torch.isnan(found[..., REACH:]).all(), "the last layer that was understood is not the output"
    nowhere = Zoo.from_stacked("nowhere", symmetric_zoo(12).table, stacked(12, SYMMETRIC))
    assert runnable(nowhere, np.arange(12)) is None
    mixed = symmetric_zoo(12).with_columns(activation=["tanh", "relu"] * 6)
    assert runnable(mixed, np.arange(12)) is None
    alike = runnable(mixed, np.arange(1, 12, 2))
    assert alike is not None
    assert alike["activation"] == "relu"


def test_means_of_layers_leave_out_what_is_not_shown() -> None:
    latents = torch.tensor([[[1.0], [3.0], [10.0]]])
    assert layer_means(latents, torch.tensor([[0, 0, 2]]), 3).flatten().tolist() == [2.0, 0.0, 10.0]


def test_representation_is_of_every_layer_and_keeps_itself(zoo: Zoo, encoder: Sane, tmp_path: Path) -> None:
    found = embed(encoder, zoo)
    assert found.summaries is not None
    assert found.summaries.shape == (len(zoo), LAYERS, 5 + SUMMARY)
    assert found.readout is not None
    assert np.array_equal(found.predictive, found.readout)
    assert np.isfinite(found.readout).all()
    assert found.reactions is not None
    assert replace(found, readout=None).predictive.shape == (len(zoo), LAYERS * (5 + 5 + SUMMARY))
    found.save(tmp_path / "e.safetensors")
    assert np.array_equal(Embeddings.load(tmp_path / "e.safetensors").predictive, found.predictive)
    assert np.allclose(embed(encoder, zoo, batch_size=3).predictive, found.predictive, atol=1e-4)
    assert np.allclose(embed(encoder, shuffled(zoo)).predictive, found.predictive, atol=1e-2)
    assert np.allclose(embed(encoder, zoo.tensors(3)).predictive[0], found.predictive[3], atol=1e-4)
    encoder.save(tmp_path / "encoder")
    again = load_encoder(tmp_path / "encoder")
    assert again.digest == encoder.digest
    assert np.array_equal(embed(again, zoo).predictive, found.predictive)


def test_models_still_decode(zoo: Zoo, encoder: Sane) -> None:
    decoded = decode_models(encoder, tokenize_batch(zoo.stacked([0, 1]), 8))
    assert {name: tuple(tensor.shape[1:]) for name, tensor in decoded.items()} == SYMMETRIC
    assert all(torch.isfinite(tensor).all() for tensor in decoded.values())


def test_models_are_decoded_and_sampled_from_the_latents_they_have_in_training(zoo: Zoo, encoder: Sane) -> None:
    batch = encoder.aligner.align(tokenize_batch(zoo.stacked([0, 1, 2]), 8))
    tokens = encoder.normalizer.normalise(batch.tokens, batch.layout)[0]
    positions, plan = batch.layout.positions().float(), plan_windows(batch.layout.n_tokens, CONFIG.window)
    assert len(plan) > 1
    latents = torch.from_numpy(embed(encoder, zoo.select([0, 1, 2]), keep_tokens=True).tokens)
    alone = map_windows(encoder.encode, tokens, positions, plan, batch_size=64)
    assert (latents - alone).abs().max() > 0.01, "the summary tokens change nothing"
    space = space_of("latents", frame_of(zoo, 0, encoder=encoder), encoder=encoder)
    assert torch.allclose(encode_models(space, zoo.stacked([0, 1, 2])), latents, atol=1e-3)
    with torch.no_grad():
        expected = map_windows(encoder.decode, latents, positions, plan, batch_size=64)
    assert torch.allclose(reconstruct_tokens(encoder, tokens, batch), expected, atol=1e-5)


def test_an_encoder_that_was_never_trained_embeds() -> None:
    found = embed(Sane(replace(CONFIG, readout=0)), {name: t[0] for name, t in stacked(1, SYMMETRIC).items()})
    assert np.isfinite(found.predictive).all()


def test_foreign_networks_have_representations_too(encoder: Sane) -> None:
    models = [{name: tensor[0] for name, tensor in stacked(1, shapes).items()} for shapes in (SYMMETRIC, WIDE)]
    found = embed(encoder, models)
    assert found.foreign.tolist() == [False, True]
    assert np.isfinite(found.models).all()
    assert found.summaries is not None
    assert np.isfinite(found.summaries[1, :3]).all()
    assert np.isnan(found.summaries[1, 3]).all()
    assert found.readout is None
    assert found.reactions is not None
    assert np.isfinite(found.reactions).all(axis=(1, 2)).tolist() == [True, False]


def test_reactions_stay_when_units_change_places_and_signs(zoo: Zoo) -> None:
    rows = np.arange(len(zoo), dtype=np.int64)
    for how in ("shapes", "architecture"):
        reactions = fit_reactions(zoo, rows, replace(CONFIG, reactions=how))
        assert reactions is not None
        found, moved = (reactions.apply(tokenize_batch(each.stacked(), 8)) for each in (zoo, shuffled(zoo)))
        assert found is not None and moved is not None
        assert torch.allclose(found, moved, atol=1e-3)
        assert found.std(dim=0).max() > 0.1


def test_reactions_from_weights_alone_do_not_look_at_the_architecture(zoo: Zoo) -> None:
    rows = np.arange(len(zoo), dtype=np.int64)
    nowhere = Zoo.from_stacked("nowhere", zoo.table, zoo.stacked())
    batch = tokenize_batch(zoo.stacked(), 8)
    both = [fit_reactions(each, rows, replace(CONFIG, reactions="shapes")) for each in (zoo, nowhere)]
    first, second = (each.apply(batch) for each in both if each is not None)
    assert first is not None and second is not None
    assert torch.equal(first, second)
    assert fit_reactions(zoo, rows, replace(CONFIG, reactions="none")) is None


def test_agreement_is_with_the_training_models(zoo: Zoo) -> None:
    rows = np.arange(8, dtype=np.int64)
    reactions = fit_reactions(zoo, rows, CONFIG)
    assert reactions is not None
    negated = {
        name: -t if name == "fc2.weight" or name == "fc2.bias" else t for name, t in zoo.stacked(rows).items()
    }
    own, other = (reactions.apply(tokenize_batch(t, 8)) for t in (zoo.stacked(rows), negated))
    assert own is not None and other is not None
    same = split_reactions(own.shape[2])[1].start
    assert (own[..., same].mean(dim=0) > other[..., same].mean(dim=0)).all(), "turned outputs agree less"


def test_networks_are_run_as_the_zoo_says_or_as_the_two_plainest(zoo: Zoo) -> None:
    rows = np.arange(8, dtype=np.int64)
    plain, halved = (plainest_architecture(SYMMETRIC, stride=stride) for stride in (1, 2))
    assert plain is not None and halved is not None
    for how, expected in (("shapes", [plain, halved]), ("architecture", [as_architecture(zoo.architecture)])):
        reactions = fit_reactions(zoo, rows, replace(CONFIG, reactions=how))
        assert reactions is not None
        assert [as_architecture(way.architecture) for way in reactions.ways] == expected
        found = reactions.apply(tokenize_batch(zoo.stacked(rows), 8))
        assert found is not None
        assert found.shape[:2] == (8, len(expected))
        assert not torch.equal(found[:, 0], found[:, -1]) or len(expected) == 1


def test_plainest_architecture_has_the_shapes() -> None:
    plain = plainest_architecture(SYMMETRIC)
    assert plain is not None
    assert dict(plain.shapes) == SYMMETRIC
    halved = plainest_architecture(SYMMETRIC, stride=2)
    assert halved is not None
    assert dict(halved.shapes) == SYMMETRIC
    assert halved.input_shape[1] > plain.input_shape[1], "the images are larger"
    assert plainest_architecture({"embed.weight": (3, 4)}) is None


def test_a_readout_bends_where_a_line_cannot() -> None:
    random = np.random.default_rng(0)
    numbers = random.normal(size=(400, 1, 6)).astype(np.float32)
    found = Embeddings(
        models=numbers[:, 0], layers=numbers, layer_count=np.ones(400, dtype=np.int64), layer_names=(("a",),),
        foreign=np.zeros(400, dtype=bool),
    )  # fmt: skip
    readout = fit_readout(found, 200, seed=0)
    assert readout is not None
    features = readout.apply(found)
    assert features is not None
    bent, train = numbers[:, 0, 4] ** 2, slice(0, 300)
    centre = features[train].mean(axis=0)
    x, y = features[train] - centre, bent[train]
    weights = np.linalg.solve(x.T @ x + 1e-2 * np.eye(200), x.T @ (y - y.mean()))
    residual = bent[300:] - y.mean() - (features[300:] - centre) @ weights
    assert residual.var() < 0.2 * bent[300:].var()


def test_each_part_can_be_switched_off_alone(zoo: Zoo) -> None:
    quick = replace(PLAIN, steps=1, align=False, permute=0.0)
    plain = set(pretrain(zoo, quick).state_dict())
    parts = {
        "scale_features": {"encoder.enter_scale.weight", "encoder.enter_scale.bias"},
        "summary_weight": {
            "encoder.enter_summary.weight", "encoder.enter_summary.bias", "summary_out.weight", "summary_out.bias",
        },
        "auxiliary_weight": set(),
        "reactions": set(),
        "readout": set(),
    }  # fmt: skip
    for name, added in parts.items():
        config = replace(quick, **{name: getattr(CONFIG, name)})
        assert set(pretrain(zoo, config).state_dict()) - plain == added
    assert embed(Sane(PLAIN), zoo).summaries is None
    with pytest.raises(ValueError, match="summary tokens"):
        Sane(PLAIN).encode_with_summaries(torch.zeros(1, 2, 8), torch.zeros(2, 3), torch.zeros(1, 1, SUMMARY),
                                          torch.zeros(1, 3))  # fmt: skip


def test_the_auxiliary_head_makes_latents_tell_what_the_weights_are(zoo: Zoo) -> None:
    def told(weight: float) -> float:
        config = replace(PLAIN, steps=100, auxiliary_weight=weight, align=False, permute=0.0, learning_rate=3e-3)
        means = embed(pretrain(zoo, config), zoo).layers[..., :5].reshape(len(zoo), -1).astype(np.float64)
        means = np.concatenate((means - means.mean(axis=0), np.ones((len(zoo), 1))), axis=1)
        wanted = summarise(tokenize_batch(zoo.stacked(), 8))[..., :STATISTICS].flatten(1)
        wanted = ((wanted - wanted.mean(dim=0)) / wanted.std(dim=0).clamp(min=1e-6)).numpy()
        train, test = slice(0, 24), slice(24, None)
        ridge = np.linalg.solve(
            means[train].T @ means[train] + 1e-3 * np.eye(means.shape[1]), means[train].T @ wanted[train]
        )
        return float(((means[test] @ ridge - wanted[test]) ** 2).mean())

    assert told(1.0) < 0.9 * told(0.0)


def test_training_repeats_itself_and_survives_interruption(zoo: Zoo, encoder: Sane, tmp_path: Path) -> None:
    done = 0

    def watch(step: int, total: int, message: str, /) -> None:
        nonlocal done
        done = step

    with pytest.raises(Cancelled):
        pretrain(zoo, CONFIG, folder=tmp_path / "run", progress=watch, cancelled=lambda: done >= 5)
    assert pretrain(zoo, CONFIG, folder=tmp_path / "run").digest == encoder.digest


def test_summaries_of_an_unknown_layout_are_standardised_by_all_layers() -> None:
    scale = Summariser.from_state(
        {"summary.any.mean": torch.full((2,), 1.0), "summary.any.std": torch.full((2,), 2.0)}
    )
    layout = tokenize_batch(stacked(1, WIDE), 8).layout
    assert scale.standardise(torch.full((1, 3, 2), 5.0), layout).flatten().tolist() == [2.0] * 6
    assert scale.standardise(torch.full((1, 3, 2), torch.nan), layout).flatten().tolist() == [0.0] * 6
