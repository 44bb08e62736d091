"""Convolutions and matrix products of random shapes: lowering against autograd, every step's kernel in C."""

from __future__ import annotations

from itertools import pairwise

import torch
from helpers.joint_check import check_program
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler.operations.conv2d import Conv2d
from lab.compiler.operations.matmul import MatMul


def values(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def product_loss(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient is the target."""
    return (y * target).sum()


class Two(nn.Module):
    """A layer behind a pointwise one, so that the layer's input has a gradient, too."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``second(first(x))``."""
        y: torch.Tensor = self.second(self.first(x))
        return y


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution of one or two dimensions, any groups, and the shape of its input."""
    rank = draw(st.sampled_from([1, 2]))
    axes = st.tuples(*[st.integers(1, 3)] * rank)
    groups, inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, stride, dilation = draw(axes), draw(axes), draw(st.tuples(*[st.integers(1, 2)] * rank))
    padding = draw(st.tuples(*[st.integers(0, 2)] * rank))
    size = draw(st.tuples(*[st.integers(1, 7)] * rank))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(s + 2 * p >= r for s, p, r in zip(size, padding, reach, strict=True)))
    kind = nn.Conv1d if rank == 1 else nn.Conv2d
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = kind(groups * inputs, groups * outputs, kernel, stride, padding, dilation, groups, draw(st.booleans()))
    return layer, (draw(st.integers(1, 2)), groups * inputs, *size)


@settings(max_examples=25, deadline=None)
@given(case=convolutions(), seed=st.integers(0, 99))
def test_convolutions(case: tuple[nn.Module, tuple[int, ...]], seed: int) -> None:
    layer, shape = case
    pointwise = (nn.Conv1d if len(shape) == 3 else nn.Conv2d)(shape[1], shape[1], 1)
    module, sample = Two(pointwise, layer), values(seed, *shape)
    target = values(seed + 1, *module(sample).shape)
    program = check_program(module, sample, target, product_loss, relative=2e-4, absolute=2e-4)
    copied = [step.name for step in program.steps if step.operation.kind == "copy"]
    # The caller's target and output lie as PyTorch's do, and so does a sample that is no image: it is turned in forward
    # and again in backward, rather than kept.
    assert len(copied) <= (2 if len(shape) == 4 else 4), copied
    assert sum(isinstance(step.operation, Conv2d) for step in program.steps) == 2


@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=3, max_size=4), rows=st.integers(1, 4), deep=st.booleans())
def test_linear_layers(sizes: list[int], rows: int, deep: bool) -> None:
    """Of rows, or of rows of a sequence."""
    torch.manual_seed(len(sizes))
    layers = [nn.Linear(a, b, bias=number % 2 == 0) for number, (a, b) in enumerate(pairwise(sizes))]
    module = nn.Sequential(*layers)
    sample = values(rows, *((2, rows) if deep else (rows,)), sizes[0])
    target = values(3, *module(sample).shape)
    program = check_program(module, sample, target, product_loss, relative=1e-4, absolute=1e-4)
    assert not [step for step in program.steps if step.operation.kind == "copy"]


class Products(nn.Module):
    """Products of stacked matrices, one of them transposed where wanted."""

    def __init__(self, depth: int, columns: int, transposed: tuple[bool, bool]) -> None:
        super().__init__()
        self.transposed = transposed
        self.left = nn.Linear(depth, depth)
        self.right = nn.Parameter(values(1, columns, depth) if transposed[1] else values(1, depth, columns))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``left(x)ᵗ? · rightᵗ?``, batched."""
        a = self.left(x)
        a = a.transpose(-1, -2).contiguous().transpose(-1, -2) if self.transposed[0] else a
        b = self.right.t() if self.transposed[1] else self.right
        y: torch.Tensor = torch.matmul(a, b.expand(len(x), *b.shape))
        return y


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 5),
    depth=st.integers(1, 5),
    columns=st.integers(1, 5),
    transposed=st.tuples(st.booleans(), st.booleans()),
)
def test_batched_products(batch: int, rows: int, depth: int, columns: int, transposed: tuple[bool, bool]) -> None:
    module = Products(depth, columns, transposed)
    sample = values(batch, batch, rows, depth)
    target = values(5, batch, rows, columns)
    program = check_program(module, sample, target, product_loss, relative=1e-4, absolute=1e-4)
    assert any(isinstance(step.operation, MatMul) for step in program.steps)
