"""docs/prediction.md, from probe tables and ablations.

python -m benchmarks.prediction_report --probe mnist.json … --ablation ablation-mnist.json … > docs/prediction.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sane_engine.probing.scores import ProbeTable
from sane_engine.representations import representations

TARGETS = {"test_accuracy": "accuracy", "epoch": "epoch", "generalisation_gap": "gap"}
OURS = ("sane-weights", "sane-predictive")
WANTED = {("statistics", "test_accuracy"): 0.08, ("weightwatcher", "test_accuracy"): 0.08,
          ("statistics", "epoch"): 0.05, ("weightwatcher", "epoch"): 0.05}  # fmt: skip
TEXT = Path(__file__).with_name("prediction_text.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--probe", type=Path, nargs="+", required=True, help="what `probe --out` wrote; first the later"
    )
    parser.add_argument("--ablation", type=Path, nargs="*", default=[], help="what benchmarks.prediction wrote")
    arguments = parser.parse_args()
    tables = together([ProbeTable.load(path) for path in arguments.probe])
    ablations = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.ablation]
    text = TEXT.read_text(encoding="utf-8")
    parts = {
        "MARGINS": margins(tables),
        "TABLES": "\n".join(section(table) for table in tables),
        "HYPERPARAMETERS": "\n".join(hyperparameters(table) for table in tables).strip() or "Not run yet.",
        "GAINS": gains(tables),
        "ABLATION": "\n".join(ablation(one) for one in ablations) or "Not run yet.",
        "RECONSTRUCTION": reconstruction(ablations),
    }
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part.strip())
    print(text.rstrip())


def together(tables: list[ProbeTable]) -> list[ProbeTable]:
    """One table a zoo: of two with the same splits the first counts where both know something."""
    found: dict[str, ProbeTable] = {}
    for table in tables:
        zoo = str(table.record["zoo"])
        found[zoo] = found[zoo].merged(table) if zoo in found else table
    return list(found.values())


def number(value: float, digits: int = 3) -> str:
    """As the tables write it."""
    return "" if not np.isfinite(value) else f"{value:.{digits}f}".replace("0.", ".", 1).replace("-0.", "-.", 1)


def section(table: ProbeTable) -> str:
    """Every representation of one zoo."""
    record, summary = table.record, table.summary()
    lines = [
        f"### `{record['zoo']}`\n",
        f"{record['models']} models, {record['checkpoints']:,} checkpoints; {record['outer_splits']} outer splits "
        f"{record['split_hash']} of seed {record['seed']}; commit {str(record.get('commit', ''))[:12]}.\n",
        "| representation | splits | "
        + " | ".join(f"{t}: R² | τ | MAE | covered" for t in TARGETS.values())
        + " |",
        "| --- " * (2 + 4 * len(TARGETS)) + "|",
    ]
    known = [name for name in [*representations(), "combination"] if name in set(summary["representation"])]
    best = {t: summary.loc[summary["target"] == t, "mean"].max() for t in TARGETS}
    for name in known:
        cells = table.cells[table.cells["representation"] == name]
        runs = str(cells["split"].nunique())
        if cells["seed"].nunique() > 1:
            runs += ", seeds " + ", ".join(str(seed) for seed in sorted(set(cells["seed"])))
        row = [f"`{name}`", runs]
        for target in TARGETS:
            found = summary[(summary["representation"] == name) & (summary["target"] == target)]
            if not len(found):
                row += [""] * 4
                continue
            one = found.iloc[0]
            score = f"{number(one['mean'])} ± {number(one['spread'])}"
            score = f"**{score}**" if one["mean"] >= best[target] - 5e-4 else score
            row += [score, number(one["kendall_tau"], 2), number(one["mae"], 3), number(one["coverage"], 2)]
        lines.append("| " + " | ".join(row) + " |")
    missing = [f"`{name}`" for name in representations() if name not in known]
    if missing:
        lines.append(f"\nNot run here: {', '.join(missing)}.")
    return "\n".join(lines) + "\n"


def hyperparameters(table: ProbeTable) -> str:
    """What else each representation of one zoo tells; nothing where the three main properties alone were probed."""
    summary = table.summary()
    targets = [name for name in dict.fromkeys(summary["target"]) if name not in TARGETS]
    if not targets:
        return ""
    labels = []
    for target in targets:
        first = summary[summary["target"] == target].iloc[0]
        label = target.replace("_", " ")
        if first["metric"] == "balanced_accuracy":
            label += f", balanced accuracy (chance {number(first['chance'], 2)})"
        else:
            label += ", R² of its logarithm" if first["scale"] == "log10" else ", R²"
        labels.append(label)
    lines = [f"### `{table.record['zoo']}`\n", "| representation | " + " | ".join(labels) + " |"]
    lines.append("| --- " * (1 + len(targets)) + "|")
    best = {target: summary.loc[summary["target"] == target, "mean"].max() for target in targets}
    found = summary.set_index(["representation", "target"])
    for name in [*representations(), "combination"]:
        if (name, targets[0]) not in found.index:
            continue
        row = [f"`{name}`"]
        for target in targets:
            if (name, target) not in found.index:
                row.append("")
                continue
            one = found.loc[(name, target)]
            score = f"{number(one['mean'])} ± {number(one['spread'])}"
            row.append(f"**{score}**" if one["mean"] >= best[target] - 5e-4 else score)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def paired(table: ProbeTable, ours: str, other: str, target: str) -> pd.Series:
    """Differences in R² split by split, of what was scored on the same ones."""
    cells = table.cells[table.cells["target"] == target]
    by_split = [cells[cells["representation"] == name].groupby("split")["r2"].mean() for name in (ours, other)]
    return (by_split[0] - by_split[1]).dropna()


def margins(tables: list[ProbeTable]) -> str:
    """How far above the best of the others, and above s(W) and WeightWatcher."""
    lines = [
        "| zoo | representation | property | R² | best of all others | above it by | above s(W) by | above "
        "WeightWatcher by |",
        "| --- " * 8 + "|",
    ]
    for table in tables:
        summary = table.summary().set_index(["representation", "target"])["mean"]
        for ours in OURS:
            for target, label in TARGETS.items():
                if (ours, target) not in summary.index:
                    continue
                others = {n: v for (n, t), v in summary.items() if t == target and n not in (*OURS, "combination")}
                best = max(others, key=lambda name: others[name])
                row = [f"`{table.record['zoo']}`", f"`{ours}`", label, number(summary[ours, target]), f"`{best}`"]
                for other in (best, "statistics", "weightwatcher"):
                    difference = paired(table, ours, other, target)
                    if not len(difference):
                        row.append("not run")
                        continue
                    wanted = WANTED.get((other, target), 0.0) if other != best else 0.0
                    row.append(signed(difference) + ("" if difference.mean() >= wanted else " (short)"))
                lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def gains(tables: list[ProbeTable]) -> str:
    """What training adds to SANE without summaries: per layer, against random weights and principal components."""
    lines = [
        "| zoo | property | `sane-layers` | above `sane-untrained` by | above `token-pca` by | above `sane` by |",
        "| --- " * 6 + "|",
    ]
    for table in tables:
        summary = table.summary().set_index(["representation", "target"])["mean"]
        for target, label in TARGETS.items():
            if ("sane-layers", target) not in summary.index:
                continue
            row = [f"`{table.record['zoo']}`", label, number(summary["sane-layers", target])]
            for other in ("sane-untrained", "token-pca", "sane"):
                difference = paired(table, "sane-layers", other, target)
                row.append(signed(difference) if len(difference) else "not run")
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) if len(lines) > 2 else "Not run yet."


def signed(difference: pd.Series) -> str:
    """Mean and spread of differences."""
    return f"{difference.mean():+.3f} ± {difference.std():.3f}".replace("0.", ".")


def ablation(record: dict[str, Any]) -> str:
    """R² of every variant, of both ways to run networks."""
    frame = pd.DataFrame(
        [
            {"variant": row["variant"], "reactions": row["reactions"], "split": row["split"], **row["r2"]}
            for row in record["rows"]
            if "r2" in row
        ]
    )
    mean = frame.groupby(["variant", "reactions"], sort=False)[list(TARGETS)].mean()
    lines = [
        f"### `{record['zoo']}`\n",
        f"{record['splits']} of the outer splits above, seed {record['seed']}, {record['steps']} steps if trained,"
        f" {record['core_seconds'] / 60:.0f} minutes of a core; commit {str(record['commit'])[:12]}.\n",
        "| | with the architecture: " + " | ".join(TARGETS.values()) + " | from weights alone: "
        + " | ".join(TARGETS.values()) + " |",
        "| --- " * (1 + 2 * len(TARGETS)) + "|",
    ]  # fmt: skip
    for variant in dict.fromkeys(frame["variant"]):
        row = [variant]
        for how in ("architecture", "shapes"):
            key = (variant, how) if (variant, how) in mean.index else (variant, "none")
            row += [number(mean.loc[key, t]) if key in mean.index else "" for t in TARGETS]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def reconstruction(ablations: list[dict[str, Any]]) -> str:
    """R² of reconstructed weights beside principal components."""
    lines = ["| zoo | steps | SANE | per-token PCA | PCA, one basis a layer | a position |", "| --- " * 6 + "|"]
    for record in ablations:
        rows = [row["reconstruction"] for row in record["rows"] if "reconstruction" in row]
        if rows:
            mean = pd.DataFrame(rows).mean()
            scores = [number(mean.get(k, float("nan"))) for k in ("sane", "pca", "pca-layer", "pca-position")]
            lines.append(f"| `{record['zoo']}` | {record['steps']} | " + " | ".join(scores) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
