"""Whole networks: the C, the integer reference, PyTorch's fake quantisation and fp32."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from lab.compiler import compile, compile_with_reference
from lab.compiler.graph import to_nhwc
from lab.compiler.host import TRAP_UNDEFINED, WARNINGS, HostModel
from lab.compiler.model import CompiledModel, FloatArray
from lab.compiler.quantized import QuantizedGraph
from lab.compiler.reference import run_fake_quantized
from lab.errors import CompileError, ToolMissing
from lab.runtime_files import RUNTIME, needed_sources

Network = TypeVar("Network", bound=nn.Module)


def ds_cnn(channels: int, blocks: int, padding: tuple[int, int] = (5, 1)) -> nn.Sequential:
    """The keyword-spotting network of the lab's first workload."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, channels, (10, 4), stride=2, padding=padding, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]
    for _ in range(blocks):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Dropout(0.2), nn.Flatten(), nn.Linear(channels, 10)
    )


class Residual(nn.Module):
    """Asymmetric padding, residual adds of several kinds, max pooling, a flatten in NCHW order, reuse of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.act = nn.ReLU6()
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding="same", bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.norm = nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(2)
        self.output = nn.Linear(6 * 4 * 3, 12)
        self.norm1d = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(self.pad(x)))
        x = x + self.block(x)
        x = torch.relu(x + self.block(x))
        x += self.norm(x)
        x = self.pool(x)
        x = torch.nn.functional.hardtanh(self.norm1d(self.output(x.flatten(1))), -1.0, 1.0)
        y: torch.Tensor = self.head(x)
        return y


class Pools(nn.Module):
    """Average pools with and without counted padding, a pad no convolution takes over, mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.AvgPool2d(3, stride=2, padding=1)
        self.second = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.conv = nn.Conv2d(4, 8, 3, groups=1, stride=(2, 1))
        self.depthwise = nn.Conv2d(8, 8, (3, 2), groups=8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.pad(self.first(x), (1, 0, 2, 1))
        x = self.second(x)
        x = self.depthwise(torch.relu(self.conv(x)))
        return torch.clamp(x.mean((2, 3)), min=-0.5)


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
torch.manual_seed(1)
NETWORKS["ds_cnn_49x10"] = (ds_cnn(16, 2), (1, 49, 10))
NETWORKS["ds_cnn_8x8"] = (ds_cnn(12, 2), (1, 8, 8))
NETWORKS["residual"] = (Residual(), (3, 16, 12))
NETWORKS["pools"] = (Pools(), (4, 13, 11))
NETWORKS["mlp"] = (nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.BatchNorm1d(33), nn.Linear(33, 7)), (20,))


def settle(module: Network, shape: tuple[int, ...]) -> Network:
    """Give batch norms statistics other than their defaults."""
    generator = torch.Generator().manual_seed(2)
    module.train()
    with torch.no_grad():
        for _ in range(5):
            module(torch.randn(32, *shape, generator=generator) * 1.5 + 0.3)
    return module.eval()


class Built:
    """A network compiled, its references and outputs on 60 samples."""

    def __init__(self, name: str, folder: Path) -> None:
        module, shape = NETWORKS[name]
        generator = torch.Generator().manual_seed(3)
        self.module = settle(module, shape)
        self.example = torch.zeros(1, *shape)
        self.calibration = torch.randn(128, *shape, generator=generator) * 1.5 + 0.3
        self.x = torch.randn(60, *shape, generator=generator) * 1.5 + 0.3
        result = compile_with_reference(self.module, self.example, calibration=self.calibration, name=name)
        self.compiled: CompiledModel = result[0]
        self.graph: QuantizedGraph = result[1]
        self.samples = self.compiled.input.quantize(to_nhwc(self.x).numpy())
        self.integer = self.graph.run_integer(self.samples)
        self.host = HostModel(self.compiled, folder, flags=["-O2", *TRAP_UNDEFINED])

    def fp32(self) -> FloatArray:
        with torch.no_grad():
            y = self.module(self.x)
        return to_nhwc(y).reshape(len(y), -1).numpy()


