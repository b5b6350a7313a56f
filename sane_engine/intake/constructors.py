"""The constructors a state dict may name, each as a function from arguments to an inert value.

This list is the whole trust boundary of a pickle: what is not in it is refused by name. None of the functions here
is the real one; ``torch._utils._rebuild_tensor_v2`` in a file only ever reaches :func:`_rebuild`, which writes down
a view. A few harmless records that training scripts like to save (``argparse.Namespace``, numpy scalars and arrays)
are understood as data, so that a file is not refused for the learning rate it mentions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sane_engine.intake import refusals
from sane_engine.intake.dtypes import FROM_NUMPY, FROM_STORAGE, ITEM_BYTES, QUANTISED_STORAGES, STRUCT_FORMAT
from sane_engine.intake.limits import Limits
from sane_engine.intake.sparse import rebuild_sparse
from sane_engine.intake.tree import Opaque, Storage, TensorView, row_major, view


@dataclass(frozen=True)
class Global:
    """A name that was looked up; ``path`` is its dotted form."""

    path: str


@dataclass(frozen=True)
class DType(Global):
    """``torch.float32`` and its like; ``name`` is the short name, empty where it is not supported."""

    name: str


@dataclass(frozen=True)
class StorageClass(Global):
    """``torch.FloatStorage`` and its like; ``item_bytes`` counts what the file counts."""

    dtype: str
    item_bytes: int


@dataclass(frozen=True)
class Layout:
    """How a tensor is stored: ``torch.strided``, ``torch.sparse_coo`` and so on."""

    name: str


@dataclass
class NumpyType:
    """A numpy dtype under construction: ``code`` such as ``"f4"``, then its byte order."""

    code: str
    big_endian: bool = False


@dataclass
class NumpyArray:
    """A numpy array; ``value`` comes with its state, after the pickle may already have referred to it."""

    value: TensorView | Opaque


@dataclass(eq=False)
class TypedStorage:
    """What a persistent id stands for: bytes with an element type, which is empty where the view brings its own."""

    storage: Storage
    dtype: str


def _storage_class(module: str, name: str) -> StorageClass | None:
    if module not in {"torch", "torch.storage", "torch.cuda"}:
        return None
    if name in FROM_STORAGE:
        dtype = FROM_STORAGE[name]
        return StorageClass(f"{module}.{name}", dtype, ITEM_BYTES[dtype] if dtype else 1)
    if name in QUANTISED_STORAGES:
        return StorageClass(f"{module}.{name}", "", QUANTISED_STORAGES[name])
    return None


QUANTISED = "quantised tensor"
"""What such a tensor is listed as."""

_ALIASES = {"half": "float16", "float": "float32", "double": "float64", "long": "int64", "int": "int32"}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Protocol 2, which torch uses, writes these modules under their old names."""

_CONSTANTS = {
    *(f"torch.{name}" for name in ("strided", "per_tensor_affine", "per_tensor_symmetric")),
    *(f"torch.sparse_{name}" for name in ("coo", "csr", "csc", "bsr", "bsc")),
    *(f"torch.per_channel_{name}" for name in ("affine", "symmetric", "affine_float_qparams")),
    *(f"builtins.{name}" for name in ("dict", "list", "int", "float", "str", "bool")),
    *("torch.Tensor", "torch.nn.parameter.Buffer", "numpy.ndarray"),
}
"""Names that may appear as an argument; calling them is refused."""


def plain_key(key: object) -> object:
    """A dict key as it is kept: strings, numbers and None, anything else by its type.

    A tuple's hash visits all of it every time, and tuples can share their parts exponentially often.
    """
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return key if isinstance(key, str | int | float | bool | None) else f"<{type(key).__name__} key>"


def lookup(module: str, name: str) -> Global:
    """The inert stand-in for ``module.name``.

    Raises:
        Refusal: ``pickled-code`` for every name that is not on the list.
    """
    module = _PYTHON_2.get(module, module)
    path = f"{module}.{name}"
    storage = _storage_class(module, name)
    if storage is not None:
        return storage
    if module == "torch" and _ALIASES.get(name, name) in ITEM_BYTES:
        return DType(path, _ALIASES.get(name, name))
    if module == "torch" and name in {"qint8", "quint8", "qint32", "quint4x2", "quint2x4", "float4_e2m1fn_x2"}:
        return DType(path, "")
    if path in _CONSTRUCTORS or path in _CONSTANTS:
        return Global(path)
    raise refusals.pickled_code(path)


def construct(function: object, arguments: tuple[Any, ...], limits: Limits) -> object:
    """What calling ``function`` would have described.

    Raises:
        Refusal: ``pickled-code`` if it is not a constructor from the list, ``damaged`` for arguments that no
            honest file has.
    """
    if not isinstance(function, Global):
        raise refusals.pickled_code("a computed function")
    builder = _CONSTRUCTORS.get(function.path)
    if builder is None:
        raise refusals.pickled_code(function.path)
    return builder(arguments, limits)


def set_state(target: object, state: object) -> object:
    """What ``target.__setstate__(state)`` or ``target.__dict__.update(state)`` would have described."""
    if isinstance(target, NumpyType) and isinstance(state, tuple) and len(state) > 1:
        target.big_endian = state[1] == ">"
        return target
    if isinstance(target, NumpyArray) and isinstance(state, tuple) and len(state) == 5:
        target.value = _numpy_array(state)
        return target
    if isinstance(target, _Record) and isinstance(state, dict):
        target.update(state)
    # An OrderedDict's _metadata, attributes of a parameter: nothing a checkpoint keeps.
    return target


