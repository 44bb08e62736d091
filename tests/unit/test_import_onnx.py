"""ONNX files against ONNX's own reference evaluator: QDQ int8 to a step of the output, float32 after quantisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.onnx_builder import Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.compiler.host import TRAP_UNDEFINED, HostModel
from lab.compiler.importers import import_graph, import_model
from lab.errors import CompileError

onnx = pytest.importorskip("onnx", reason="onnx, which reads the files, is not installed")

Float = npt.NDArray[np.float32]
EXAMPLES = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**31)
SAMPLES = 8


def reference(model: onnx.ModelProto, samples: Float) -> Float:
    """ONNX's own evaluator on NCHW samples; ``(n, outputs)``."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return np.concatenate([evaluator.run(None, {"x": sample[None]})[0].reshape(1, -1) for sample in samples])


def nhwc(samples: Float) -> Float:
    return np.ascontiguousarray(samples.transpose(0, 2, 3, 1)) if samples.ndim == 4 else samples


def nchw_rows(rows: Float, shape: tuple[int, ...]) -> Float:
    """Flat NHWC outputs as flat NCHW ones."""
    return rows.reshape(-1, *shape).transpose(0, 3, 1, 2).reshape(len(rows), -1) if len(shape) == 3 else rows


def steps_off(model: onnx.ModelProto, samples: Float, folder: Path) -> npt.NDArray[np.float64]:
    """Difference to the reference evaluator in steps of the output's scale."""
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    compiled, graph = import_model(folder / "m.onnx")
    outputs = graph.run_integer(compiled.input.quantize(nhwc(samples)))
    real = nchw_rows(compiled.output.dequantize(outputs), graph.shapes[graph.output])
    return np.abs(real - reference(model, samples)) / compiled.output.scale


