"""Functions of one and of two tensors, sums and means: kernels against PyTorch, lowering against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.joint_check import Applied, check_program, lowered
from helpers.kernel_runner import check_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lab.compiler.operations.elementwise import Binary, BroadcastBinary, join_axes
from lab.compiler.operations.reduce import Sum
from lab.compiler.operations.unary import (
    RELU,
    Absolute,
    Affine,
    Choose,
    ClampGradient,
    ClampValues,
    Compare,
    Cube,
    Divide,
    Elu,
    EluGradient,
    Exp,
    Gelu,
    GeluGradient,
    GeluTanh,
    GeluTanhGradient,
    Hardsigmoid,
    HardsigmoidGradient,
    Hardswish,
    HardswishGradient,
    LeakyRelu,
    LeakyReluGradient,
    Log,
    Power,
    Reciprocal,
    Rsqrt,
    Sigmoid,
    SigmoidGradient,
    Sign,
    Silu,
    SiluGradient,
    Softplus,
    SoftplusGradient,
    Sqrt,
    Square,
    Tanh,
    TanhGradient,
    Unary,
    UnaryGradient,
)

FUNCTIONS = [
    RELU,
    ClampValues(-0.5, 1.5),
    LeakyRelu(0.1),
    Hardsigmoid(),
    Hardswish(),
    Affine(0.3, -0.7),
    Divide(3.0),
    Absolute(),
    Sign(),
    Square(),
    Cube(),
    Compare("gt", 0.5),
    Compare("ge", 0.5),
    Compare("lt", 0.5),
    Compare("le", 0.5),
    Compare("eq", 0.5),
    Compare("ne", 0.5),
    Choose(2.0, -3.0),
    Exp(),
    Sigmoid(),
    Tanh(),
    Silu(),
    Gelu(),
    GeluTanh(),
    Softplus(1.5, 10.0),
    Elu(0.7, 1.2),
]
OF_POSITIVES = [Reciprocal(2.0), Log(), Sqrt(), Rsqrt(), Power(1.7), Power(-0.3)]
OF_INPUTS: list[tuple[UnaryGradient, Unary]] = [
    (ClampGradient(-0.5, 1.5), ClampValues(-0.5, 1.5)),
    (LeakyReluGradient(0.1), LeakyRelu(0.1)),
    (HardsigmoidGradient(), Hardsigmoid()),
    (HardswishGradient(), Hardswish()),
    (SiluGradient(), Silu()),
    (GeluGradient(), Gelu()),
    (GeluTanhGradient(), GeluTanh()),
    (SoftplusGradient(1.5, 10.0), Softplus(1.5, 10.0)),
    (EluGradient(0.7, 1.2), Elu(0.7, 1.2)),
]
OF_OUTPUTS: list[tuple[UnaryGradient, Unary]] = [
    (ClampGradient(-0.5, 1.5), ClampValues(-0.5, 1.5)),
    (SigmoidGradient(), Sigmoid()),
    (TanhGradient(), Tanh()),
]
# Interesting points, where functions change, and far out.
POINTS = torch.tensor(
    [0.0, -0.0, 0.5, -0.5, 1.5, 3.0, -3.0, 2.999, -2.999, 6.0, -6.0, 9.0, -9.0, 30.0, -30.0, 1e-20, -1e-20]
)


def values(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers of standard deviation three."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def name_of(case: object) -> str:
    """A case's name in the test report."""
    return type(case[0] if isinstance(case, tuple) else case).__name__


@pytest.mark.parametrize("operation", FUNCTIONS, ids=name_of)
def test_functions_equal_pytorch(operation: Unary) -> None:
    for x in (POINTS, values(1, 503)):
        check_kernel(operation, [x], relative=1e-6, absolute=1e-6)


@pytest.mark.parametrize("operation", OF_POSITIVES, ids=name_of)
def test_functions_of_positive_numbers_equal_pytorch(operation: Unary) -> None:
    check_kernel(operation, [values(2, 503).abs() + 1e-3], relative=1e-6)