class _Record(dict[str, object]):
    """Attributes of an ``argparse.Namespace``."""


def _rebuild(arguments: tuple[Any, ...], limits: Limits) -> object:
    typed, offset, shape, stride = arguments[:4]
    if not isinstance(typed, TypedStorage):
        raise refusals.damaged("a tensor without data")
    dtype = arguments[6].name if len(arguments) > 6 and isinstance(arguments[6], DType) else typed.dtype
    metadata = arguments[-1] if len(arguments) > 6 else None
    if isinstance(metadata, dict) and (metadata.get("conj") or metadata.get("neg")):
        # The storage holds the values before a conjugation or change of sign that torch has put off.
        return Opaque("tensor whose sign or conjugate is not yet applied")
    if not dtype:
        return Opaque("tensor of a type that is not read")
    return view(typed.storage, dtype, shape, stride, offset, limits)


def _rebuild_from_type(arguments: tuple[Any, ...], limits: Limits) -> object:
    function, _type, inner, _state = arguments
    return construct(function, inner, limits)


def _first(arguments: tuple[Any, ...], _limits: Limits) -> object:
    value = arguments[0]
    if not isinstance(value, TensorView | Opaque):
        raise refusals.damaged("a parameter without a tensor")
    return value


def _layout(arguments: tuple[Any, ...], _limits: Limits) -> object:
    return Layout(str(arguments[0]))


def _rebuild_sparse(arguments: tuple[Any, ...], limits: Limits) -> object:
    layout, data = arguments
    name = layout.path if isinstance(layout, Global) else layout.name if isinstance(layout, Layout) else ""
    if not isinstance(data, tuple):
        raise refusals.damaged("a sparse tensor lacks a part")
    if any(isinstance(part, Opaque) for part in data):
        return Opaque("sparse tensor of a type that is not read")
    return rebuild_sparse(name, data, limits)


def _ordered_dict(arguments: tuple[Any, ...], _limits: Limits) -> object:
    return {plain_key(key): value for key, value in (arguments[0] if arguments else [])}


def _counter(arguments: tuple[Any, ...], _limits: Limits) -> object:
    # Counter(counts); defaultdict(factory, …) has its factory dropped and gets its items afterwards.
    return dict(arguments[0]) if arguments and isinstance(arguments[0], dict) else {}


def _set(arguments: tuple[Any, ...], _limits: Limits) -> object:
    # A list, because its members may be anything and hashing them is the file's code path, not ours.
    return arguments[0] if arguments and isinstance(arguments[0], list) else []


def _numpy_scalar(arguments: tuple[Any, ...], _limits: Limits) -> object:
    kind, data = arguments
    name = FROM_NUMPY.get(kind.code, "") if isinstance(kind, NumpyType) else ""
    if name not in STRUCT_FORMAT or not isinstance(data, bytes):
        return Opaque("numpy value")
    return struct.unpack((">" if kind.big_endian else "<") + STRUCT_FORMAT[name], data)[0]


def _numpy_array(state: tuple[Any, ...]) -> TensorView | Opaque:
    _version, shape, kind, fortran, data = state
    name = FROM_NUMPY.get(kind.code, "") if isinstance(kind, NumpyType) else ""
    if not name or not isinstance(data, bytes) or not isinstance(shape, tuple):
        return Opaque("numpy array that is not numeric")
    stride = row_major(shape[::-1])[::-1] if fortran else row_major(shape)
    storage = Storage(len(data), _not_located, kind.big_endian, inline=data)
    return view(storage, name, shape, stride, 0, Limits())


def _not_located() -> Any:
    raise AssertionError("an inline storage carries its own bytes")


def _numpy_type(arguments: tuple[Any, ...], _limits: Limits) -> object:
    return NumpyType(str(arguments[0]))


def _encode(arguments: tuple[Any, ...], _limits: Limits) -> object:
    # How protocol 2 writes bytes: a string and the name of the encoding, always latin-1.
    text, encoding = (*arguments, "latin1")[:2]
    if not isinstance(text, str) or encoding not in {"latin1", "latin-1"}:
        raise refusals.pickled_code("_codecs.encode")
    return text.encode("latin-1")


def _opaque(kind: str) -> Callable[[tuple[Any, ...], Limits], object]:
    return lambda _arguments, _limits: Opaque(kind)


def _size(arguments: tuple[Any, ...], _limits: Limits) -> object:
    return tuple(arguments[0]) if arguments and isinstance(arguments[0], tuple | list) else ()


_CONSTRUCTORS: dict[str, Callable[[tuple[Any, ...], Limits], object]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.nn.parameter.Parameter": _first,
    "torch._utils._rebuild_sparse_tensor": _rebuild_sparse,
    "torch._utils._rebuild_qtensor": _opaque(QUANTISED),
    "torch._utils._rebuild_meta_tensor_no_storage": _opaque("tensor without data"),
    "torch.serialization._get_layout": _layout,
    "torch.Size": _size,
    "torch.device": _opaque("device"),
    "collections.OrderedDict": _ordered_dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "collections.defaultdict": _counter,
    "collections.Counter": _counter,
    "argparse.Namespace": lambda _arguments, _limits: _Record(),
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_type,
    **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
    **{
        f"numpy.{core}.multiarray._reconstruct": lambda _a, _l: NumpyArray(Opaque("numpy array without data"))
        for core in ("core", "_core")
    },
}
