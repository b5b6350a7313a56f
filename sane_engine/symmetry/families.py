"""The symmetry of a state dict that comes without its module: known families, told by names and proven by shapes.

A family rebuilds a module from the tensors' names and shapes; the module's own state dict must then have exactly
the same names and shapes. Which activation stood between two layers cannot be seen, so no sign flips are claimed,
and what shapes cannot show (a skip connection, how a shortcut without weights pads) is left out: see ``chains`` and
``resnets``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from sane_engine.symmetry.chains import chain
from sane_engine.symmetry.rebuilding import Rebuilt, Shapes, Unknown
from sane_engine.symmetry.resnets import resnet
from sane_engine.symmetry.restricting import without_signs
from sane_engine.symmetry.spec import Symmetry
from sane_engine.symmetry.tracing import find_symmetry

_UNKNOWN = "unknown: not aligned"

# How pytorchcv calls what torchvision calls otherwise; the last part of a name (weight, bias …) stays.
_PYTORCHCV_RESNET = (
    (r"features\.init_block(?:\.conv)?\.conv", "conv1"),
    (r"features\.init_block(?:\.conv)?\.bn", "bn1"),
    (r"features\.stage(\d+)\.unit(\d+)\.body\.conv(\d+)\.(conv|bn)", r"layer\1.\2.\4\3"),
    (r"features\.stage(\d+)\.unit(\d+)\.identity_conv\.conv", r"layer\1.\2.downsample.0"),
    (r"features\.stage(\d+)\.unit(\d+)\.identity_conv\.bn", r"layer\1.\2.downsample.1"),
    (r"output", "fc"),
)
_PYTORCHCV_VGG = (
    (r"features\.stage(\d+)\.unit(\d+)\.conv", r"features.\g<1>0\g<2>0"),
    (r"features\.stage(\d+)\.unit(\d+)\.bn", r"features.\g<1>0\g<2>1"),
    (r"output\.fc(\d+)(?:\.fc)?", r"classifier.\1"),
)
_DIALECTS = ((), _PYTORCHCV_RESNET, _PYTORCHCV_VGG)


def symmetry_of_tensors(tensors: Mapping[str, Tensor], *, padded_shortcuts: bool = False) -> Symmetry:
    """The symmetry of a plain chain (MLP, CNN, VGG) or a ResNet, from its state dict alone.

    Args:
        tensors: Tensor name → tensor, in file order.
        padded_shortcuts: A promise that cannot be read off the tensors: where a ResNet's shortcut has no weights,
            it pads channels with zeros, as many in front as behind (option A of the CIFAR ResNets). Without it the
            residual stream of such a network stays fixed.

    Returns:
        The symmetry without sign flips; a trivial one whose note says "unknown: not aligned" where no family fits.
        Where names and shapes leave several structures possible it is right for all of them, and a note says so.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    families: Mapping[str, Callable[[Shapes], Rebuilt]] = {
        "chain": chain,
        "ResNet": partial(resnet, padded=padded_shortcuts),
    }
    reasons = []
    for dialect in _DIALECTS:
        names = _translated(shapes, dialect)
        if names is None:
            continue
        for family, build in families.items():
            try:
                found = _prove(build, {names[name]: shape for name, shape in shapes.items()})
            except (Unknown, IndexError, KeyError, ValueError, RuntimeError) as error:
                reasons.append(f"{family}: {error}")
                continue
            original = {new: old for old, new in names.items()}
            return replace(found, tensors={original[name]: axes for name, axes in found.tensors.items()})
    return Symmetry((), (), {}, (f"{_UNKNOWN} ({'; '.join(reasons)})",))


def _translated(names: Iterable[str], dialect: Iterable[tuple[str, str]]) -> dict[str, str] | None:
    """Each name in torchvision's words; ``None`` where one has no translation, or two have the same."""
    rules = [(re.compile(rf"{pattern}\.(\w+)$"), to) for pattern, to in dialect]
    translated = {}
    for name in names:
        match, to = next(((m, to) for rule, to in rules if (m := rule.match(name))), (None, ""))
        if rules and match is None:
            return None
        translated[name] = name if match is None else f"{match.expand(to)}.{match[match.lastindex or 0]}"
    return translated if len(set(translated.values())) == len(translated) else None


def _prove(build: Callable[[Shapes], Rebuilt], shapes: Shapes) -> Symmetry:
    rebuilt = build(shapes)
    own = {name: tuple(tensor.shape) for name, tensor in rebuilt.module.state_dict().items()}
    counters = {name for name in own if name.endswith("num_batches_tracked") and name not in shapes}
    if {name: shape for name, shape in own.items() if name not in counters} != shapes:
        raise Unknown("the rebuilt module has other tensors")
    found = find_symmetry(rebuilt.module, rebuilt.example)
    if found.is_trivial and found.notes:
        raise Unknown(found.notes[0])
    return rebuilt.restrict(without_signs(found))
