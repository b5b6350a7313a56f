"""docs/universal.md from the numbers of ``benchmarks.universal``."""

from __future__ import annotations

from typing import Any

_METHODS = {
    "universal": "universal",
    "own": "the zoo's own",
    "untrained": "untrained",
    "pca": "PCA of the zoo",
}


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def markdown(record: dict[str, Any]) -> str:
    """The whole document."""
    config, provenance = record["config"], record["provenance"]
    zoos = provenance.get("zoos", [])
    lines = [
        "# The universal encoder",
        "",
        "One encoder for networks of any architecture: every tensor is standardised by its own mean and standard",
        "deviation, positions are rescaled, and a summary token a layer says how large the weights are. It is",
        f"trained on {sum(zoo['checkpoints'] for zoo in zoos):,} checkpoints of {len(zoos)} zoos"
        f" ({', '.join(zoo['zoo'] for zoo in zoos)}), {config['steps']:,} steps,",
        f"{config['latent']} latents a token of {config['token_size']}:",
        "",
        f"    {provenance.get('command', '')}",
        "",
        "Made by `python -m benchmarks.universal`. Held-out models (split by model) of each zoo. The zoo's own",
        "encoder has the same configuration, trained on that zoo's training models alone "
        f"({', '.join(sorted({str(zoo['own_steps']) for zoo in record['zoos'].values()}))} steps); untrained is",
        "the same with random weights; PCA has as many components as latents, fitted on the zoo. One seed.",
        "",
        "## Reconstruction",
        "",
        "R² of the weights, each tensor about its own mean and in units of its own standard deviation.",
        "",
        "| zoo | checkpoints scored | " + " | ".join(_METHODS.values()) + " |",
        "| --- " * (2 + len(_METHODS)) + "|",
    ]
    for name, found in record["zoos"].items():
        cells = [_cell(found["scores"].get(method, {}).get("r2")) for method in _METHODS]
        lines.append(f"| `{name}` | {found['scored']} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Probes",
        "",
        "R² of ridge regression on held-out models, from the latents of the tokens alone (mean and standard",
        "deviation a layer) and, in brackets, with the summary tokens.",
        "",
        "| zoo | property | models: fitted on + held out | " + " | ".join(_METHODS.values()) + " |",
        "| --- " * (3 + len(_METHODS)) + "|",
    ]
    for name, found in record["zoos"].items():
        n = f"{found['models'].get('train', 0) + found['models'].get('validation', 0)} + {found['models']['test']}"
        targets = [key.removeprefix("latents ") for key in found["scores"]["pca"] if key.startswith("latents ")]
        for target in targets:
            cells = []
            for method in _METHODS:
                scores = found["scores"].get(method, {})
                with_all = scores.get(f"all {target}")
                text = _cell(scores.get(f"latents {target}"))
                cells.append(text if with_all is None else f"{text} ({_cell(with_all)})")
            lines.append(f"| `{name}` | {target.replace('_', ' ')} | {n} | " + " | ".join(cells) + " |")
    ahead = sum(zoo["scores"]["universal"]["r2"] > zoo["scores"]["pca"]["r2"] for zoo in record["zoos"].values())
    lines += [
        "",
        f"To be read so: in {ahead} of {len(record['zoos'])} zoos it reconstructs better than PCA fitted on the",
        "zoo itself. Held-out models are few, so differences of some hundredths between probes say nothing. Most",
        "of what is predicted comes with the summaries of the layers, which need no training.",
    ]
    if record["files"]:
        lines += [
            "",
            "## Strangers",
            "",
            "Checkpoints of architectures that were in no zoo; their own PCA is fitted on the very network, which",
            "no encoder can be.",
            "",
            "| file | weights | layers with a finite curve | universal | untrained | own PCA |",
            "| --- " * 6 + "|",
        ]
        for one in record["files"]:
            lines.append(
                f"| `{one['file']}` | {one['parameters']:,} | {one['finite']} of {one['layers']} | "
                f"{one['universal']:.3f} | {one['untrained']:.3f} | {one['own_pca']:.3f} |"
            )
    return "\n".join(lines) + "\n"
