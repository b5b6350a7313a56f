"""The symmetry that is found is right (outputs stay) and complete (the known number of units moves)."""

from __future__ import annotations

from functools import cache
from math import prod

import pytest
import torch
import torch.nn.functional as F
from symmetry_networks import CASES, Attention
from torch import Tensor, nn

from sane_engine.symmetry import Symmetry, find_symmetry


@cache
def network(name: str) -> nn.Module:
    """The network, alive: norms that tell channels apart, and running statistics of a real batch."""
    torch.manual_seed(0)
    module = CASES[name].make()
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.uniform_(child.bias, -0.5, 0.5)
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            module.train()(torch.randn(16, *CASES[name].example().shape[1:]))
    return module.eval()


@cache
def symmetry_of(name: str) -> Symmetry:
    return find_symmetry(network(name), CASES[name].example(), verify=False)


def flippable(symmetry: Symmetry) -> int:
    return sum(prod(symmetry.family_shape(group)) for group in symmetry.signs)


def change(module: nn.Module, symmetry: Symmetry, example: Tensor, seed: int = 0) -> float:
    """Relative change of the outputs under a random permutation that moves something."""
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    chosen = symmetry.random(torch.Generator().manual_seed(seed))
    assert chosen.moved() > 0
    permuted = symmetry.permute(state, chosen)
    assert all(permuted[name].shape == state[name].shape for name in state)
    assert any(not torch.equal(permuted[name], state[name]) for name in state)
    with torch.no_grad():
        before = torch.func.functional_call(module, state, (example,), tie_weights=False)
        after = torch.func.functional_call(module, permuted, (example,), tie_weights=False)
    assert float((before[0] - before[1]).abs().max()) > 1e-2 * float(before.abs().max()), (
        "a dead network shows nothing"
    )
    return float((after - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_the_known_number_of_units_is_found(name: str) -> None:
    symmetry, case = symmetry_of(name), CASES[name]
    assert symmetry.notes == ()
    assert (symmetry.n_neurons, symmetry.n_blocks) == (case.neurons, case.blocks)
    assert flippable(symmetry) == case.flippable


@pytest.mark.parametrize("name", CASES)
def test_the_function_is_kept(name: str) -> None:
    module, example = network(name), CASES[name].example()
    assert change(module, symmetry_of(name), example) < 1e-4
    precise = example.double() if example.is_floating_point() else example
    try:
        assert change(module.double(), symmetry_of(name), precise) < 1e-10
    finally:
        module.float()


@pytest.mark.parametrize("name", CASES)
def test_a_forgotten_tensor_would_be_noticed(name: str) -> None:
    """The measure above tells a wrong specification from a right one."""
    symmetry = symmetry_of(name)
    matrices = [key for key, axes in symmetry.tensors.items() if len(axes) > 1]
    forgotten = matrices[len(matrices) // 2]
    wrong = {key: axes for key, axes in symmetry.tensors.items() if key != forgotten}
    broken = Symmetry(symmetry.groups, symmetry.signs, wrong)
    assert change(network(name), broken, CASES[name].example()) > 1e-3


@pytest.mark.parametrize("name", ["small-cnn", "vit-tiny", "densenet-121"])
def test_permutations_form_a_group(name: str) -> None:
    symmetry, state = symmetry_of(name), dict(network(name).state_dict())
    generator = torch.Generator().manual_seed(3)
    first, second = symmetry.random(generator), symmetry.random(generator)
    once = symmetry.permute(state, symmetry.compose(second, first))
    twice = symmetry.permute(symmetry.permute(state, first), second)
    back = symmetry.permute(symmetry.permute(state, first), symmetry.inverse(first))
    nothing = symmetry.permute(state, symmetry.identity())
    for key in state:
        assert torch.equal(once[key], twice[key])
        assert torch.equal(back[key], state[key])
        assert torch.equal(nothing[key], state[key])


@pytest.mark.parametrize("name", CASES)
def test_a_symmetry_survives_being_written_down(name: str) -> None:
    symmetry = symmetry_of(name)
    assert Symmetry.from_json(symmetry.to_json()) == symmetry


@pytest.mark.parametrize(
    "change_text", [("[[32, [],", "[[31, [],"), ('"format": 1', '"format": 9'), ('"signs": [0]', '"signs": [7]')]
)
def test_a_broken_record_is_refused(change_text: tuple[str, str]) -> None:
    text = symmetry_of("mlp").to_json()
    assert change_text[0] in text
    with pytest.raises(ValueError):
        Symmetry.from_json(text.replace(*change_text))


def test_another_network_is_refused() -> None:
    symmetry = symmetry_of("mlp")
    with pytest.raises(ValueError, match=r"0\.weight"):
        symmetry.permute({"0.weight": torch.zeros(3, 3)}, symmetry.identity())


@pytest.mark.parametrize("keep_vars", [True, False], ids=["one object", "an object for each name"])
def test_tied_tensors_stay_tied(keep_vars: bool) -> None:
    module = network("gpt-2")
    state = dict(module.state_dict(keep_vars=keep_vars))
    assert (state["lm_head.weight"] is state["wte.weight"]) is keep_vars
    permuted = symmetry_of("gpt-2").permute(state, symmetry_of("gpt-2").random(torch.Generator().manual_seed(0)))
    assert permuted["lm_head.weight"] is permuted["wte.weight"]


class Masked(nn.Module):
    """A network whose last output is what it is told, whatever its weights."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, value]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x))) + self.mask


def test_what_is_no_number_verifies_nothing() -> None:
    example = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert find_symmetry(Masked(-torch.inf), example).n_neurons == 6
    found = find_symmetry(Masked(torch.nan), example)
    assert found.is_trivial and "not numbers" in found.notes[-1]


def test_the_module_and_the_random_state_are_left_alone() -> None:
    module = CASES["vit-tiny"].make().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    find_symmetry(module, CASES["vit-tiny"].example())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(child.training for child in module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


class Grouped(nn.Module):
    """Grouped convolution, group norm, squeeze and excitation, a transposed convolution, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12)
        self.grouped, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, groups=4), nn.GroupNorm(2, 16)
        self.second, self.squeeze, self.excite = nn.Conv2d(12, 16, 1), nn.Conv2d(16, 5, 1), nn.Conv2d(5, 16, 1)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.norm1(self.first(x)))))
        x = F.silu(self.norm2(self.second(x)))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.last(F.relu(self.up(x)))


