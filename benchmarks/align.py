"""What alignment costs: one ResNet-18 pair against a straightforward loop, a zoo at once against one by one.

Run from the repository's root: ``python benchmarks/align.py``. Times are cpu seconds of this process.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from symmetry_networks import resnet18, small_cnn  # noqa: E402  (needs the path above)

from sane_engine.symmetry import Symmetry, align, align_zoo, find_symmetry  # noqa: E402  (after the path)


def plain_loop(
    tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry
) -> dict[str, Tensor]:
    """Weight matching as it is usually written: for every group, permute everything else, multiply, assign, repeat.

    Only for symmetries whose axes are single, whole groups, as those of ResNets are.
    """
    axes: dict[int, list[tuple[str, int]]] = {}
    for name, spec in symmetry.tensors.items():
        for dim, axis in enumerate(spec):
            if (group := axis[0][0].group) is not None:
                axes.setdefault(group, []).append((name, dim))
    orders = {group: torch.arange(symmetry.groups[group].size) for group in axes}

    def permuted(name: str, skip: int) -> Tensor:
        tensor = tensors[name]
        for dim, axis in enumerate(symmetry.tensors[name]):
            if dim != skip and (group := axis[0][0].group) is not None:
                tensor = torch.index_select(tensor, dim, orders[group])
        return tensor

    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        progress = False
        for group in torch.randperm(len(orders), generator=generator).tolist():
            size = len(orders[group])
            similarity = torch.zeros(size, size)
            for name, dim in axes[group]:
                ours = torch.moveaxis(reference[name], dim, 0).reshape(size, -1)
                theirs = torch.moveaxis(permuted(name, dim), dim, 0).reshape(size, -1)
                similarity += ours @ theirs.T
            old = similarity[torch.arange(size), orders[group]].sum()
            orders[group] = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
            progress |= bool(similarity[torch.arange(size), orders[group]].sum() > old + 1e-12)
        if not progress:
            break
    return {name: permuted(name, -1) if name in symmetry.tensors else tensor for name, tensor in tensors.items()}


def seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def scale(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors divided by the reference's root mean square."""
    return {
        name: tensors[name] / (float(reference[name].square().mean().sqrt()) or 1.0)
        for name in reference
        if reference[name].is_floating_point()
    }


def agreement(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Mean product of matching entries: what both maximise, 1 for equal networks."""
    count = sum(tensor.numel() for tensor in reference.values())
    return sum(float((tensors[name] * reference[name]).sum()) for name in reference) / count


def digest(tensors: Mapping[str, Tensor]) -> str:
    sums = hashlib.sha256()
    for tensor in tensors.values():
        sums.update(tensor.contiguous().numpy().tobytes())
    return sums.hexdigest()[:16]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    module = resnet18(width=64)
    symmetry = find_symmetry(module, torch.randn(1, 3, 64, 64))
    reference, other = state(module), state(resnet18(width=64))
    permuted = symmetry.permute(reference, symmetry.random(torch.Generator().manual_seed(1)))
    print(f"ResNet-18, {sum(t.numel() for t in reference.values()):,} entries, {symmetry.n_neurons} neurons")
    for what, tensors in (("independent", other), ("permuted copy", permuted)):
        ours = seconds(lambda t=tensors: align(t, reference, symmetry), options.repeats)
        # both maximise the same sum: the loop gets tensors that are scaled already
        scaled, target = scale(tensors, reference), scale(reference, reference)
        loop = seconds(lambda t=scaled, r=target: plain_loop(t, r, symmetry), 1)
        aligned = align(tensors, reference, symmetry)
        mine, theirs = scale(aligned, reference), plain_loop(scaled, target, symmetry)
        print(
            f"  {what:14} align {ours:.3f} s   plain loop {loop:.3f} s   {loop / ours:.1f}x   agreement "
            f"{agreement(mine, target):.4f} (plain loop {agreement(theirs, target):.4f}, before "
            f"{agreement(scaled, target):.4f})   {digest(aligned)}"
        )

    models = [state(small_cnn()) for _ in range(options.models)]
    symmetry = find_symmetry(small_cnn(), torch.randn(1, 1, 14, 14))
    stacked = {name: torch.stack([model[name] for model in models]) for name in models[0]}
    together = seconds(lambda: align_zoo(stacked, models[0], symmetry), options.repeats)
    some = models[:: max(1, len(models) // 100)]
    single = seconds(lambda: [align(model, models[0], symmetry) for model in some], 1) / len(some)
    both = align_zoo(stacked, models[0], symmetry)
    equal = all(
        torch.equal(both[name][i], tensor)
        for i in range(0, len(models), max(1, len(models) // 50))
        for name, tensor in align(models[i], models[0], symmetry).items()
    )
    each = together / len(models)
    print(f"{len(models)} small CNNs of {sum(t.numel() for t in models[0].values()):,} entries")
    print(
        f"  a model: together {1e3 * each:.3f} ms   one by one {1e3 * single:.3f} ms   {single / each:.1f}x   "
        f"equal {equal}   {digest(both)}"
    )


if __name__ == "__main__":
    main()
