"""Strangers' checkpoints: ranked by accuracy from the weights alone, by what was learnt on a zoo of ours.

python -m benchmarks.strangers zoos/wild strangers/ --markdown docs/strangers.md

ZOO is a zoo of the strangers' architecture. FOLDER holds their checkpoints, with a CSV: ``file``, ``test_accuracy``
(or its kin) and ``group`` (whose files are not independent). Every representation gets the same probes; which
representation and which probe is *the* configuration is decided on the zoo, by cross-validation that holds out
whole recipes (optimiser, learning rate, initialisation), before a stranger's accuracy is looked at. It must contain
the agreement on noise: without that, networks of another task cannot be told from those of the zoo's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.layer_scales import LayerScales
from benchmarks.stranger_probes import PROBES, Fitted, Probe, fit_probe, frobenius_products, inner_tau, recipes_of
from benchmarks.stranger_scores import DRAWS, Scores, score
from sane_engine.checkpoint import Refusal
from sane_engine.representations import Entry, representation
from sane_engine.revision import commit
from sane_engine.workspace import atomic_file, workspace_root
from sane_engine.zoo import Zoo, load_zoo

REPRESENTATIONS = (
    "scales",
    "statistics",
    "weightwatcher",
    "behaviour",
    "consensus",
    "sane-untrained",
    "sane",
    "sane-layers",
    "sane-predictive",
    "scales+consensus",
    "behaviour+consensus",
    "scales+behaviour+consensus",
    "sane-predictive+consensus",
    "scales+sane-predictive+consensus",
)
"""Names of the registry, and ``scales``; ``a+b`` are two side by side."""

TRIVIAL = "product of Frobenius norms"


def main() -> None:
    arguments = _arguments()
    zoo, strangers = load_zoo(arguments.zoo), load_zoo(arguments.folder)
    if arguments.truth is not None:
        strangers = _with_truth(strangers, arguments.truth)
    # What they are trained for is not in a state dict; that they have the zoo's layout is all that is known.
    strangers.architecture = zoo.architecture
    rows, fitted = [], {}
    for name in arguments.representation or REPRESENTATIONS:
        try:
            found, made = _one(name, zoo, strangers, range(arguments.seeds))
        except Refusal as refusal:
            print(f"{name}: left out: {refusal.line()}", file=sys.stderr, flush=True)
            continue
        rows += found
        fitted |= made
        best = max(found, key=_inner)
        print(f"{name}: inner tau {best['inner_tau']:.3f} ({best['probe']})", file=sys.stderr, flush=True)
    # Norms cannot tell what a network was trained for; only agreement says that it does the zoo's task at all.
    able = [row for row in rows if "consensus" in row["name"].split("+")] or rows
    chosen = max(able, key=_inner)
    if arguments.inner_only:
        print(json.dumps(rows, indent=1))
        return
    truth, groups = strangers.table["test_accuracy"].to_numpy(dtype=float), strangers.table["group"].to_numpy()
    best = {max((r for r in rows if r["name"] == name), key=_inner)["probe"] + name for name, _ in fitted}
    for row in rows:
        draws = DRAWS if row["probe"] + row["name"] in best else 0
        seen = [score(truth, groups, each, draws=draws) for each in fitted[row["name"], row["probe"]]]
        row["strangers"] = vars(_mean(seen))
    product = frobenius_products(strangers)
    trivial = score(truth, groups, Fitted(product, product, product, np.zeros(len(product))))
    record = {
        "zoo": zoo.name,
        "zoo_digest": zoo.digest,
        "models": int(zoo.table["model"].nunique()),
        "checkpoints": len(zoo),
        "recipes": len(set(recipes_of(zoo.table))),
        "strangers": len(strangers),
        "groups": len(set(groups.tolist())),
        "strangers_digest": strangers.digest,
        "seeds": arguments.seeds,
        "commit": commit(),
        "command": _command(arguments),
        "chosen": {key: chosen[key] for key in ("name", "probe")},
        "trivial": {"zoo_tau": _own_tau(zoo), "tau": trivial.tau, "low": trivial.low, "high": trivial.high},
        "rows": rows,
    }
    text = json.dumps(record, indent=1) + "\n"
    if arguments.out is not None:
        with atomic_file(arguments.out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if arguments.markdown is not None:
        from benchmarks.stranger_report import markdown

        arguments.markdown.write_text(markdown(record), encoding="utf-8")
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", help="a trained zoo of the strangers' architecture")
    parser.add_argument("folder", type=Path, help="their checkpoints")
    parser.add_argument("--truth", type=Path, help="CSV with their accuracies, where it is not in the folder")
    parser.add_argument("--representation", action="append", help="only this one; may be given several times")
    parser.add_argument("--seeds", type=int, default=3, help="of representations that are trained")
    parser.add_argument("--inner-only", action="store_true", help="choose the configuration; score no stranger")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--markdown", type=Path, help="write the report")
    return parser.parse_args()


def _with_truth(strangers: Zoo, path: Path) -> Zoo:
    known = pd.read_csv(path).set_index("file")
    files = strangers.table["file"] if "file" in strangers.table else strangers.table["model"]
    accuracy = next(name for name in ("test_accuracy", "test_acc", "accuracy") if name in known)
    groups = known["group"].reindex(files).astype(str).to_numpy() if "group" in known else files.to_numpy()
    return strangers.with_columns(test_accuracy=known[accuracy].reindex(files).to_numpy(), group=groups)


def _one(
    name: str, zoo: Zoo, strangers: Zoo, seeds: Sequence[int]
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], list[Fitted]]]:
    """One representation with every probe: its score on the zoo, and what it says of the strangers."""
    parts = [_entry(part) for part in name.split("+")]
    used = list(seeds) if any(part.seeded for part in parts) else [0]
    inner: dict[Probe, list[float]] = {probe: [] for probe in PROBES}
    fitted: dict[tuple[str, str], list[Fitted]] = {(name, probe.name): [] for probe in PROBES}
    width = 0
    for seed in used:
        features = [_features(part.name, seed, zoo, strangers) for part in parts]
        own, theirs = (np.concatenate([pair[side] for pair in features], axis=1) for side in (0, 1))
        width = own.shape[1]
        for probe in PROBES:
            inner[probe].append(inner_tau(own, zoo.table, probe))
            fitted[name, probe.name].append(fit_probe(own, zoo.table, theirs, probe))
    rows = [
        {
            "name": name,
            "probe": probe.name,
            "features": width,
            "seeds": len(used),
            "inner_tau": float(np.mean(inner[probe])),
            "inner_spread": float(np.std(inner[probe])),
        }
        for probe in PROBES
    ]
    return rows, fitted


def _entry(name: str) -> Entry:
    if name == LayerScales.name:
        return Entry(name, "Layer scales", "Norms and singular values.", "weights", lambda seed: LayerScales())
    return representation(name)


_MADE: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}


def _features(name: str, seed: int, zoo: Zoo, strangers: Zoo) -> tuple[np.ndarray, np.ndarray]:
    """Features of the zoo and of the strangers; fitted on the zoo, no label of either is seen."""
    entry = _entry(name)
    key = (name, seed if entry.seeded else 0)
    if key not in _MADE:
        digest = hashlib.sha256(
            f"{zoo.digest} {strangers.weights_digest} {entry.version} {key}".encode()
        ).hexdigest()
        path = workspace_root() / "strangers" / f"{name}-{digest[:16]}.npz"
        if not path.exists():
            made = entry.make(key[1]).fit(zoo)
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, zoo=made.transform(zoo), strangers=made.transform(strangers))
        kept = np.load(path)
        _MADE[key] = (kept["zoo"], kept["strangers"])
    return _MADE[key]


def _command(arguments: argparse.Namespace) -> str:
    """What makes the numbers again, without where this machine keeps its files."""
    named = [word for name in arguments.representation or [] for word in ("--representation", name)]
    words = [Path(arguments.zoo).name, arguments.folder.name, *named, "--seeds", str(arguments.seeds)]
    return " ".join(["python -m benchmarks.strangers", *words])


def _inner(row: dict[str, Any]) -> float:
    return float(row["inner_tau"])


def _mean(found: list[Scores]) -> Scores:
    return Scores(*(float(np.mean([getattr(one, name) for one in found])) for name in vars(found[0])))


def _own_tau(zoo: Zoo) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(frobenius_products(zoo), zoo.table["test_accuracy"]).statistic)


if __name__ == "__main__":
    main()