@pytest.mark.parametrize("function", [Exp(), Tanh(), Sigmoid(), RELU, Gelu(), Sqrt()], ids=name_of)
def test_not_a_number_stays_so(function: Unary) -> None:
    (found,) = check_kernel(function, [torch.tensor([float("nan"), 1.0])])
    assert found.isnan().tolist() == [True, False]


@pytest.mark.parametrize("case", OF_INPUTS, ids=name_of)
def test_gradients_from_inputs_equal_autograd(case: tuple[UnaryGradient, Unary]) -> None:
    gradient, function = case
    x, g = values(3, 301).requires_grad_(), values(4, 301)
    (wanted,) = torch.autograd.grad(function.of(x), x, g)
    (found,) = check_kernel(gradient, [g, x.detach()], relative=2e-6, absolute=2e-6)
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("case", OF_OUTPUTS, ids=name_of)
def test_gradients_from_outputs_equal_autograd(case: tuple[UnaryGradient, Unary]) -> None:
    gradient, function = case
    x, g = values(5, 301).requires_grad_(), values(6, 301)
    y = function.of(x)
    (wanted,) = torch.autograd.grad(y, x, g)
    (found,) = check_kernel(gradient, [g, y.detach()], absolute=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)
BINARIES = st.sampled_from(
    [
        Binary("sum"),
        Binary("sum", 1.0, -1.0),
        Binary("sum", -0.5, 2.0),
        Binary("product"),
        Binary("quotient"),
        Binary("inverse_quotient"),
        Binary("keep_where", 0.25),
        Binary("keep_unless", 0.25),
    ]
)


@given(shape=SHAPES, operation=BINARIES, seed=st.integers(0, 99))
def test_two_tensors_that_lie_alike(shape: tuple[int, ...], operation: Binary, seed: int) -> None:
    a, b = values(seed, *shape), values(seed + 1, *shape).round()
    check_kernel(operation, [a, b])


@given(data=st.data(), operation=BINARIES, seed=st.integers(0, 99))
def test_broadcasting_and_other_memory_orders(data: st.DataObject, operation: Binary, seed: int) -> None:
    shape = data.draw(SHAPES)
    repeated = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    order = data.draw(st.permutations(range(len(shape))))
    own = [1 if repeat else size for size, repeat in zip(shape, repeated, strict=True)]
    a = values(seed, *shape)
    b = values(seed + 1, *[own[axis] for axis in order]).permute(*torch.argsort(torch.tensor(order)).tolist())
    strides = tuple(0 if repeat else stride for repeat, stride in zip(repeated, b.stride(), strict=True))
    sizes, first, second = join_axes(shape, a.stride(), strides)
    described = BroadcastBinary(operation.function, operation.first_scale, operation.second_scale, sizes, first, second)
    storage = torch.as_strided(b, (b.numel(),), (1,))
    (found,) = check_kernel(described, [a, storage])
    torch.testing.assert_close(found.reshape(shape), operation.of(a, b.expand(shape)), rtol=1e-6, atol=1e-6)


def test_axes_are_joined_where_all_walk_as_one() -> None:
    assert join_axes((2, 3, 4), (12, 4, 1), (12, 4, 1)) == ((24,), (1,), (1,))
    assert join_axes((2, 3, 4), (12, 4, 1), (0, 0, 1)) == ((6, 4), (4, 1), (0, 1))
    assert join_axes((2, 1, 4), (4, 4, 1), (1, 8, 2)) == ((2, 4), (4, 1), (1, 2))
    assert join_axes((1, 1), (1, 1)) == ((1,), (0,))


@given(outer=st.integers(1, 4), reduced=st.integers(1, 9), inner=st.integers(1, 5), mean=st.booleans())
def test_sums_and_means(outer: int, reduced: int, inner: int, mean: bool) -> None:
    operation = Sum(outer, reduced, inner, float(reduced) if mean else 1.0)
    check_kernel(operation, [values(7, outer, reduced, inner)], relative=1e-5, absolute=1e-5)


