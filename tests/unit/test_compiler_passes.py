"""Passes: what they rewrite and that the float result stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler.capture import capture
from lab.compiler.graph import Clamp, Graph, to_nhwc
from lab.compiler.operators.add import Add
from lab.compiler.operators.clamp import Activation
from lab.compiler.operators.conv2d import Conv2d
from lab.compiler.operators.depthwise_conv2d import DepthwiseConv2d
from lab.compiler.operators.linear import Linear
from lab.compiler.operators.reshape import Reshape
from lab.compiler.passes import lower
from lab.compiler.passes.fold_batch_norm import fold_batch_norm
from lab.compiler.passes.fuse_activation import fuse_activation
from lab.compiler.passes.fuse_pad import fuse_pad
from lab.compiler.passes.order_reshape import order_reshape
from lab.compiler.passes.prune import prune
from lab.errors import CompileError


class Wrap(nn.Module):
    """Modules and a function of them."""

    def __init__(self, function: str, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = eval(self.function, {"self": self, "torch": torch}, {"x": x})
        return y


def captured(module: nn.Module, *shape: int) -> Graph:
    """Capture after giving batch norms statistics that are not the identity."""
    torch.manual_seed(0)
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            if child.affine:
                nn.init.normal_(child.weight)
                nn.init.normal_(child.bias)
            assert child.running_mean is not None
            assert child.running_var is not None
            nn.init.normal_(child.running_mean)
            nn.init.uniform_(child.running_var, 0.5, 2.0)
    return capture(module, torch.zeros(1, *shape))


def assert_same(graph: Graph, module: nn.Module, *shape: int) -> None:
    """The graph computes what the module does."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(graph.run(to_nhwc(x)), to_nhwc(module.eval()(x)), atol=1e-5, rtol=1e-4)


def kinds(graph: Graph) -> list[str]:
    return [node.operator.kind for node in graph.nodes]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3), (3, 6, 6)),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), (4, 6, 6)),
        (nn.Conv2d(3, 4, 1), (3, 6, 6)),
    ],
)
def test_batch_norm_folds_into_convolution(layer: nn.Module, shape: tuple[int, ...]) -> None:
    module = nn.Sequential(layer, nn.BatchNorm2d(4))
    graph = fold_batch_norm(captured(module, *shape))
    assert len(graph.nodes) == 1
    assert graph.nodes[0].name == "0"
    assert_same(graph, module, *shape)


def test_batch_norm_folds_into_linear() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False))
    graph = fold_batch_norm(captured(module, 5))
    assert kinds(graph) == ["linear"]
    assert_same(graph, module, 5)


def test_two_batch_norms_fold_one_after_the_other() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    graph = fold_batch_norm(captured(module, 3, 6, 6))
    assert kinds(graph) == ["conv2d"]
    assert_same(graph, module, 3, 6, 6)


@pytest.mark.parametrize("function", ["self.norm(torch.relu(self.conv(x)))", "self.norm(y := self.conv(x)) + y"])
def test_batch_norm_that_cannot_fold_becomes_depthwise(function: str) -> None:
    """After an activation, or where the convolution's own result is also read."""
    module = Wrap(function, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    graph = fold_batch_norm(captured(module, 3, 6, 6))
    assert "depthwise_conv2d" in kinds(graph)
    assert "batch_norm" not in kinds(graph)
    assert_same(graph, module, 3, 6, 6)


def test_batch_norm_on_features_becomes_linear() -> None:
    module = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6))
    graph = fold_batch_norm(captured(module, 6))
    assert kinds(graph) == ["clamp", "linear"]
    assert_same(graph, module, 6)


def test_pad_fuses_into_convolution_and_stays_asymmetric() -> None:
    module = nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(3, 4, 3, stride=2, padding=1))
    graph = fuse_pad(captured(module, 3, 6, 6))
    assert kinds(graph) == ["conv2d"]
    operator = graph.nodes[0].operator
    assert isinstance(operator, Conv2d)
    window = operator.window
    assert (window.top, window.bottom, window.left, window.right) == (3, 4, 1, 2)
    assert_same(graph, module, 3, 6, 6)


