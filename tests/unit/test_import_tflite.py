"""TFLite files against LiteRT's reference kernels, bit for bit: every operator on random shapes, and whole models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.model_inputs import MODELS, model_inputs, model_path
from helpers.tflite_builder import Operator, Tensor, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.compiler.host import TRAP_UNDEFINED, HostModel
from lab.compiler.importers import import_graph, import_model
from lab.compiler.operators.fully_connected import exact_multiplier, round_half_away
from lab.compiler.quantized import QuantizedGraph
from lab.errors import CompileError

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert, the reference, is not installed")

Int8 = npt.NDArray[np.int8]
EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 2**31)
SAMPLES = 6


def litert_outputs(model: bytes, samples: Int8, *, output_type: type = np.int8) -> npt.NDArray[np.generic]:
    """What LiteRT's reference kernels compute for samples ``(n, …)``; ``(n, outputs)``."""
    resolver = litert.OpResolverType.BUILTIN_REF
    interpreter = litert.Interpreter(model_content=model, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    outputs = []
    for sample in samples:
        interpreter.set_tensor(source["index"], sample.reshape(source["shape"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"]).reshape(1, -1).copy())
    return np.concatenate(outputs).astype(output_type)


def imported(model: bytes, folder: Path) -> QuantizedGraph:
    """The file through the importer."""
    path = folder / "model.tflite"
    path.write_bytes(model)
    return import_graph(path)


def random_int8(rng: np.random.Generator, *shape: int) -> Int8:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def activation(rng: np.random.Generator, name: str, shape: Sequence[int], scale: float = 0.0) -> Tensor:
    scale = scale or float(2.0 ** rng.uniform(-8, 1))
    return Tensor(name, shape, scales=[scale], zero_points=[int(rng.integers(-128, 128))])


def assert_equal(model: bytes, shape: Sequence[int], rng: np.random.Generator, folder: Path) -> QuantizedGraph:
    """The importer's integer reference equals LiteRT on random inputs, extremes included."""
    graph = imported(model, folder)
    samples = random_int8(rng, SAMPLES, *shape[1:])
    samples[0], samples[1] = -128, 127
    np.testing.assert_array_equal(graph.run_integer(samples), litert_outputs(model, samples))
    return graph


def same_size(size: int, stride: int) -> int:
    return -(-size // stride)


def convolution(rng: np.random.Generator, *, depthwise: bool, groups: int = 1) -> tuple[bytes, list[int]]:
    """A file with one convolution of random geometry; multipliers from tiny to above one."""
    height, width = (int(size) for size in rng.integers(1, 8, 2))
    kernel = [int(size) for size in rng.integers(1, 4, 2)]
    strides = [int(step) for step in rng.integers(1, 3, 2)]
    # LiteRT takes one stride for both directions of a dilated convolution only.
    dilation = [1, 1] if rng.random() < 0.7 else [2, 1]
    same = bool(rng.random() < 0.5)
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    if not same:
        height, width = height + reach[0], width + reach[1]
    channels = int(rng.integers(1, 6)) * groups
    per_channel = int(rng.integers(1, 3))
    outputs = channels * per_channel if depthwise else int(rng.integers(1, 6)) * groups
    sizes = [
        same_size(size, step) if same else (size - extent) // step + 1
        for size, step, extent in zip((height, width), strides, reach, strict=True)
    ]
    weight_shape = [1, *kernel, outputs] if depthwise else [outputs, *kernel, channels // groups]
    scales = (2.0 ** rng.uniform(-9, -1, outputs)).tolist()
    source = activation(rng, "x", [1, height, width, channels], float(2.0 ** rng.uniform(-6, 0)))
    target = activation(rng, "y", [1, *sizes, outputs], float(2.0 ** rng.uniform(-4, 2)))
    weight = random_int8(rng, *weight_shape)
    bias = rng.integers(-20000, 20000, outputs).astype(np.int32)
    tensors = [
        source,
        Tensor("w", weight_shape, "int8", scales, [0] * outputs, 3 if depthwise else 0, weight),
        Tensor("b", [outputs], "int32", [s * source.scales[0] for s in scales], [0] * outputs, 0, bias),
        target,
    ]
    options = {
        "Padding": 0 if same else 1,
        "StrideH": strides[0],
        "StrideW": strides[1],
        "DilationHFactor": dilation[0],
        "DilationWFactor": dilation[1],
        "FusedActivationFunction": int(rng.integers(0, 4)),
    }
    if depthwise:
        options["DepthMultiplier"] = per_channel
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    return write(tensors, [Operator(code, [0, 1, 2], [3], options)], [0], [3]), [1, height, width, channels]


@given(SEEDS, st.booleans())
@EXAMPLES
def test_convolution(tmp_path_factory: pytest.TempPathFactory, seed: int, depthwise: bool) -> None:
    rng = np.random.default_rng(seed)
    model, shape = convolution(rng, depthwise=depthwise)
    assert_equal(model, shape, rng, tmp_path_factory.mktemp("conv"))


@given(SEEDS)
@EXAMPLES
def test_grouped_convolution(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, shape = convolution(rng, depthwise=False, groups=2)
    assert_equal(model, shape, rng, tmp_path_factory.mktemp("grouped"))


def fully_connected(rng: np.random.Generator, *, per_channel: bool, bias: bool) -> tuple[bytes, list[int]]:
    inputs, outputs = (int(size) for size in rng.integers(1, 70, 2))
    scales = (2.0 ** rng.uniform(-9, -2, outputs if per_channel else 1)).tolist()
    source = activation(rng, "x", [1, inputs], float(2.0 ** rng.uniform(-6, 0)))
    target = activation(rng, "y", [1, outputs])
    weight = random_int8(rng, outputs, inputs)
    tensors = [source, Tensor("w", [outputs, inputs], "int8", scales, [0] * len(scales), 0, weight), target]
    bias_scales = [scale * source.scales[0] for scale in scales]
    values = rng.integers(-5000, 5000, outputs).astype(np.int32)
    tensors += [Tensor("b", [outputs], "int32", bias_scales, [0] * len(scales), 0, values)] if bias else []
    options = {"FusedActivationFunction": int(rng.integers(0, 4))}
    operator = Operator("FULLY_CONNECTED", [0, 1, 3 if bias else -1], [2], options)
    return write(tensors, [operator], [0], [2]), [1, inputs]


@given(SEEDS, st.booleans(), st.booleans())
@EXAMPLES
def test_fully_connected(tmp_path_factory: pytest.TempPathFactory, seed: int, per_channel: bool, bias: bool) -> None:
    rng = np.random.default_rng(seed)
    model, shape = fully_connected(rng, per_channel=per_channel, bias=bias)
    assert_equal(model, shape, rng, tmp_path_factory.mktemp("fc"))


@given(st.floats(2.0**-14, 1.5), st.integers(-128, 127))
@EXAMPLES
def test_multiplier_of_fully_connected_rounds_like_float64(real: float, zero: int) -> None:
    """Every sum around every step of the output, against the float64 product itself."""
    values, reach = (-128 - zero, 127 - zero), 1 << 24
    try:
        multiplier, shift = exact_multiplier(real, values, reach)
    except ValueError:
        return  # refused rather than wrong
    steps = np.arange(values[0], values[1] + 1) / real
    near = (np.rint(steps)[:, None] + np.arange(-3, 4)).astype(int)
    near = np.concatenate([near.ravel(), np.rint((np.arange(*values) + 0.5) / real).astype(int)])
    for total in near[np.abs(near) <= reach].tolist():
        expected = min(max(round_half_away(total * real), values[0]), values[1])
        found = min(max((total * multiplier + (1 << (shift - 1))) >> shift, values[0]), values[1])
        assert found == expected, (total, real)


@pytest.mark.parametrize("scale", [2.0**-4, 2.0**-8, 0.5])
def test_ties_of_fully_connected_go_away_from_zero(tmp_path: Path, scale: float) -> None:
    """Scales that are powers of two make exact halves: the sums −½, ½, 1½ … of the output."""
    tensors = [
        Tensor("x", [1, 1], scales=[scale], zero_points=[0]),
        Tensor("w", [2, 1], "int8", [0.5], [0], 0, np.array([[1], [-1]], np.int8)),
        Tensor("y", [1, 2], scales=[scale], zero_points=[0]),
    ]
    model = write(tensors, [Operator("FULLY_CONNECTED", [0, 1, -1], [2])], [0], [2])
    samples = np.arange(-128, 128, dtype=np.int8)[:, None]
    np.testing.assert_array_equal(imported(model, tmp_path).run_integer(samples), litert_outputs(model, samples))


@pytest.mark.parametrize("scale", [2.0**-40, 1e-12, 1e-20, 1e-38])
def test_fully_connected_of_a_tiny_multiplier(tmp_path: Path, scale: float) -> None:
    """Its steps lie beyond every sum, where float64 has no neighbouring integers: found in bounded time."""
    rng = np.random.default_rng(6)
    tensors = [
        Tensor("x", [1, 9], scales=[scale], zero_points=[0]),
        Tensor("w", [2, 9], "int8", [0.5], [0], 0, random_int8(rng, 2, 9)),
        Tensor("y", [1, 2], scales=[1.0], zero_points=[-7]),
    ]
    model = write(tensors, [Operator("FULLY_CONNECTED", [0, 1, -1], [2])], [0], [2])
    assert_equal(model, [1, 9], rng, tmp_path)


@given(SEEDS, st.sampled_from(["AVERAGE_POOL_2D", "MAX_POOL_2D"]))
@EXAMPLES
def test_pool(tmp_path_factory: pytest.TempPathFactory, seed: int, code: str) -> None:
    rng = np.random.default_rng(seed)
    kernel, strides = rng.integers(1, 4, 2).tolist(), rng.integers(1, 3, 2).tolist()
    same = bool(rng.random() < 0.5)
    height, width, channels = (int(size) for size in rng.integers(4, 9, 3))
    sizes = [
        same_size(size, step) if same else (size - extent) // step + 1
        for size, step, extent in zip((height, width), strides, kernel, strict=True)
    ]
    source = activation(rng, "x", [1, height, width, channels])
    target = Tensor("y", [1, *sizes, channels], scales=source.scales, zero_points=source.zero_points)
    options = {
        "Padding": 0 if same else 1,
        "StrideH": strides[0],
        "StrideW": strides[1],
        "FilterHeight": kernel[0],
        "FilterWidth": kernel[1],
        "FusedActivationFunction": int(rng.integers(0, 4)),
    }
    model = write([source, target], [Operator(code, [0], [1], options)], [0], [1])
    assert_equal(model, source.shape, rng, tmp_path_factory.mktemp("pool"))


@given(SEEDS)
@EXAMPLES
def test_add(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Two branches of one input in quantisations of their own."""
    rng = np.random.default_rng(seed)
    shape = [1, 3, 4, 5]
    tensors = [activation(rng, name, shape) for name in ("x", "a", "b", "y")]
    operators = [
        Operator("QUANTIZE", [0], [1]),
        Operator("QUANTIZE", [0], [2]),
        Operator("ADD", [1, 2], [3], {"FusedActivationFunction": int(rng.integers(0, 4))}),
    ]
    assert_equal(write(tensors, operators, [0], [3]), shape, rng, tmp_path_factory.mktemp("add"))


@given(SEEDS, st.sampled_from(["QUANTIZE", "RELU", "RELU6"]), st.booleans())
@EXAMPLES
def test_change_of_quantisation(tmp_path_factory: pytest.TempPathFactory, seed: int, code: str, same: bool) -> None:
    rng = np.random.default_rng(seed)
    source = activation(rng, "x", [1, 256])
    target = activation(rng, "y", [1, 256])
    if same:
        target = Tensor("y", [1, 256], scales=source.scales, zero_points=source.zero_points)
    model = write([source, target], [Operator(code, [0], [1])], [0], [1])
    graph = imported(model, tmp_path_factory.mktemp("scale"))
    samples = np.arange(-128, 128, dtype=np.int8)[None]
    np.testing.assert_array_equal(graph.run_integer(samples), litert_outputs(model, samples))


@given(SEEDS, st.integers(1, 40), st.floats(0.0005, 30.0), st.sampled_from([1.0, 0.5, 2.0]))
@settings(EXAMPLES, max_examples=80)
def test_softmax(tmp_path_factory: pytest.TempPathFactory, seed: int, depth: int, scale: float, beta: float) -> None:
    rng = np.random.default_rng(seed)
    source = activation(rng, "x", [1, depth], scale)
    target = Tensor("y", [1, depth], scales=[1 / 256], zero_points=[-128])
    model = write([source, target], [Operator("SOFTMAX", [0], [1], {"Beta": beta})], [0], [1])
    assert_equal(model, source.shape, rng, tmp_path_factory.mktemp("softmax"))


@given(SEEDS)
@EXAMPLES
def test_pad_and_reshape(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides = rng.integers(0, 3, (2, 2)).tolist()
    height, width, channels = (int(size) for size in rng.integers(1, 5, 3))
    padded = [1, height + sum(sides[0]), width + sum(sides[1]), channels]
    source = activation(rng, "x", [1, height, width, channels])
    quantization = {"scales": source.scales, "zero_points": source.zero_points}
    table = np.array([[0, 0], *sides, [0, 0]], np.int32)
    flat = [1, int(np.prod(padded))]
    tensors = [
        source,
        Tensor("p", [4, 2], "int32", value=table),
        Tensor("padded", padded, **quantization),
        Tensor("s", [2], "int32", value=np.array(flat, np.int32)),
        Tensor("y", flat, **quantization),
    ]
    operators = [Operator("PAD", [0, 1], [2]), Operator("RESHAPE", [2, 3], [4])]
    graph = imported(write(tensors, operators, [0], [4]), tmp_path_factory.mktemp("pad"))
    samples = random_int8(rng, SAMPLES, *source.shape[1:])
    expected = litert_outputs(write(tensors, operators, [0], [4]), samples)
    np.testing.assert_array_equal(graph.run_integer(samples), expected)


def network(rng: np.random.Generator, *, dead_channel: bool = False) -> bytes:
    """A small residual network that takes every kind of kernel: fast, general, pool, add, softmax."""

    def weights(name: str, shape: Sequence[int], axis: int, low: float = -8) -> Tensor:
        scales = (2.0 ** rng.uniform(low, low + 2, shape[axis])).tolist()
        return Tensor(name, shape, "int8", scales, [0] * shape[axis], axis, random_int8(rng, *shape))

    def bias(name: str, size: int) -> Tensor:
        values = rng.integers(-3000, 3000, size).astype(np.int32)
        return Tensor(name, [size], "int32", [1.0], [0], 0, values)

    tensors = [
        Tensor("x", [1, 8, 8, 3], scales=[0.02], zero_points=[-5]),
        weights("w0", [6, 3, 3, 3], 0),
        bias("b0", 6),
        Tensor("a", [1, 8, 8, 6], scales=[0.05], zero_points=[-128]),
        weights("w1", [1, 3, 3, 6], 3),
        bias("b1", 6),
        Tensor("b", [1, 8, 8, 6], scales=[0.03], zero_points=[3]),
        Tensor("c", [1, 8, 8, 6], scales=[0.06], zero_points=[-20]),
        weights("w2", [4, 1, 1, 6], 0, low=1),
        Tensor("d", [1, 8, 8, 4], scales=[0.04], zero_points=[0]),
        Tensor("e", [1, 1, 1, 4], scales=[0.04], zero_points=[0]),
        Tensor("s", [2], "int32", value=np.array([1, 4], np.int32)),
        Tensor("f", [1, 4], scales=[0.04], zero_points=[0]),
        weights("w3", [5, 4], 0, low=-6),
        bias("b3", 5),
        Tensor("g", [1, 5], scales=[0.1], zero_points=[10]),
        Tensor("y", [1, 5], scales=[1 / 256], zero_points=[-128]),
        bias("b2", 4),
    ]
    if dead_channel and tensors[1].value is not None and tensors[2].value is not None:
        tensors[1].value[2] = 0
        tensors[2].value[2] = (1 << 30) + 5
    conv = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    pool = {"Padding": 1, "StrideH": 1, "StrideW": 1, "FilterHeight": 8, "FilterWidth": 8}
    operators = [
        Operator("CONV_2D", [0, 1, 2], [3], {**conv, "FusedActivationFunction": 1}),
        Operator("DEPTHWISE_CONV_2D", [3, 4, 5], [6], {**conv, "DepthMultiplier": 1}),
        Operator("ADD", [3, 6], [7]),
        Operator("CONV_2D", [7, 8, 17], [9], conv),
        Operator("AVERAGE_POOL_2D", [9], [10], pool),
        Operator("RESHAPE", [10, 11], [12]),
        Operator("FULLY_CONNECTED", [12, 13, 14], [15]),
        Operator("SOFTMAX", [15], [16], {"Beta": 1.0}),
    ]
    return write(tensors, operators, [0], [16])


@pytest.mark.parametrize("dead_channel", [False, True])
def test_network_in_c_equals_litert(tmp_path: Path, dead_channel: bool) -> None:
    """Fast and general kernels, under the undefined-behaviour sanitizer."""
    rng = np.random.default_rng(5)
    model = network(rng, dead_channel=dead_channel)
    (tmp_path / "net.tflite").write_bytes(model)
    compiled, graph = import_model(tmp_path / "net.tflite", name="net")
    kinds = [layer.operator for layer in compiled.layers]
    assert kinds == [
        "conv2d", "depthwise_conv2d", "add", "general_conv2d", "avg_pool2d", "linear", "softmax",
    ]  # fmt: skip
    samples = random_int8(rng, 50, 8, 8, 3)
    expected = litert_outputs(model, samples)
    host = HostModel(compiled, tmp_path, flags=["-O2", *TRAP_UNDEFINED])
    np.testing.assert_array_equal(host.run(samples, arena_fill=0xA5), expected)
    np.testing.assert_array_equal(graph.run_integer(samples), expected)
    assert compiled.input.zero_point == -5
    assert compiled.output.scale == 1 / 256


def test_float_border_is_the_hosts(tmp_path: Path) -> None:
    """QUANTIZE behind the input and DEQUANTIZE before the output are left to the host; the model takes int8."""
    rng = np.random.default_rng(1)
    weight = random_int8(rng, 3, 4)
    tensors = [
        Tensor("x", [1, 4], "float32"),
        Tensor("q", [1, 4], scales=[0.1], zero_points=[2]),
        Tensor("w", [3, 4], "int8", [0.01], [0], 0, weight),
        Tensor("f", [1, 3], scales=[0.05], zero_points=[-7]),
        Tensor("y", [1, 3], "float32"),
    ]
    operators = [
        Operator("QUANTIZE", [0], [1]),
        Operator("FULLY_CONNECTED", [1, 2, -1], [3]),
        Operator("DEQUANTIZE", [3], [4]),
    ]
    model = write(tensors, operators, [0], [4])
    (tmp_path / "m.tflite").write_bytes(model)
    compiled, graph = import_model(tmp_path / "m.tflite")
    reals = rng.normal(0, 4, (20, 4)).astype(np.float32)
    found = compiled.output.dequantize(graph.run_integer(compiled.input.quantize(reals)))
    interpreter = litert.Interpreter(
        model_content=model, experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    for real, ours in zip(reals, found, strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], real[None])
        interpreter.invoke()
        theirs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def float_network(rng: np.random.Generator) -> bytes:
    def constant(name: str, *shape: int) -> Tensor:
        return Tensor(name, shape, "float32", value=rng.normal(0, 0.3, shape).astype(np.float32))

    tensors = [
        Tensor("x", [1, 6, 6, 2], "float32"),
        constant("w0", 4, 3, 3, 2),
        constant("b0", 4),
        Tensor("a", [1, 6, 6, 4], "float32"),
        constant("w1", 3, 144),
        constant("b1", 3),
        Tensor("f", [1, 3], "float32"),
        Tensor("y", [1, 3], "float32"),
    ]
    conv = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1, "FusedActivationFunction": 1}
    operators = [
        Operator("CONV_2D", [0, 1, 2], [3], conv),
        Operator("FULLY_CONNECTED", [3, 4, 5], [6]),
        Operator("SOFTMAX", [6], [7], {"Beta": 1.0}),
    ]
    return write(tensors, operators, [0], [7])


def test_float_file_is_quantised_with_calibration(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    model = float_network(rng)
    (tmp_path / "f.tflite").write_bytes(model)
    reals = rng.normal(0, 1, (64, 6, 6, 2)).astype(np.float32)
    compiled, _ = import_model(tmp_path / "f.tflite", calibration=reals)
    host = HostModel(compiled, tmp_path, flags=["-O2", *TRAP_UNDEFINED])
    found = compiled.output.dequantize(host.run(compiled.input.quantize(reals)))
    expected = litert_outputs(model, reals, output_type=np.float32)
    assert np.abs(found - expected).max() < 0.06
    assert np.mean(found.argmax(axis=1) == expected.argmax(axis=1)) > 0.9


def test_float_file_without_calibration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.tflite").write_bytes(float_network(np.random.default_rng(3)))
    with pytest.raises(CompileError, match="computes in float32") as refusal:
        import_graph(tmp_path / "f.tflite")
    assert "(n, 6, 6, 2)" in refusal.value.hint


def test_all_unsupported_operators_are_listed_with_their_places(tmp_path: Path) -> None:
    quantization = {"scales": [0.1], "zero_points": [0]}
    tensors = [Tensor(name, [1, 8], **quantization) for name in ("x", "first", "second", "third")]
    operators = [Operator("TANH", [0], [1]), Operator("RELU", [1], [2]), Operator("LOGISTIC", [2], [3])]
    with pytest.raises(CompileError) as refusal:
        imported(write(tensors, operators, [0], [3]), tmp_path)
    assert "operator 0, TANH, output 'first': not supported" in refusal.value.message
    assert "operator 2, LOGISTIC, output 'third': not supported" in refusal.value.message
    assert "SOFTMAX" in refusal.value.hint


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"not a model at all")
    with pytest.raises(CompileError, match="TFL3"):
        import_graph(tmp_path / "m.tflite")
    with pytest.raises(CompileError, match="cannot be read"):
        import_graph(tmp_path / "missing.tflite")
    with pytest.raises(CompileError, match="no model file"):
        import_graph(tmp_path / "model.h5")


@pytest.mark.parametrize("name", MODELS)
def test_mlperf_tiny_model_equals_litert(name: str, tmp_path: Path) -> None:
    """200 inputs each, host C against LiteRT's reference kernels."""
    path = model_path(name)
    compiled, graph = import_model(path, name=name)
    samples = model_inputs(name, compiled.input, 200)
    expected = litert_outputs(path.read_bytes(), samples)
    assert len(np.unique(expected, axis=0)) > 8, "the inputs do not exercise the model"
    np.testing.assert_array_equal(HostModel(compiled, tmp_path).run(samples), expected)
    np.testing.assert_array_equal(graph.run_integer(samples[:8]), expected[:8])
    assert compiled.arena_bytes <= 1.05 * compiled.lower_bound_bytes