def int8(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    return rng.integers(-127, 128, shape, dtype=np.int8)


def assert_one_rounding(off: npt.NDArray[np.float64]) -> None:
    """Results of linear layers: only what lies on a half can be rounded to the other side."""
    assert off.max() <= 1.001
    assert np.sum(off > 0.001) <= max(2, 0.02 * off.size)


@given(SEEDS, st.sampled_from([np.int8, np.uint8]))
@EXAMPLES
def test_convolution(tmp_path_factory: pytest.TempPathFactory, seed: int, dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    channels, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, 2).tolist()
    build = Builder()
    source = build.quantized("x", 0.05, 3 if dtype is np.int8 else 131, dtype)
    scales = rng.uniform(0.001, 0.02, outputs).astype(np.float32)
    weights = build.weights(int8(rng, outputs, channels // groups, *kernel), scales)
    bias = build.weights(rng.integers(-900, 900, outputs).astype(np.int32), (scales * np.float32(0.05)))
    value = build.node(
        "Conv",
        source,
        weights,
        bias,
        group=groups,
        strides=rng.integers(1, 3, 2).tolist(),
        pads=rng.integers(0, 2, 4).tolist(),
        dilations=[1, 1] if rng.random() < 0.6 else [2, 1],
    )
    if rng.random() < 0.5:
        value = build.node("Relu", value)
    output = build.quantized(value, 0.07, -100 if dtype is np.int8 else 28, dtype)
    model = build.model([1, channels, 7, 8], output, 0)
    samples = rng.normal(0, 2, (SAMPLES, channels, 7, 8)).astype(np.float32)
    # Two roundings: a step beside the nearest value is possible wherever a channel comes near to a half.
    assert steps_off(model, samples, tmp_path_factory.mktemp("conv")).max() <= 1.001


@given(SEEDS, st.booleans())
@EXAMPLES
def test_gemm_behind_flatten(tmp_path_factory: pytest.TempPathFactory, seed: int, transposed: bool) -> None:
    """The columns of the linear layer follow the order of the image in memory."""
    rng = np.random.default_rng(seed)
    channels, height, width = (int(size) for size in rng.integers(1, 5, 3))
    inputs, outputs = channels * height * width, int(rng.integers(1, 7))
    build = Builder()
    flat = build.node("Flatten", build.quantized("x", 0.05, -3))
    shape, axis = ((outputs, inputs), 0) if transposed else ((inputs, outputs), 1)
    weights = build.weights(int8(rng, *shape), rng.uniform(0.001, 0.02, outputs).astype(np.float32), axis)
    bias = build.constant(rng.normal(0, 1, outputs).astype(np.float32))
    value = build.node("Gemm", build.quantized(flat, 0.05, -3), weights, bias, transB=int(transposed))
    output = build.quantized(build.node("Clip", value, build.constant(np.float32(-1.5))), 0.04, 5)
    model = build.model([1, channels, height, width], output, outputs)
    samples = rng.normal(0, 2, (SAMPLES, channels, height, width)).astype(np.float32)
    assert_one_rounding(steps_off(model, samples, tmp_path_factory.mktemp("gemm")))


@pytest.mark.parametrize(
    ("code", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 1, 0, 1]}),
        ("AveragePool", {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [1, 0, 0, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("GlobalAveragePool", {}),
    ],
)
def test_pool(tmp_path: Path, code: str, attributes: dict[str, object]) -> None:
    rng = np.random.default_rng(2)
    build = Builder()
    value = build.node(code, build.quantized("x", 0.05, 7), **attributes)
    model = build.model([1, 3, 6, 7], build.quantized(value, 0.05, 7), 0)
    samples = rng.normal(0, 2, (SAMPLES, 3, 6, 7)).astype(np.float32)
    off = steps_off(model, samples, tmp_path)
    # A mean that falls on a half is rounded away from zero here (as TFLite does) and to even there.
    assert off.max() <= 1.001
    assert np.mean(off > 0.001) < (0.0 if code == "MaxPool" else 0.15) + 1e-9


def qdq_network(rng: np.random.Generator) -> onnx.ModelProto:
    """A residual network with every kind of layer."""
    build = Builder()

    def conv(value: str, inputs: int, outputs: int, scale: float, groups: int = 1, size: int = 3) -> str:
        scales = rng.uniform(0.004, 0.01, outputs).astype(np.float32)
        weights = build.weights(int8(rng, outputs, inputs // groups, size, size), scales)
        bias = build.constant(rng.normal(0, 0.1, outputs).astype(np.float32))
        made = build.node("Conv", value, weights, bias, group=groups, pads=[size // 2] * 4)
        return build.quantized(build.node("Relu", made), scale, -128)

    first = conv(build.quantized("x", 0.03, 2), 3, 6, 0.2)
    second = conv(first, 6, 6, 0.4, groups=6)
    total = build.quantized(build.node("Add", first, second), 0.5, -120)
    pooled = build.node("MaxPool", total, kernel_shape=[2, 2], strides=[2, 2])
    third = conv(build.quantized(pooled, 0.5, -120), 6, 4, 1.0, size=1)
    mean = build.quantized(build.node("GlobalAveragePool", third), 1.0, -128)
    flat = build.quantized(build.node("Flatten", mean), 1.0, -128)
    weights = build.weights(int8(rng, 5, 4), np.full(1, 0.01, np.float32).reshape(()))
    scores = build.quantized(build.node("Gemm", flat, weights, transB=1), 0.3, 0)
    output = build.quantized(build.node("Softmax", scores, axis=1), 1 / 256, -128)
    return build.model([1, 3, 8, 8], output, 5)


def test_network_in_c_equals_the_evaluator_layer_by_layer(tmp_path: Path) -> None:
    """Every layer on the evaluator's own inputs, so that a step in one is not counted again in the next."""
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(4)
    model = qdq_network(rng)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    compiled, graph = import_model(tmp_path / "net.onnx", name="net")
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    names = [node.output[0] for node in quantizers]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None) for name in names)
    evaluator = ReferenceEvaluator(model)
    samples = rng.normal(0, 1.5, (40, 3, 8, 8)).astype(np.float32)
    runs = [evaluator.run(None, {"x": sample[None]})[1:] for sample in samples]
    found = {name: nhwc(np.concatenate([run[index] for run in runs])) for index, name in enumerate(names)}
    # Layers that keep their scale need no QuantizeLinear: their value stands under their own name.
    found |= {node.input[0]: found[node.output[0]] for node in quantizers}
    quantised = compiled.input.quantize(nhwc(samples))
    np.testing.assert_array_equal(quantised, found[names[0]])
    values = {graph.input: torch.from_numpy(quantised.astype(np.int64))}
    for node in graph.nodes:
        result = node.operator.run([values[name] for name in node.inputs])
        if node.output in found:
            expected = torch.from_numpy(found[node.output].astype(np.int64)).reshape(result.shape)
            assert int((result - expected).abs().max()) <= 1, node.name
            assert float((result != expected).double().mean()) < 0.05, node.name
            result = expected
        values[node.output] = result
    assert [layer.operator for layer in compiled.layers] == [
        "conv2d", "depthwise_conv2d", "add", "max_pool2d", "conv2d", "avg_pool2d", "linear", "softmax",
    ]  # fmt: skip
    outputs = HostModel(compiled, tmp_path, flags=["-O2", *TRAP_UNDEFINED]).run(quantised, arena_fill=0xA5)
    np.testing.assert_array_equal(outputs, graph.run_integer(quantised))
    assert len(np.unique(outputs, axis=0)) > 10, "the inputs do not exercise the model"


def float_network(rng: np.random.Generator) -> onnx.ModelProto:
    build = Builder()

    def constant(*shape: int) -> str:
        return build.constant(rng.normal(0, 0.4, shape).astype(np.float32))

    value = build.node("Conv", "x", constant(4, 2, 3, 3), constant(4), pads=[1, 1, 1, 1])
    statistics = [constant(4), constant(4), constant(4), build.constant(np.full(4, 0.7, np.float32))]
    value = build.node("Relu", build.node("BatchNormalization", value, *statistics))
    value = build.node("Flatten", build.node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2]))
    return build.model([1, 2, 6, 6], build.node("Gemm", value, constant(3, 36), constant(3), transB=1), 3)


def test_float_file_is_quantised_with_calibration(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    model = float_network(rng)
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    samples = rng.normal(0, 1, (64, 2, 6, 6)).astype(np.float32)
    compiled, graph = import_model(tmp_path / "f.onnx", calibration=nhwc(samples))
    found = compiled.output.dequantize(graph.run_integer(compiled.input.quantize(nhwc(samples))))
    expected = reference(model, samples)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.03 * (expected.max() - expected.min())
    with pytest.raises(CompileError, match="computes in float32"):
        import_graph(tmp_path / "f.onnx")


def test_all_unsupported_operators_are_listed_with_their_places(tmp_path: Path) -> None:
    build = Builder()
    value = build.node("Sin", build.node("Relu", build.node("Tan", "x")))
    (tmp_path / "m.onnx").write_bytes(build.model([1, 4], value, 4).SerializeToString())
    with pytest.raises(CompileError) as refusal:
        import_graph(tmp_path / "m.onnx")
    assert "node 0, Tan '/Tan_0', output 'v0': not supported" in refusal.value.message
    assert "node 2, Sin '/Sin_2', output 'v2': not supported" in refusal.value.message
    assert "2 operators refused" in refusal.value.message
    assert "GlobalAveragePool" in refusal.value.hint


def test_float_layer_inside_a_quantised_file_is_refused(tmp_path: Path) -> None:
    build = Builder()
    value = build.node(
        "Gemm", build.quantized("x", 0.1, 0), build.weights(np.ones((4, 4), np.int8), np.ones(1, np.float32))
    )
    output = build.quantized(build.node("Add", value, value), 0.1, 0)
    (tmp_path / "m.onnx").write_bytes(build.model([1, 4], output, 4).SerializeToString())
    with pytest.raises(CompileError, match="QuantizeLinear is missing"):
        import_graph(tmp_path / "m.onnx")


def test_constants_outside_the_file_are_refused(tmp_path: Path) -> None:
    """Not read from wherever the file points."""
    build = Builder()
    weights = build.constant(np.ones((4, 4), np.float32))
    model = build.model([1, 4], build.node("MatMul", "x", weights), 4)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CompileError, match="another file"):
        import_graph(tmp_path / "m.onnx")
