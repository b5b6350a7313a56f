"""How fast a population is trained, against training its models one by one: models·epochs per second.

    python -m benchmarks.train_zoo [--spec assets/specs/digits.json] [--models 128] [--epochs 5]

The work is the demo zoo's: the same data, architecture, batch size and drawn hyper-parameters, each model in its
own batch order, with two checkpoints scored on all images. Everything runs in one go on the same cores, each
contestant twice and alternating; the faster of its two runs counts. Ratios hold where absolute numbers do not:
other work on the machine slows all of them. The start of its child processes counts against the population trainer,
but not against the plain loop.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from sane_engine.workspace import assets_root
from sane_engine.zoo.datasets import load_dataset
from sane_engine.zoo.hyperparameters import ModelPlan, plan_models
from sane_engine.zoo.population import train_zoo
from sane_engine.zoo.single import train_single
from sane_engine.zoo.spec import ZooSpec

ROUNDS = 2


def plain(spec: ZooSpec, plans: Sequence[ModelPlan], threads: int, ready: Barrier | None = None) -> float:
    torch.set_num_threads(threads)
    dataset = load_dataset(spec.dataset, image_size=spec.architecture.input_shape[1])
    if ready is not None:
        ready.wait()
    start = time.perf_counter()
    for plan in plans:
        train_single(spec, plan, dataset)
    return time.perf_counter() - start


def plain_in_two_processes(spec: ZooSpec) -> float:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(3)
    plans = plan_models(spec)
    children = [context.Process(target=plain, args=(spec, plans[number::2], 1, ready)) for number in range(2)]
    for child in children:
        child.start()
    ready.wait()
    start = time.perf_counter()
    for child in children:
        child.join()
        if child.exitcode:
            raise SystemExit("a plain process failed")
    return time.perf_counter() - start


def stacked(spec: ZooSpec, workers: int) -> float:
    torch.set_num_threads(1)
    start = time.perf_counter()
    train_zoo(spec, workers=workers)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=assets_root() / "specs" / "digits.json")
    parser.add_argument("--models", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    spec = replace(
        ZooSpec.load(arguments.spec),
        n_models=arguments.models,
        epochs=arguments.epochs,
        checkpoint_epochs=(max(1, arguments.epochs // 2), arguments.epochs),
    )
    # The plain loop has nothing to gain from more models; a part of them gives its rate.
    few = replace(spec, n_models=max(2, arguments.models // 16))
    contestants: dict[str, tuple[ZooSpec, Callable[[ZooSpec], float]]] = {
        "plain loop, 1 thread": (few, lambda work: plain(work, plan_models(work), 1)),
        "plain loop, 2 threads": (few, lambda work: plain(work, plan_models(work), 2)),
        "plain loop, 2 processes": (few, plain_in_two_processes),
        "stacked, 1 thread": (spec, lambda work: stacked(work, 0)),
        "stacked, 2 processes": (spec, lambda work: stacked(work, 2)),
    }
    rates = dict.fromkeys(contestants, 0.0)
    for _ in range(ROUNDS):
        for name, (work, contestant) in contestants.items():
            rates[name] = max(rates[name], work.n_models * work.epochs / contestant(work))
    baseline = rates["plain loop, 1 thread"]
    for name, rate in rates.items():
        print(f"{name:26} {rate:8.1f} models·epochs/s   {rate / baseline:5.2f}× the plain loop")
    print(json.dumps({"models_epochs_per_second": rates, "spec": spec.name, "models": spec.n_models}))


if __name__ == "__main__":
    main()