ONE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "relu6": functional.relu6,
    "hardtanh": functional.hardtanh,
    "clamp_max": lambda x: functional.relu(1 - x.clamp_max(0.5).detach()) * x,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "mish": functional.mish,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "elu": lambda x: functional.elu(x, 0.5),
    "selu": functional.selu,
    "softplus": lambda x: functional.softplus(x, 2.0),
    "log_sigmoid_by_hand": lambda x: -torch.log(1 + torch.exp(-x)),
    "roots": lambda x: (x * x + 1).sqrt() + (x * x + 1).rsqrt() - (x * x + 2).reciprocal(),
    "powers": lambda x: x**2 + x**3 - x.pow(1.0) + (x * x + 1) ** 0.3,
    "absolute": torch.abs,
    "negated": lambda x: -x,
    "numbers": lambda x: (3 - x) * 2 / 7 + torch.add(x, 1, alpha=3) - torch.sub(x, 2, alpha=0.5) + 1 / (x * x + 1) - 1,
    "tensors": lambda x: torch.sub(x, x * x, alpha=2) + torch.rsub(x, x.exp()) * x / (x * x + 1),
    "identities": lambda x: (x * 1 + 0) / 1 + torch.zeros(3, 4) * x - torch.ones_like(x),
    "mean": lambda x: x * x.mean() - x.sum(),
    "rows": lambda x: x * x.mean(1, keepdim=True) + x[:, :1] / (x * x + 1) - x.sum(0),
    "columns": lambda x: (x * 2).t() @ x + x.t().mean(1, keepdim=True) * x.t() @ x,
    "transposed": lambda x: x[:, :3] * x[:, :3].t() - x[:, :3].t() / (x[:, :3] ** 2 + 1),
}


@pytest.mark.parametrize("name", sorted(ONE))
def test_functions_are_lowered_with_their_gradients(name: str) -> None:
    module = Applied(ONE[name], (3, 4))
    sample = values(8, 3, 4)
    target = values(9, *module(sample).shape)
    check_program(module, sample, target, lambda y, t: (y * t).sum(), relative=2e-5, absolute=2e-5)


@settings(max_examples=10)
@given(shape=st.tuples(*[st.integers(1, 4)] * 4), dims=st.sets(st.integers(-4, 3), max_size=4), mean=st.booleans())
def test_reductions_of_images(shape: tuple[int, ...], dims: set[int], mean: bool) -> None:
    axes = sorted({axis % 4 for axis in dims})

    def function(x: torch.Tensor) -> torch.Tensor:
        reduced = x.mean(axes, keepdim=True) if mean else x.sum(axes, keepdim=True)
        return reduced * x

    module = Applied(function, (1, shape[1], 1, 1))
    sample = values(10, *shape)
    check_program(module, sample, values(11, *shape), lambda y, t: (y * t).sum(), relative=1e-4, absolute=1e-4)


@settings(max_examples=10)
@given(first=st.tuples(*[st.sampled_from([1, 3])] * 4), channels_last=st.booleans())
def test_broadcasting_of_images(first: tuple[int, ...], channels_last: bool) -> None:
    other = values(12, *first)

    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.permute(0, 2, 3, 1).contiguous() if channels_last else x
        return y * other - other / (y * y + 1)

    module = Applied(function, (1, 3, 1, 1))
    check_program(module, values(13, 3, 3, 3, 3), values(14, 3, 3, 3, 3), lambda y, t: (y * t).sum(), absolute=1e-4)


def test_numbers_are_folded_away() -> None:
    program = lowered(
        Applied(lambda x: x * (torch.zeros(2, 2) + 3) / torch.ones(2, 2), (2, 2)),
        torch.ones(2, 2),
        torch.ones(2, 2),
        lambda y, t: (y * t).sum(),
    )
    forward = [step.operation for step in program.steps if step.phase == "forward"]
    assert forward == [Binary("product"), Affine(3.0), Binary("product"), Sum(1, 4, 1)]
    assert not program.of_kind("constant")


def test_an_image_and_a_channel_scale_need_no_copies() -> None:
    module = Applied(lambda x: x + x * 2, (1, 3, 1, 1))
    program = check_program(
        module, values(15, 2, 3, 4, 5), values(16, 2, 3, 4, 5), lambda y, t: (y * y).sum() + t.sum(), absolute=1e-3
    )
    copied = [step.name for step in program.steps if step.operation.kind == "copy"]
    assert copied == ["output.copy"]  # PyTorch's order, for the caller
