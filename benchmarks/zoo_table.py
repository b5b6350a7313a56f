"""The table of trained zoos in docs/zoos.md, from the zoos' own records.

python -m benchmarks.zoo_table zoos/mnist zoos/fashion …
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sane_engine.zoo import Zoo, load_zoo

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_HEAD = (
    "| zoo | models × checkpoints | parameters | images | accuracy of last checkpoints: 5, 25, 50, 75, 95 %"
    " | of all | minutes |"
)


def row(zoo: Zoo) -> str:
    table, record = zoo.table, zoo.provenance
    data: dict[str, Any] = record.get("data", {})
    last = table.loc[table.groupby("model")["epoch"].idxmax(), "test_accuracy"]
    quantiles = [
        " ".join(f"{value:.3f}".removeprefix("0") for value in part.quantile(_QUANTILES))
        for part in (last, table["test_accuracy"])
    ]
    models = table["model"].nunique()
    core, wall = record.get("core_seconds"), record.get("seconds", 0.0)
    cost = f"{core / 60:.1f} of a core" if core else f"{wall / 60:.1f} by the clock"
    images = f"{data['train_images']:,} + {data['test_images']:,}" if "train_images" in data else ""
    parameters = sum(tensor.numel() for tensor in zoo.tensors(0).values() if tensor.is_floating_point())
    size = f"{models} × {len(zoo) / models:.3g}"
    return f"| `{zoo.name}` | {size} | {parameters:,} | {images} | {quantiles[0]} | {quantiles[1]} | {cost} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", type=Path, nargs="+")
    print(_HEAD + "\n" + "| --- " * 7 + "|")
    for path in parser.parse_args().zoos:
        print(row(load_zoo(path)))


if __name__ == "__main__":
    main()