class Shuffle(nn.Module):
    """A ShuffleNet unit: channels are split, one half is worked on, the halves are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 4, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.stem(x)).chunk(2, 1)
        x = torch.cat([left, F.relu(self.branch(right))], 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(x.mean((2, 3)))


class PaddedShortcut(nn.Module):
    """ResNet's option A: the shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 10, 3, 2, 1), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.conv(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.head(x.mean((2, 3)))


class Shuffled(nn.Module):
    """Channels to pixels and back, as in super-resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 6 * 4, 3, padding=1)
        self.middle, self.last = nn.Conv2d(6, 7, 3, padding=1), nn.Conv2d(28, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.up(F.relu(self.first(x))), 2)
        return self.last(F.relu(F.pixel_unshuffle(self.middle(F.relu(x)), 2)))


class Normed(nn.Module):
    """Weight norm, with directions and sizes as parameters."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.Sequential(
            *(norm(nn.Conv2d(3, 6, 3)), nn.ReLU(), norm(nn.Conv2d(6, 5, 3)), nn.ReLU()),
            *(nn.Flatten(), norm(nn.Linear(80, 9)), nn.ReLU(), nn.Linear(9, 2)),
        )
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Gated(nn.Module):
    """RMS norm, rotary positions, a gated MLP, fewer key than query heads: a small language model of today."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 16), nn.RMSNorm(16)
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.o, self.gate, self.up, self.down = (
            nn.Linear(16, 16),
            nn.Linear(16, 24),
            nn.Linear(16, 24),
            nn.Linear(24, 16),
        )
        self.head = nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, n, c = x.shape
        q, k, v = (f(self.norm(x)).view(b, n, 4, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        angle = torch.arange(n)[:, None] * torch.tensor([1.0, 0.1])
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()

        def rotate(t: Tensor) -> Tensor:
            return t * cos + torch.cat([-t[..., 2:], t[..., :2]], -1) * sin

        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, c))
        x = x + self.down(F.silu(self.gate(self.norm(x))) * self.up(self.norm(x)))
        return self.head(self.norm(x))


class Unknown(nn.Module):
    """A Fourier transform along the channels, which no rule knows, behind a layer that is understood."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x)))
        return self.last(torch.fft.fft(x).real)


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


