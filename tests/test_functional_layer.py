"""Equivariant layers built from a symmetry: the whole basis, nothing else, on any architecture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product
from math import prod

import pytest
import torch
from symmetry_networks import CASES, GPT, mlp, resnet18, small_cnn
from torch import Tensor, nn

from sane_engine.baselines.functional import EquivariantLayer, EquivariantMap, Spaces
from sane_engine.symmetry import Permutations, Symmetry, find_symmetry
from sane_engine.symmetry.spec import Factor, Group

ARCHITECTURES = {
    "mlp": mlp,
    "small-cnn": small_cnn,
    "resnet-18": lambda: resnet18(width=4),
    "gpt-2": lambda: GPT(width=16, heads=2, depth=1),
}
Shapes = dict[str, tuple[int, ...]]


def network(name: str) -> tuple[Symmetry, Shapes]:
    module = ARCHITECTURES[name]().eval()
    symmetry = find_symmetry(module, CASES[name].example())
    state = module.state_dict()
    return symmetry, {key: tuple(value.shape) for key, value in state.items() if value.is_floating_point()}


def random_tensors(shapes: Mapping[str, tuple[int, ...]], models: int, channels: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(models, channels, *shape, generator=generator) for name, shape in shapes.items()}


def permuted(symmetry: Symmetry, stacked: Mapping[str, Tensor], permutation: Permutations) -> dict[str, Tensor]:
    """Every model and channel permuted by the engine's own action on one network."""
    models, channels = next(iter(stacked.values())).shape[:2]
    moved = [
        [
            symmetry.permute({name: tensor[m, c] for name, tensor in stacked.items()}, permutation)
            for c in range(channels)
        ]
        for m in range(models)
    ]
    return {name: torch.stack([torch.stack([one[name] for one in row]) for row in moved]) for name in stacked}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_with_nonlinearities_between_them_are_equivariant(name: str) -> None:
    symmetry, shapes = network(name)
    torch.manual_seed(0)
    first = EquivariantLayer(symmetry, shapes, 2, 3, rank=24)
    second = EquivariantLayer(symmetry, shapes, 3, 1, rank=24)

    @torch.no_grad()
    def functional(stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
        hidden = first(stacked)
        return second({key: torch.tanh(3 * value) for key, value in hidden.items()})

    stacked = random_tensors(shapes, 2, 2)
    permutation = symmetry.random(torch.Generator().manual_seed(3), flips=False)
    plain = functional(stacked)
    after, before = permuted(symmetry, plain, permutation), functional(permuted(symmetry, stacked, permutation))
    largest = max(float(value.abs().max()) for value in plain.values())
    assert max(float((after[key] - before[key]).abs().max()) for key in after) < 1e-4 * largest
    # and it matters: the output moved by far more than that
    assert max(float((after[key] - plain[key]).abs().max()) for key in after) > 0.1 * largest


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_come_back_from_their_spaces(name: str) -> None:
    symmetry, shapes = network(name)
    places = Spaces(symmetry, shapes)
    stacked = random_tensors(shapes, 2, 3)
    values = places.gather(stacked)
    assert [value.shape[-1] for value in values] == [3 * width for width in places.widths]
    assert all(torch.equal(value, stacked[key]) for key, value in places.scatter(values, 3).items())


def factor(group: int, size: int) -> tuple[tuple[Factor, ...], ...]:
    return ((Factor(size, group),),)


RECURRENT = Symmetry((Group(4), Group(3)), (), {
    "input": (factor(0, 4), ((Factor(2),),)),
    "recurrent": (factor(0, 4), factor(0, 4)),
    "output": (factor(1, 3), factor(0, 4)),
})  # fmt: skip
HEADS = Symmetry((Group(2), Group(2, (0,)), Group(3)), (), {
    "values": (((Factor(2, 0), Factor(2, 1)),), factor(2, 3)),
    "bias": (((Factor(2, 0), Factor(2, 1)),),),
    "temperature": (factor(0, 2),),
})  # fmt: skip
CONCATENATED = Symmetry((Group(3), Group(2)), (), {
    "first": (factor(0, 3),),
    "joint": (((Factor(3, 0),), (Factor(2, 1),), (Factor(1),)), ((Factor(2),),)),
})  # fmt: skip


def dimension(symmetry: Symmetry, shapes: Shapes) -> float:
    """How many linear maps commute with the whole group: the mean square of the character of its action."""
    families = []
    for number in range(len(symmetry.groups)):
        *context, size = symmetry.family_shape(number)
        members = product(permutations(range(size)), repeat=prod(context))
        families.append([torch.tensor(list(member)).reshape(*context, size) for member in members])
    ends = [sum(prod(shape) for shape in list(shapes.values())[:i]) for i in range(len(shapes))]
    entries = {
        name: torch.arange(prod(shape)).reshape(shape) + start
        for (name, shape), start in zip(shapes.items(), ends, strict=True)
    }
    traces = []
    for orders in product(*families):
        moved = symmetry.permute(entries, Permutations(tuple(orders), ()))
        traces.append(sum(int((moved[name] == entries[name]).sum()) for name in entries))
    return sum(trace**2 for trace in traces) / len(traces)


@pytest.mark.parametrize("symmetry", [RECURRENT, HEADS, CONCATENATED], ids=["recurrent", "heads", "concatenated"])
def test_the_basis_is_complete_and_independent(symmetry: Symmetry) -> None:
    shapes = {name: symmetry.shape(name) for name in symmetry.tensors}
    layer = EquivariantLayer(symmetry, shapes, 1, 1)
    weights = [linear.weight for linear in layer.map.mixing if isinstance(linear, nn.Linear)]
    columns = []
    inputs = torch.eye(sum(prod(shape) for shape in shapes.values()))
    pieces = inputs.split([prod(shape) for shape in shapes.values()], dim=1)
    stacked = {name: piece.reshape(-1, 1, *shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        for weight in weights:
            for entry in range(weight.numel()):
                weight.view(-1)[entry] = 1.0
                columns.append(torch.cat([value.flatten(1) for value in layer(stacked).values()], 1).flatten())
                weight.view(-1)[entry] = 0.0
    assert torch.linalg.matrix_rank(torch.stack(columns)) == len(columns) == dimension(symmetry, shapes)


def test_square_matrices_have_the_fifteen_maps_of_the_bell_number() -> None:
    symmetry = Symmetry((Group(5),), (), {"matrix": (factor(0, 5), factor(0, 5))})
    places = Spaces(symmetry, {"matrix": (5, 5)})
    assert EquivariantMap(places.spaces, [1], [1]).n_maps == 15


def test_models_do_not_see_each_other() -> None:
    symmetry, shapes = network("small-cnn")
    layer = EquivariantLayer(symmetry, shapes, 1, 2).eval()
    stacked = random_tensors(shapes, 5, 1)
    with torch.no_grad():
        together, alone = layer(stacked), layer({name: tensor[3:4] for name, tensor in stacked.items()})
    assert all(torch.allclose(together[name][3:4], alone[name], atol=1e-6) for name in shapes)


def test_a_symmetry_of_another_network_is_refused() -> None:
    symmetry, shapes = network("mlp")
    with pytest.raises(ValueError, match="another network"):
        EquivariantLayer(symmetry, {**shapes, "0.weight": (31, 10)}, 1, 1)
