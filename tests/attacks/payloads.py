"""Pickles that run something when they are unpickled: each creates the marker file, and each must be refused."""

from __future__ import annotations

import functools
import io
import os
import pathlib
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .case import Case
from .makers import Payload, rewritten, torch_bytes, zip_bytes

STATE = {"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.bias": torch.ones(3)}


class Calls:
    """Unpickles by calling ``function(*arguments)``, with an optional state afterwards."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> tuple[object, ...]:
        call = (self.function, self.arguments)
        return call if self.state is None else (*call, self.state)


def _touch(marker: Path) -> str:
    return f"import pathlib; pathlib.Path({str(marker)!r}).touch()"


def _beside_weights(payload: Callable[[Path], object], *, legacy: bool = False) -> Callable[[Path], bytes]:
    return lambda marker: torch_bytes({"state_dict": STATE, "extra": payload(marker)}, legacy=legacy)


def _shell(marker: Path) -> Calls:
    return Calls(os.system, f"touch '{marker}'")


def _popen(marker: Path) -> Calls:
    import subprocess

    return Calls(subprocess.check_call, ["touch", str(marker)])


def _evaluated(marker: Path) -> Calls:
    return Calls(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()")


def _bound_method(marker: Path) -> Calls:
    return Calls(getattr(pathlib.Path(marker), "touch"))  # noqa: B009  # pickled as getattr(path, "touch")


def _partial(marker: Path) -> Calls:
    return Calls(functools.partial(exec, _touch(marker)))


def _mapped(marker: Path) -> Calls:
    return Calls(list, Calls(map, exec, [_touch(marker)]))


def _opened(marker: Path) -> Calls:
    return Calls(open, str(marker), "w")


def _from_type(marker: Path) -> Calls:
    return Calls(torch._tensor._rebuild_from_type_v2, exec, str, (_touch(marker),), None)


def _hooks(marker: Path) -> Calls:
    return Calls(torch._utils._rebuild_parameter, torch.ones(1), False, Payload(marker))


def _ordered(marker: Path) -> Calls:
    return Calls(OrderedDict, [("a", Payload(marker))])


def _state(marker: Path) -> Calls:
    return Calls(OrderedDict, state=Payload(marker))


def _as_key(marker: Path) -> bytes:
    # {exec(...): 1}: the key itself is the call.
    program = f"\x80\x02}}cbuiltins\nexec\n(X{{}}{_touch(marker)}tRK\x01s."
    head, tail = program.split("{}", 1)
    text = _touch(marker).encode()
    return head.encode("latin-1") + struct.pack("<I", len(text)) + tail.encode("latin-1")


def _in_storage_key(marker: Path) -> bytes:
    """A persistent id whose key is a call: torch finds the data of a tensor by it."""
    text = _touch(marker).encode()
    call = b"cbuiltins\nexec\n(X" + struct.pack("<I", len(text)) + text + b"tR"
    head = b"\x80\x02}X\x01\x00\x00\x00w(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    return head + call + b"X\x03\x00\x00\x00cpuK\x04tQs."


def _in_the_system_info(marker: Path) -> bytes:
    """A legacy file whose third pickle, the description of the machine, is the payload."""
    magic, protocol = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    return magic + protocol + pickle.dumps(Payload(marker), 2) + torch_bytes(STATE, legacy=True)


def _object_array(marker: Path) -> bytes:
    array = np.empty(1, dtype=object)
    array[0] = Payload(marker)
    buffer = io.BytesIO()
    np.savez(buffer, w=array)
    return buffer.getvalue()


def _in_memo(marker: Path) -> bytes:
    """``exec`` comes out of the memo, long after it was put there under an innocent stretch of numbers."""
    text = _touch(marker).encode()
    call = b"X" + struct.pack("<I", len(text)) + text + b"\x85R"
    return b"\x80\x02cbuiltins\nexec\nq\x000]" + b"K\x01a" * 500 + b"0h\x00" + call + b"."


def _by_stack_global(marker: Path) -> bytes:
    text = _touch(marker).encode()
    call = b"X" + struct.pack("<I", len(text)) + text + b"\x85R."
    return b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93" + call


def _by_inst(marker: Path) -> bytes:
    return f"(S{_touch(marker)!r}\nibuiltins\nexec\n.".encode()


def _by_obj(marker: Path) -> bytes:
    text = _touch(marker).encode()
    return b"\x80\x02(cbuiltins\nexec\nX" + struct.pack("<I", len(text)) + text + b"o."


def _by_build(marker: Path) -> bytes:
    """``BUILD`` calls ``__setstate__``, which an instance's dict may name: here it is the shell's entry."""
    text = f"touch '{marker}'".encode()
    head = b"\x80\x02cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb"
    return head + b"X" + struct.pack("<I", len(text)) + text + b"b."


def _renamed(name: str, data: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    return lambda marker: zip_bytes({name: data(marker)})


_BESIDE: dict[str, Callable[[Path], object]] = {
    "exec": Payload,
    "os.system": _shell,
    "subprocess": _popen,
    "eval": _evaluated,
    "a bound method": _bound_method,
    "functools.partial": _partial,
    "map": _mapped,
    "open for writing": _opened,
    "_rebuild_from_type_v2 as a trampoline": _from_type,
    "a parameter's hooks": _hooks,
    "items of an OrderedDict": _ordered,
    "state of an OrderedDict": _state,
}

_PROGRAMS: dict[str, Callable[[Path], bytes]] = {
    "a call as key": _as_key,
    "a call out of the memo": _in_memo,
    "STACK_GLOBAL": _by_stack_global,
    "INST": _by_inst,
    "OBJ": _by_obj,
    "BUILD with a hand-made __setstate__": _by_build,
}


def cases() -> list[Case]:
    """Every payload in every wrapping that can carry it."""
    found = [
        Case(f"payload, torch zip: {name}", "payload", _beside_weights(make), "pickled-code", armed=True)
        for name, make in _BESIDE.items()
    ]
    found += [
        Case(f"payload, plain pickle: {name}", "payload", make, "pickled-code", armed=True)
        for name, make in _PROGRAMS.items()
    ]

    def in_zip(program: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
        return lambda marker: rewritten(torch_bytes(STATE), {"data.pkl": program(marker)})

    found += [
        Case(f"payload, torch zip: {name}", "payload", in_zip(_PROGRAMS[name]), "pickled-code", armed=True)
        for name in ("a call as key", "a call out of the memo", "BUILD with a hand-made __setstate__")
    ]
    for protocol in range(6):

        def dumped(marker: Path, protocol: int = protocol) -> bytes:
            return pickle.dumps({"weights": [1.0], "extra": Payload(marker)}, protocol)

        found.append(
            Case(f"payload, plain pickle: protocol {protocol}", "payload", dumped, "pickled-code", armed=True)
        )
    legacy = _beside_weights(Payload, legacy=True)
    current = _beside_weights(Payload)
    found += [
        Case("payload, torch legacy: beside the weights", "payload", legacy, "pickled-code", armed=True),
        Case(
            "payload, torch legacy: in the system info", "payload", _in_the_system_info, "pickled-code", armed=True
        ),
        Case(
            "payload, torch zip: in a storage's key", "payload", in_zip(_in_storage_key), "pickled-code", armed=True
        ),
        Case("payload, npz: array of objects", "payload", _object_array, "no-tensors", armed=True),
        Case("payload in a zip", "payload", _renamed("a.pt", current), "pickled-code"),
        Case("payload in a zip in a zip", "payload", _renamed("b.zip", _renamed("a.pt", current)), "pickled-code"),
        Case("payload called .safetensors", "payload", _renamed("a.safetensors", current), "pickled-code"),
    ]
    return found