@pytest.fixture(scope="module", params=list(NETWORKS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(request.param, tmp_path_factory.mktemp(request.param))


def test_c_equals_integer_reference(built: Built) -> None:
    for fill in (0, 0xFF):
        np.testing.assert_array_equal(built.host.run(built.samples, arena_fill=fill), built.integer)


def test_integer_reference_agrees_with_fake_quantisation(built: Built) -> None:
    """PyTorch's own fake-quantised arithmetic: at most 2 steps of the output, on average under a third of one."""
    output = built.compiled.output
    fake = np.rint(run_fake_quantized(built.graph, built.samples) / output.scale) + output.zero_point
    difference = np.abs(fake - built.integer)
    assert difference.max() <= 2
    assert difference.mean() < 1 / 3


def test_integer_reference_is_close_to_fp32(built: Built) -> None:
    """Root mean square error below 3 % of the range of the outputs."""
    real = built.fp32()
    error = built.compiled.output.dequantize(built.integer) - real
    assert np.sqrt(np.mean(error**2)) < 0.03 * (real.max() - real.min())


def test_lowered_float_graph_equals_module(built: Built) -> None:
    """The passes change nothing: batch norm, padding, activations and the order of a flatten are all exact in float."""
    with torch.no_grad():
        lowered = built.graph.float_graph.run(to_nhwc(built.x)).reshape(len(built.x), -1).numpy()
    np.testing.assert_allclose(lowered, built.fp32(), atol=2e-5, rtol=1e-4)


def test_image_tells_the_plan(built: Built) -> None:
    compiled = built.compiled
    assert built.host.arena_bytes == compiled.arena_bytes
    assert built.host.layer_names == tuple(layer.name for layer in compiled.layers)
    assert built.host.output_quantization == (np.float32(compiled.output.scale), compiled.output.zero_point)
    assert f"#define LAB_MODEL_ARENA_BYTES {compiled.arena_bytes}u" in compiled.sources["model.h"]
    assert compiled.lower_bound_bytes <= compiled.arena_bytes <= 1.05 * compiled.lower_bound_bytes


def test_same_model_gives_same_text(built: Built) -> None:
    again = compile(built.module, built.example, calibration=built.calibration, name=built.compiled.name)
    assert again.sources == built.compiled.sources
    assert again.digest == built.compiled.digest
    other = compile(built.module, built.example, calibration=built.calibration * 1.1, name=built.compiled.name)
    assert other.digest != built.compiled.digest


def test_cross_compiles(built: Built, tmp_path: Path) -> None:
    for name, text in built.compiled.sources.items():
        (tmp_path / name).write_text(text)
    for compiler in (["arm-none-eabi-gcc", "-mcpu=cortex-m4"], ["clang-14"]):
        command = [*compiler, *WARNINGS, "-O2", f"-I{RUNTIME}", "-c", "model.c", "-o", "model.o"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
static unsigned edges;
static void hook(void *context, uint32_t layer, uint32_t edge)
{
    if (layer == *(uint32_t *)context) { edges += 1u + edge; }
}
int main(void)
{
    int8_t *input = malloc(lab_model.input_bytes);
    int8_t *output = malloc(lab_model.output_bytes);
    uint8_t *arena = aligned_alloc(16, (LAB_MODEL_ARENA_BYTES + 15u) / 16u * 16u);
    while (fread(input, 1, lab_model.input_bytes, stdin) == lab_model.input_bytes) {
        for (uint32_t layer = 0; layer < lab_model.layer_count; layer++) {
            edges = 0;
            lab_model.infer_profiled(input, output, arena, hook, &layer);
            if (edges != 3u) { return 3; }
        }
        fwrite(output, 1, lab_model.output_bytes, stdout);
    }
    free(input); free(output); free(arena);
    return 0;
}
"""


def test_profiled_schedule_under_address_sanitizer(built: Built, tmp_path: Path) -> None:
    """Exact-size heap buffers: any access outside input or output stops the program; every layer's hooks are called."""
    for name, text in {**built.compiled.sources, "main.c": MAIN}.items():
        (tmp_path / name).write_text(text)
    flags = ["-std=c11", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{RUNTIME}"]
    files = ["main.c", "model.c", *map(str, needed_sources(built.compiled.sources.values()))]
    subprocess.run(["gcc", *flags, *files, "-o", "run", "-lm"], cwd=tmp_path, check=True)
    samples = np.ascontiguousarray(built.samples[:5])
    done = subprocess.run([tmp_path / "run"], input=samples.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == built.integer[:5].tobytes()


def test_layers_of_ds_cnn() -> None:
    """MACs and weights in closed form; batch norm, activations, dropout and flatten are gone."""
    module = settle(ds_cnn(64, 4), (1, 49, 10))
    compiled = compile(module, torch.zeros(1, 1, 49, 10), calibration=torch.randn(16, 1, 49, 10))
    kinds = [layer.operator for layer in compiled.layers]
    assert kinds == ["conv2d", *["depthwise_conv2d", "conv2d"] * 4, "avg_pool2d", "linear"]
    assert [layer.name for layer in compiled.layers[:3]] == ["0", "3", "6"]
    assert compiled.macs == 125 * 64 * 40 + 4 * 125 * 64 * (9 + 64) + 64 * 10
    channels = 64 * 9 + 10
    assert compiled.weights_bytes == 64 * 40 + 4 * 64 * (9 + 64) + 640 + channels * 9
    scratch = max(buffer.size for buffer in compiled.buffers if buffer.name.endswith(".scratch"))
    assert compiled.arena_bytes == compiled.lower_bound_bytes == 2 * 125 * 64 + scratch
    assert compiled.input.shape == (49, 10, 1)
    assert compiled.layers[0].output_shape == (25, 5, 64)


def test_importing_the_compiler_does_not_import_torch() -> None:
    code = "import sys, lab.compiler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_mode_is_restored() -> None:
    module = settle(ds_cnn(4, 1), (1, 8, 8)).train()
    module[1].eval()
    compile(module, torch.zeros(1, 1, 8, 8), calibration=torch.randn(4, 1, 8, 8))
    assert module.training
    assert not module[1].training
    assert module[-2].training


def test_arena_limit_names_the_largest_layer() -> None:
    module = settle(ds_cnn(16, 1), (1, 49, 10))
    calibration = torch.randn(8, 1, 49, 10)
    fits = compile(module, torch.zeros(1, 1, 49, 10), calibration=calibration)
    limit = fits.arena_bytes
    compile(module, torch.zeros(1, 1, 49, 10), calibration=calibration, arena_limit_bytes=limit)
    with pytest.raises(CompileError) as caught:
        compile(module, torch.zeros(1, 1, 49, 10), calibration=calibration, arena_limit_bytes=limit - 1)
    text = str(caught.value)
    assert f"{limit} bytes, {limit - 1} bytes are allowed" in text
    marked = [line for line in text.splitlines() if "<- largest" in line]
    assert [line.split()[0] for line in marked] == ["3"]
    inputs, output, scratch, kept, total = (int(word) for word in marked[0].split()[1:6])
    assert (inputs, output, kept) == (2000, 2000, 0)
    assert inputs + output + scratch == total == limit


def test_host_model_refuses_wrong_samples_and_missing_compiler(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples are"):
        built.host.run(np.zeros((1, 3), dtype=np.int8))
    with pytest.raises(ValueError, match="samples are"):
        built.graph.run_integer(np.zeros((1, 3), dtype=np.int8))
    with pytest.raises(ToolMissing, match="no-such-cc"):
        HostModel(built.compiled, tmp_path, compiler="no-such-cc")


def test_names_that_clash_in_c_are_told_apart(tmp_path: Path) -> None:
    """``a.b`` and ``a_b`` read the same in C; ``a_b.weights`` reads like an array of ``a_b``."""
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
            self.a_b = nn.Linear(4, 4)
            self.a_b_ = nn.ModuleDict({"weights": nn.Linear(4, 4)})
            self.int = nn.Linear(4, 4)
            self.input = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.input(self.int(self.a_b_["weights"](self.a_b(self.a["b"](x)))))
            return y

    compiled, graph = compile_with_reference(Clash(), torch.zeros(1, 4), calibration=torch.randn(32, 4))
    samples = compiled.input.quantize(np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    np.testing.assert_array_equal(HostModel(compiled, tmp_path).run(samples), graph.run_integer(samples))
    assert [layer.name for layer in compiled.layers] == ["a.b", "a_b", "a_b_.weights", "int", "input"]
