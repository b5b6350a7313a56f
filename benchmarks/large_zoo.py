"""What loading and embedding a large zoo of small checkpoints costs in memory, and whether it shows progress.

    python -m benchmarks.large_zoo [--checkpoints 5000] [--network demo|wild] [--format folder|native|both]

Random networks of the demo zoo's architecture (1,696 parameters) or of the MNIST tutorial's (21,840) are written
into a temporary folder: one safetensors file each, and as one native zoo. A fresh process opens each and embeds it
with an embedded encoder; its peak of resident memory is counted above what it took with everything imported and the
encoder loaded. The promise: at most 1 GB for 5,000 checkpoints, with progress all the way.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_MB = 1000


def synthesise(folder: Path, checkpoints: int, network: str) -> None:
    """Write the same random networks as ``files/`` and as ``native/``."""
    import pandas as pd
    import torch
    from safetensors.torch import save_file

    from sane_engine.workspace import assets_root
    from sane_engine.zoo import Zoo, ZooSpec

    spec = ZooSpec.load(assets_root() / "specs" / f"{'digits' if network == 'demo' else network}.json")
    generator = torch.Generator().manual_seed(0)
    stacked = {
        name: torch.randn(checkpoints, *shape, generator=generator) * 0.1
        for name, shape in spec.architecture.shapes.items()
    }
    table = pd.DataFrame({"model": [f"m{row:05d}" for row in range(checkpoints)], "epoch": 1})
    Zoo.from_stacked("large", table, stacked, architecture=spec.architecture.to_json()).save(folder / "native")
    (folder / "files").mkdir()
    for row in range(checkpoints):
        one = {name: tensor[row].contiguous() for name, tensor in stacked.items()}
        save_file(one, folder / "files" / f"m{row:05d}.safetensors")


def peak_mb() -> float:
    """The largest resident size of this process so far."""
    factor = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / factor


def measure(path: Path) -> dict[str, float]:
    """Load and embed one zoo in this process."""
    import torch

    from sane_engine import embed, load_encoder, load_zoo

    torch.set_num_threads(1)
    encoder = load_encoder("digits-independent-sane")
    # Once on a handful, so that what torch sets up on first use counts as the baseline.
    embed(encoder, load_zoo("digits").select(range(4)))
    before, start, calls = peak_mb(), time.perf_counter(), {"load": 0, "embed": 0}

    def count(what: str) -> None:
        calls[what] += 1

    zoo = load_zoo(path, progress=lambda *_: count("load"))
    loaded, load_seconds = peak_mb(), time.perf_counter() - start
    embeddings = embed(encoder, zoo, progress=lambda *_: count("embed"))
    return {
        "checkpoints": len(embeddings.models),
        "baseline_mb": round(before),
        "load_mb": round(loaded - before),
        "load_and_embed_mb": round(peak_mb() - before),
        "load_seconds": round(load_seconds, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "progress_calls_load": calls["load"],
        "progress_calls_embed": calls["embed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=5000)
    parser.add_argument("--network", choices=("demo", "wild"), default="demo")
    parser.add_argument("--format", choices=("folder", "native", "both"), default="both")
    parser.add_argument("--synthesise", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.synthesise:
        synthesise(arguments.synthesise, arguments.checkpoints, arguments.network)
        return
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    kinds = {"folder": ["files"], "native": ["native"], "both": ["files", "native"]}[arguments.format]
    with tempfile.TemporaryDirectory(prefix="large-zoo-") as folder:
        # In a process of its own: on Linux a child's peak begins at the size of the parent that started it.
        again = [sys.executable, "-m", "benchmarks.large_zoo", "--network", arguments.network]
        subprocess.run([*again, "--checkpoints", str(arguments.checkpoints), "--synthesise", folder], check=True)
        for kind in kinds:
            command = [*again, "--measure", str(Path(folder) / kind)]
            outcome = subprocess.run(command, capture_output=True, text=True, check=True)
            result = json.loads(outcome.stdout)
            kept = "kept" if result["load_and_embed_mb"] <= LIMIT_MB else "BROKEN"
            print(f"{arguments.network} {kind}: {json.dumps(result)}; at most {LIMIT_MB} MB: {kept}", flush=True)


if __name__ == "__main__":
    main()
