"""ONNX files written by the onnx package itself give the arrays that the package reads back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sane_engine.checkpoint import Refusal
from sane_engine.intake import Limits, list_tensors, load_checkpoint

TYPES = {
    "float": (TensorProto.FLOAT, np.float32),
    "double": (TensorProto.DOUBLE, np.float64),
    "half": (TensorProto.FLOAT16, np.float16),
    "int64": (TensorProto.INT64, np.int64),
    "int32": (TensorProto.INT32, np.int32),
    "int16": (TensorProto.INT16, np.int16),
    "int8": (TensorProto.INT8, np.int8),
    "uint8": (TensorProto.UINT8, np.uint8),
    "uint32": (TensorProto.UINT32, np.uint32),
    "uint64": (TensorProto.UINT64, np.uint64),
    "bool": (TensorProto.BOOL, np.bool_),
    "complex": (TensorProto.COMPLEX64, np.complex64),
}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {name: (rng.normal(size=(3, 4)) * 9).astype(kind) for name, (_, kind) in TYPES.items() if name[0] != "u"}
    made |= {name: rng.integers(0, 200, (3, 4)).astype(TYPES[name][1]) for name in TYPES if name[0] == "u"}
    return {name: made[name] for name in TYPES}


def model(tensors: list[TensorProto]) -> onnx.ModelProto:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    into = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    made = helper.make_model(helper.make_graph([node], "net", [into], [out], initializer=tensors))
    helper.set_model_props(made, {"accuracy": "0.9", "note": "hello"})
    return made


@pytest.mark.parametrize("raw", [True, False])
def test_every_type_in_both_spellings(raw: bool) -> None:
    given = arrays()
    tensors = [
        numpy_helper.from_array(array, name)
        if raw
        else helper.make_tensor(name, TYPES[name][0], array.shape, array.flatten())
        for name, array in given.items()
    ]
    data = model(tensors).SerializeToString()
    found = load_checkpoint(data)
    assert found.provenance.container == "onnx"
    assert found.properties == {"accuracy": 0.9, "note": "hello"}
    assert list(found.tensors) == list(given)
    for tensor in tensors:
        expected = numpy_helper.to_array(tensor)
        assert np.array_equal(found.tensors[tensor.name].numpy(), expected)
        assert found.tensors[tensor.name].numpy().dtype == expected.dtype


def test_external_data_beside_the_file_and_nowhere_else(tmp_path: Path) -> None:
    given = {"a": np.arange(4000, dtype=np.float32).reshape(40, 100), "b": np.ones(3000, dtype=np.float32)}
    made = model([numpy_helper.from_array(array, name) for name, array in given.items()])
    path = tmp_path / "net.onnx"
    onnx.save(made, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    found = load_checkpoint(path)
    assert all(np.array_equal(found.tensors[name].numpy(), array) for name, array in given.items())
    assert found.provenance.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    with pytest.raises(Refusal) as caught:
        load_checkpoint(path.read_bytes())
    assert caught.value.code == "external-data"
    with pytest.raises(Refusal) as caught:
        load_checkpoint(path, alone=True)
    assert caught.value.code == "external-data"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "net.onnx.data").rename(tmp_path / "elsewhere" / "net.onnx.data")
    (tmp_path / "net.onnx.data").symlink_to(tmp_path / "elsewhere" / "net.onnx.data")
    with pytest.raises(Refusal) as caught:
        load_checkpoint(path)
    assert caught.value.code == "external-data"


def test_the_data_is_not_copied_to_be_counted() -> None:
    data = model([numpy_helper.from_array(np.zeros(3_000_000, np.float32), "w")]).SerializeToString()
    assert list_tensors(data, limits=Limits(literal_bytes=1000))[0].shape == (3_000_000,)
