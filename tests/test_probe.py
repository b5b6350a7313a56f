"""Probes: known answers, no leaks, honest intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge

from sane_engine import Refusal, probe
from sane_engine.probing import fit_predictor, grouped_folds, probe_targets, split_hash
from sane_engine.probing.basis import Basis, Scaler
from sane_engine.probing.by_layer import probe_layers
from sane_engine.probing.conformal import group_weights, upper_quantile
from sane_engine.probing.folds import groups_of
from sane_engine.probing.regression import STRENGTHS, fit_ridge, prepare
from sane_engine.probing.single_feature import correlate
from sane_engine.probing.targets import as_target


def zoo_like(
    models: int = 80, epochs: int = 4, features: int = 12, noise: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Features of checkpoints whose property is linear in them, with noise that one model's checkpoints share."""
    random = np.random.default_rng(seed)
    x = np.repeat(random.normal(size=(models, features)), epochs, axis=0)
    x += 0.3 * random.normal(size=x.shape)
    shared = np.repeat(random.normal(size=models), epochs)
    y = x[:, 0] - 2 * x[:, 1] + noise * (shared + random.normal(size=len(x)))
    table = pd.DataFrame(
        {
            "model": np.repeat([f"m{i:03d}" for i in range(models)], epochs),
            "epoch": np.tile(np.arange(epochs), models),
            "quality": y,
            "split": np.repeat(np.where(np.arange(models) % 4 == 0, "test", "train"), epochs),
        }
    )
    return x.astype(np.float32), table


def test_a_linear_property_is_found() -> None:
    x, table = zoo_like(noise=0.01)
    found = probe(x, table, "quality")
    assert found.r2 > 0.999
    assert found.kendall_tau > 0.97
    assert found.mae < 0.05
    assert (found.n_train_models, found.n_test_models) == (60, 20)
    assert (found.n_train_checkpoints, found.n_test_checkpoints) == (240, 80)
    held_out = np.flatnonzero(table["split"] == "test")
    assert found.predictions["row"].tolist() == held_out.tolist()
    np.testing.assert_array_equal(found.predictions["true"], table["quality"].to_numpy()[held_out])


def test_nothing_is_found_in_shuffled_targets() -> None:
    x, table = zoo_like()
    random = np.random.default_rng(1)
    table["quality"] = random.permutation(table["quality"].to_numpy())
    found = probe(x, table, "quality")
    assert found.r2 < 0.05
    assert abs(found.kendall_tau) < 0.25


def test_features_that_identify_the_model_do_not_help_on_others() -> None:
    # One-hot features of the model tell everything about models seen, and nothing about new ones.
    _, table = zoo_like()
    x = np.eye(80, dtype=np.float32)[pd.factorize(table["model"])[0]]
    found = probe(x, table, "quality")
    assert found.r2 < 0.05


def test_no_value_of_a_test_row_reaches_the_fit() -> None:
    x, table = zoo_like()
    first = probe(x, table, "quality").predictions
    rows = np.flatnonzero(table["split"] == "test")
    x2, table2 = x.copy(), table.copy()
    x2[rows[1:]] *= 1e6
    table2.loc[rows, "quality"] = 1e9
    second = probe(x2, table2, "quality").predictions
    for column in ("predicted", "low", "high", "outside"):
        assert first[column].iloc[0] == second[column].iloc[0]


