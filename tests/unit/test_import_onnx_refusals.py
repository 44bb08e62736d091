"""ONNX files that are well formed and wrong: each ends in one clear error, found by mutating fields of good files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.onnx_builder import Builder

from lab.compiler.importers import import_graph
from lab.errors import CompileError

onnx = pytest.importorskip("onnx", reason="onnx, which reads the files, is not installed")


def refused(model: onnx.ModelProto, folder: Path) -> str:
    """The message of the refusal."""
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CompileError) as refusal:
        import_graph(folder / "m.onnx")
    return refusal.value.message


def convolution(**attributes: object) -> onnx.ModelProto:
    build = Builder()
    weights = build.weights(np.ones((2, 2, 3, 3), np.int8), np.full(2, 0.01, np.float32))
    value = build.node("Conv", build.quantized("x", 0.1, 0), weights, **attributes)
    return build.model([1, 2, 6, 6], build.quantized(value, 0.1, 0), 0)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"group": math.nan}, "attribute 'group' is no integer"),
        ({"strides": 2}, "attribute 'strides' is no list of integers"),
        ({"auto_pad": 3}, "attribute 'auto_pad' is no string"),
        ({"pads": [-1, 0, 0, 0]}, "not supported"),
        ({"strides": [1 << 40, 1]}, "not supported"),
        ({"dilations": [0, 1]}, "not supported"),
        ({"group": 0}, "0 groups"),
        ({"auto_pad": "SOMEWHERE"}, "auto_pad SOMEWHERE"),
        ({"dilations": [3, 3]}, "larger than its input"),
    ],
)
def test_attributes(tmp_path: Path, attributes: dict[str, object], message: str) -> None:
    told = refused(convolution(**attributes), tmp_path)
    assert message in told
    assert "node 3, Conv" in told
    assert "1 operator refused" in told, "what follows the refused operator is not at fault"


def test_axis_of_scales_outside_the_weights(tmp_path: Path) -> None:
    for axis in (9, -9):
        build = Builder()
        scales = np.full(2, 0.01, np.float32)
        weights = build.weights(np.ones((4, 2), np.int8), scales, axis)
        value = build.node("MatMul", build.quantized("x", 0.1, 0), weights)
        model = build.model([1, 4], build.quantized(value, 0.1, 0), 2)
        assert "2 scales along axis" in refused(model, tmp_path)


def test_constants_of_other_types(tmp_path: Path) -> None:
    build = Builder()
    image = build.quantized("x", 0.1, 0)
    shape = build.constant(np.array([b"one", b"two"], object))
    model = build.model([1, 2, 3, 3], build.node("Reshape", image, shape), 18)
    assert "numbers are read" in refused(model, tmp_path)
    build = Builder()
    shape = build.constant(np.array([1.0, math.nan], np.float32))
    model = build.model([1, 2, 3, 3], build.node("Reshape", build.quantized("x", 0.1, 0), shape), 18)
    assert "integers are needed" in refused(model, tmp_path)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 1e-300])
def test_scales(tmp_path: Path, scale: float) -> None:
    build = Builder()
    parameters = (build.constant(np.float64(scale)), build.constant(np.array(0, np.int8)))
    value = build.node("DequantizeLinear", build.node("QuantizeLinear", "x", *parameters), *parameters)
    assert "is not int8's" in refused(build.model([1, 4], value, 4), tmp_path)


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1.0), (2.0, 1.0)])
def test_bounds_of_clip(tmp_path: Path, low: float, high: float) -> None:
    build = Builder()
    bounds = (build.constant(np.float32(low)), build.constant(np.float32(high)))
    value = build.node("Clip", build.quantized("x", 0.1, 0), *bounds)
    assert "Clip" in refused(build.model([1, 4], value, 4), tmp_path)


def written_twice(build: Builder, value: str) -> None:
    build.nodes[-1].output[0] = value


def reads_a_constant(build: Builder, value: str) -> None:
    build.nodes[-1].input[0] = build.constant(np.ones((1, 4), np.float32))


@pytest.mark.parametrize(
    ("change", "message"), [(written_twice, "written twice"), (reads_a_constant, "is a constant; an activation")]
)
def test_names(tmp_path: Path, change: Callable[[Builder, str], None], message: str) -> None:
    build = Builder()
    value = build.quantized("x", 0.1, 0)
    build.node("Relu", value)
    change(build, value)
    assert message in refused(build.model([1, 4], build.nodes[-1].output[0], 4), tmp_path)


def test_quantised_in_two_ways(tmp_path: Path) -> None:
    """One value, two grids: of the input and of a layer."""
    build = Builder()
    pair = build.quantized("x", 0.1, 0), build.quantized("x", 0.2, 0)
    model = build.model([1, 4], build.quantized(build.node("Add", *pair), 0.3, 0), 4)
    assert "input is quantised in two ways" in refused(model, tmp_path)
    build = Builder()
    one = build.quantized("x", 0.1, 0)
    total = build.node("Add", one, one)
    pair = build.quantized(total, 0.2, 0), build.quantized(total, 0.4, 0)
    model = build.model([1, 4], build.quantized(build.node("Add", *pair), 0.5, 0), 4)
    assert "used in two forms" in refused(model, tmp_path)


def test_scales_too_far_apart(tmp_path: Path) -> None:
    build = Builder()
    value = build.quantized(build.quantized("x", 3e38, 0), 0.1, 0)
    assert "multiplier must be below" in refused(build.model([1, 4], value, 4), tmp_path)


def test_int8_input_without_quantize(tmp_path: Path) -> None:
    """A file whose input is int8 begins with DequantizeLinear."""
    build = Builder()
    parameters = (build.constant(np.float32(0.1)), build.constant(np.array(3, np.int8)))
    value = build.node("Relu", build.node("DequantizeLinear", "x", *parameters))
    output = build.quantized(value, 0.1, 3)
    model = build.model([1, 4], output, 4)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    graph = import_graph(tmp_path / "m.onnx")
    samples = np.array([[-128, 0, 3, 127]], np.int8)
    np.testing.assert_array_equal(graph.run_integer(samples), [[3, 3, 3, 127]])