MORE: dict[str, tuple[type[nn.Module], tuple[int, ...], int, int]] = {
    # 4 groups of 3 inputs and 3 outputs, 2 norm groups of 8 channels, 5 squeezed, 8 upsampled
    "grouped": (Grouped, (3, 8, 8), 12 + 12 + 16 + 5 + 8, 4 + 2),
    # the half that passes is interleaved with the half that is worked on: those two move together
    "shuffle": (Shuffle, (3, 8, 8), 4 + 4, 0),
    "padded shortcut": (PaddedShortcut, (3, 8, 8), 6 + 4, 0),
    "shuffled pixels": (Shuffled, (3, 6, 6), 5 + 6 + 7, 0),
    "weight norm": (Normed, (3, 8, 8), 6 + 5 + 9, 0),
    "unknown": (Unknown, (5,), 7, 0),
}


@pytest.mark.parametrize("name", MORE)
def test_less_common_structures(name: str) -> None:
    kind, shape, neurons, blocks = MORE[name]
    torch.manual_seed(0)
    module, example = kind().eval(), torch.randn(2, *shape)
    symmetry = find_symmetry(module, example, verify=False)
    assert (symmetry.n_neurons, symmetry.n_blocks) == (neurons, blocks), symmetry.notes
    assert change(module, symmetry, example) < 1e-4


def test_rotary_positions_pin_what_they_turn() -> None:
    torch.manual_seed(0)
    module, example = Gated().eval(), torch.randint(0, 20, (2, 6))
    symmetry = find_symmetry(module, example, verify=False)
    # the stream, the values in each head and the gate move; the turned queries and keys do not
    assert symmetry.n_neurons == 16 + 16 + 24
    assert symmetry.n_blocks == 4
    assert change(module, symmetry, example) < 1e-4


def test_torch_attention_modules_are_read() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    module = nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    module = nn.Sequential(module, nn.Linear(16, 3)).eval()
    example = torch.randn(2, 7, 5)
    symmetry = find_symmetry(module, example)
    assert (symmetry.n_neurons, symmetry.n_blocks) == (16 + 2 * (16 + 16 + 32), 8)
    assert change(module, symmetry, example) < 1e-4


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_at_least_not_wrong(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 5), kind(5, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(torch.relu(self.first(x)))[0][:, -1])

    module, example = Recurrent().eval(), torch.randn(2, 4, 3)
    symmetry = find_symmetry(module, example, verify=False)
    assert any("no rule" in note for note in symmetry.notes)
    assert symmetry.is_trivial or change(module, symmetry, example) < 1e-4


def test_what_is_not_understood_is_fixed_and_said() -> None:
    symmetry = find_symmetry(Unknown(), torch.randn(2, 5))
    assert any("fft" in note for note in symmetry.notes)


def test_what_cannot_be_traced_is_fixed_and_said() -> None:
    symmetry = find_symmetry(DataDependent(), torch.randn(2, 4))
    assert symmetry.is_trivial
    assert symmetry.notes[0].startswith("could not be traced")


def test_a_head_moves_as_a_block() -> None:
    """Permuting only heads permutes the rows of queries, keys and values by whole heads."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), Attention(8, 2), nn.Linear(8, 2)).eval()
    symmetry = find_symmetry(module, torch.randn(2, 5, 3))
    chosen = symmetry.identity()
    (heads,) = symmetry.blocks
    chosen.orders[heads].copy_(torch.tensor([1, 0]))
    before = module[1].qkv.weight.detach()
    after = symmetry.permute(dict(module.state_dict()), chosen)["1.qkv.weight"]
    for part in range(3):
        rows = before[8 * part : 8 * part + 8]
        assert torch.equal(after[8 * part : 8 * part + 8], torch.cat([rows[4:], rows[:4]]))