@pytest.mark.parametrize("width", [5, 300])
def test_the_ridge_is_that_of_scikit_learn(width: int) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(90, width)), random.normal(size=90)
    groups = np.asarray([str(i // 3) for i in range(90)], dtype=object)
    found = fit_ridge(prepare(x, groups), y)
    basis = Basis.fit(x)
    penalty = found.strength * basis.eigenvalues.mean()
    reference = SklearnRidge(alpha=penalty).fit(basis.standardise(x), y)
    new = random.normal(size=(7, width))
    np.testing.assert_allclose(
        found.intercept + basis.transform(new) @ found.coefficients,
        reference.predict(basis.standardise(new)),
        rtol=1e-6,
        atol=1e-9,
    )
    assert found.strength in STRENGTHS


def test_a_kernel_finds_what_a_line_cannot() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, size=(400, 1))
    table = pd.DataFrame(
        {"model": [str(i) for i in range(400)], "y": x[:, 0] ** 2 + 0.1, "split": ["train", "test"] * 200}
    )
    assert probe(x, table, "y").r2 < 0.1
    assert probe(x, table, "y", kernel="rbf").r2 > 0.95


@given(
    groups=st.lists(st.integers(0, 12), min_size=20, max_size=60),
    folds=st.integers(2, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_groups_never_straddle_and_order_does_not_matter(groups: list[int], folds: int, seed: int) -> None:
    names = np.asarray([str(g) for g in groups], dtype=object)
    if len(set(groups)) < folds:
        with pytest.raises(Refusal):
            grouped_folds(names, folds, seed)
        return
    found = grouped_folds(names, folds, seed)
    for group in set(names):
        assert len(set(found[names == group])) == 1
    assert set(found) == set(range(folds))
    sizes = [len(set(names[found == fold])) for fold in range(folds)]
    assert max(sizes) - min(sizes) <= 1
    order = np.random.default_rng(seed).permutation(len(names))
    np.testing.assert_array_equal(grouped_folds(names[order], folds, seed), found[order])
    assert split_hash(names[order], found[order]) == split_hash(names, found)


def test_a_model_on_both_sides_is_refused() -> None:
    x, table = zoo_like()
    with pytest.raises(Refusal) as caught:
        probe(x, table, "quality", test=np.arange(len(x)) % 2 == 0)
    assert caught.value.code == "straddling-groups"
    table["group"] = "one"
    with pytest.raises(Refusal) as caught:
        probe(x, table, "quality")
    assert caught.value.code == "straddling-groups"


def test_intervals_cover_new_models_as_often_as_they_say() -> None:
    covered = checkpoints = 0
    for seed in range(12):
        x, table = zoo_like(models=100, noise=1.0, seed=seed)
        found = probe(x, table, "quality", level=0.9)
        covered += int(found.predictions["covered"].sum())
        checkpoints += len(found.predictions)
        assert (found.predictions["low"] <= found.predictions["predicted"]).all()
        assert (found.predictions["predicted"] <= found.predictions["high"]).all()
    # 300 independent test models of 4 checkpoints: four standard errors of a share of 0.9 (as if all four
    # checkpoints of a model fell together, which bounds it from above) are 0.07.
    assert 0.83 < covered / checkpoints < 0.97


def test_intervals_of_too_few_models_are_infinite_not_wrong() -> None:
    x, table = zoo_like(models=8, features=2)
    found = probe(x, table, "quality", level=0.9)
    assert np.isinf(found.predictions["high"]).all()
    assert found.coverage == 1.0


def test_weighted_quantiles() -> None:
    values = np.asarray([[3.0, 1.0, 2.0, 4.0]])
    weights = np.full(4, 0.2)
    assert upper_quantile(values, weights, 0.4)[0] == 2.0
    assert upper_quantile(values, weights, 0.41)[0] == 3.0
    assert np.isinf(upper_quantile(values, weights, 0.81)[0])
    groups = np.asarray(["a", "a", "a", "b"], dtype=object)
    np.testing.assert_allclose(group_weights(groups), [1 / 9, 1 / 9, 1 / 9, 1 / 3])


def test_networks_unlike_the_zoo_are_outside_and_its_own_are_not() -> None:
    x, table = zoo_like(models=200)
    train = (table["split"] == "train").to_numpy()
    predictor = fit_predictor(x[train], table[train], "quality")
    own = predictor.predict(x[~train]).outside
    assert (own > 1).mean() < 0.08
    # Shifted as a whole, scaled up, and a correlation that the zoo never shows.
    assert (predictor.predict(x[~train] + 8).outside > 1).all()
    assert (predictor.predict(x[~train] * 6).outside > 1).mean() > 0.9
    tied = np.repeat(x[:, :6], 2, axis=1)
    predictor = fit_predictor(tied[train], table[train], "quality")
    broken = tied[~train].copy()
    broken[:, 1::2] *= -1
    assert (predictor.predict(broken).outside > 1).mean() > 0.9


def test_categories_are_recognised_and_chance_is_said() -> None:
    x, table = zoo_like(models=200)
    table["kind"] = np.where(x[:, 3] > 0, "right", "left")
    table["kind"] = table.groupby("model")["kind"].transform("first")
    found = probe(x, table, "kind")
    assert found.scores["balanced_accuracy"] > 0.8
    assert found.scores["chance"] == 0.5
    table["kind"] = np.random.default_rng(0).permutation(table["kind"].to_numpy())
    assert abs(probe(x, table, "kind").scores["balanced_accuracy"] - 0.5) < 0.2


def test_learning_rates_are_predicted_as_logarithms_and_epochs_as_they_are() -> None:
    table = pd.DataFrame(
        {"model": list("abcd"), "learning_rate": [1e-4, 1e-3, 1e-2, 0.0], "epoch": [0, 1, 100, 1000]}
    )
    found = as_target(table, "learning_rate")
    assert found.scale == "log10"
    np.testing.assert_allclose(found.values, [-4, -3, -2, -5])
    assert as_target(table, "epoch").scale == "linear"
    assert probe_targets(table.assign(split="train", seed=range(4))) == ["epoch", "learning_rate"]


def test_rows_without_a_value_are_left_out_and_said() -> None:
    x, table = zoo_like()
    table.loc[::5, "quality"] = np.nan
    found = probe(x, table, "quality")
    assert found.n_train_checkpoints + found.n_test_checkpoints == table["quality"].notna().sum()
    assert any("left out" in note for note in found.notes)


def test_what_cannot_be_probed_is_refused() -> None:
    x, table = zoo_like()
    with pytest.raises(ValueError, match="finite"):
        probe(np.full_like(x, np.nan), table, "quality")
    for target, code in (("nothing", "no-such-property"), ("same", "constant-property")):
        with pytest.raises(Refusal) as caught:
            probe(x, table.assign(same=1.0), target)
        assert caught.value.code == code
    with pytest.raises(Refusal) as caught:
        probe(x, table.assign(split="train"), "quality")
    assert caught.value.code == "no-test-rows"
    with pytest.raises(Refusal):
        groups_of(table, "family")


def test_a_feature_that_never_varies_counts_for_nothing() -> None:
    x = np.asarray([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert Scaler.fit(x).apply(np.asarray([[2.0, 1e9]]))[0, 1] == 0.0


def test_a_single_feature_is_ranked_with_an_interval_over_models() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat([str(i) for i in range(40)], 5).astype(object)
    x = np.repeat(random.normal(size=40), 5)
    found = correlate(x, np.exp(x), groups)
    assert found is not None
    assert found.rho == pytest.approx(1.0)
    assert found.tau == pytest.approx(1.0)
    # Forty independent models, however many checkpoints: the interval must not shrink with copies.
    y = x + np.repeat(random.normal(size=40), 5)
    few = correlate(y[::5], x[::5], groups[::5])
    many = correlate(y, x, groups)
    assert few is not None and many is not None
    assert many.low < many.rho < many.high
    assert (many.high - many.low) == pytest.approx(few.high - few.low, rel=0.05)
    assert correlate(x, np.full_like(x, 2.0), groups) is None
    missing = np.where(np.arange(len(x)) < 100, np.nan, x)
    part = correlate(missing, x, groups)
    assert part is not None and (part.n, part.n_groups) == (100, 20)


def test_the_layer_that_carries_the_signal_is_found() -> None:
    x, table = zoo_like(noise=0.05)
    noise = np.random.default_rng(0).normal(size=x.shape)
    found = probe_layers(np.stack([noise, x, -noise], axis=1), ["first", "middle", "last"], table, "quality")
    scores = found.set_index("name")["score"]
    assert scores["middle"] > 0.98 and scores["all layers"] > 0.9
    assert scores["first"] < 0.1 and scores["last"] < 0.1


def test_accuracies_in_percent_are_not_cut_off() -> None:
    features, table = zoo_like()
    table = table.assign(top5_accuracy=50 + 10 * features[:, 0])
    assert probe(features, table, "top5_accuracy").r2 > 0.9


def test_one_fold_is_refused_for_what_it_is() -> None:
    with pytest.raises(Refusal, match="nothing is held out"):
        grouped_folds(groups_of(pd.DataFrame({"model": ["a", "b", "c"]})), 1)