def test_pad_with_other_readers_stays() -> None:
    module = Wrap(
        "self.conv(y := torch.nn.functional.pad(x, (1, 1, 1, 1))) + self.pool(y)",
        conv=nn.Conv2d(3, 3, 3),
        pool=nn.AvgPool2d(3, 1),
    )
    graph = fuse_pad(captured(module, 3, 6, 6))
    assert "pad" in kinds(graph)
    assert_same(graph, module, 3, 6, 6)


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        ("torch.relu(self.conv(x))", Conv2d),
        ("torch.relu(self.depthwise(x))", DepthwiseConv2d),
        ("torch.relu(x + self.depthwise(x))", Add),
    ],
)
def test_activation_fuses(function: str, operator: type) -> None:
    module = Wrap(function, conv=nn.Conv2d(3, 4, 3), depthwise=nn.Conv2d(3, 3, 3, padding=1, groups=3))
    graph = fuse_activation(captured(module, 3, 6, 6))
    assert isinstance(graph.nodes[-1].operator, operator)
    assert "clamp" not in kinds(graph)
    assert_same(graph, module, 3, 6, 6)


def test_chained_activations_become_one() -> None:
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Hardtanh(-1.0, 0.5))
    graph = fuse_activation(captured(module, 5))
    assert kinds(graph) == ["linear"]
    assert isinstance(graph.nodes[0].operator, Linear)
    assert graph.nodes[0].operator.activation == Clamp(0.0, 0.5)
    assert_same(graph, module, 5)


@given(bounds=st.tuples(*[st.floats(-3, 3)] * 4), x=st.floats(-5, 5))
def test_clamp_composition(bounds: tuple[float, float, float, float], x: float) -> None:
    first = Clamp(min(bounds[:2]), max(bounds[:2]))
    second = Clamp(min(bounds[2:]), max(bounds[2:]))
    one_by_one = min(max(min(max(x, first.low), first.high), second.low), second.high)
    both = first.then(second)
    assert min(max(x, both.low), both.high) == one_by_one


def test_activation_after_pool_or_shared_value_stays() -> None:
    pooled = nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
    assert kinds(fuse_activation(captured(pooled, 3, 6, 6))) == ["max_pool2d", "clamp"]
    shared = Wrap("torch.relu(y := self.conv(x)) + y", conv=nn.Conv2d(3, 4, 3))
    graph = fuse_activation(captured(shared, 3, 6, 6))
    assert kinds(graph) == ["conv2d", "clamp", "add"]
    assert_same(graph, shared, 3, 6, 6)


@given(
    height=st.integers(1, 4), width=st.integers(1, 4), channels=st.integers(1, 5), activated=st.booleans()
)
@settings(max_examples=8, deadline=None)
def test_flatten_order_moves_into_linear(height: int, width: int, channels: int, activated: bool) -> None:
    layers = [nn.Flatten(), nn.ReLU() if activated else nn.Identity(), nn.Linear(height * width * channels, 3)]
    module = nn.Sequential(*layers)
    graph = order_reshape(captured(module, channels, height, width))
    for node in graph.nodes:
        if isinstance(node.operator, Reshape):
            assert node.operator.is_alias(graph.shapes[node.inputs[0]])
    assert_same(graph, module, channels, height, width)


@pytest.mark.parametrize(
    ("function", "reader"),
    [
        ("torch.relu(self.conv(x)).flatten(1)", "the model's output"),
        ("torch.relu(x.flatten(1)) + self.conv(x).flatten(1)", "'add' .add."),
    ],
)
def test_flatten_that_would_move_data_is_refused(function: str, reader: str) -> None:
    graph = captured(Wrap(function, conv=nn.Conv2d(3, 3, 1)), 3, 4, 4)
    with pytest.raises(CompileError, match=reader) as caught:
        order_reshape(graph)
    assert "flatten" in caught.value.hint
    assert "reshape at" in caught.value.message


def test_reshape_back_to_image_is_an_alias_for_one_channel() -> None:
    module = nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 2, 3))
    graph = lower(captured(module, 5))
    assert_same(graph, module, 5)


def test_prune_drops_what_nobody_reads() -> None:
    module = Wrap("(self.unused(x), self.used(x))[1]", used=nn.Linear(4, 3), unused=nn.Linear(4, 2))
    graph = prune(captured(module, 4))
    assert [node.name for node in graph.nodes] == ["used"]
    assert_same(graph, module, 4)


def test_standalone_activation_of_the_input() -> None:
    graph = lower(captured(nn.ReLU6(), 4))
    assert isinstance(graph.nodes[0].operator, Activation)
    assert graph.nodes[0].operator.clamp == Clamp(0.0, 6.0)
    np.testing.assert_array_equal(graph.run(torch.tensor([[-1.0, 3.0, 7.0, 6.0]])), [[0.0, 3.0, 6.0, 6.0]])
