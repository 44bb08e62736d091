"""Copies, views, slices, padding, concatenation, masks of bits: kernels by element, chains of them against autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from helpers.joint_check import Applied, check_program
from helpers.kernel_runner import check_kernel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lab.compiler.operations.copy import Reshape, StridedCopy, StridedExtend, StridedWrite
from lab.compiler.operations.mask import MaskGradient, MaskInside, pack_bits, unpack_bits

Change: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)
TYPES = st.sampled_from([torch.float32, torch.int32, torch.int8])


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """1, 2, 3 … 120, 1, 2 …"""
    return (1 + torch.arange(torch.Size(shape).numel()) % 120).reshape(shape).to(dtype)


@given(shape=SHAPES, data=st.data(), dtype=TYPES)
def test_copies_of_any_part_in_any_order(shape: tuple[int, ...], data: st.DataObject, dtype: torch.dtype) -> None:
    source = numbers(*shape, dtype=dtype)
    order = data.draw(st.permutations(range(len(shape))))
    starts = [data.draw(st.integers(0, size - 1)) for size in shape]
    steps = [data.draw(st.integers(1, 2)) for _ in shape]
    part = source[tuple(slice(start, None, step) for start, step in zip(starts, steps, strict=True))].permute(order)
    copy = StridedCopy(tuple(part.shape), part.stride(), part.storage_offset())
    (found,) = check_kernel(copy, [source], relative=0, absolute=0)
    assert torch.equal(found, part)


@given(shape=SHAPES, repeats=st.integers(1, 4))
def test_copies_repeat(shape: tuple[int, ...], repeats: int) -> None:
    wanted = numbers(*shape).expand(repeats, *shape)
    (found,) = check_kernel(StridedCopy(tuple(wanted.shape), wanted.stride(), 0), [numbers(*shape)])
    assert torch.equal(found, wanted)


def test_a_copy_of_a_copy_reads_the_copy() -> None:
    """A dense slice is a view in PyTorch: the reference of a copy of it counts from the slice, as the device does."""
    (first,) = StridedCopy((2, 4), (4, 1), 8).run([numbers(4, 4)])
    (second,) = check_kernel(StridedCopy((2, 2), (4, 1), 0), [first])
    assert second.tolist() == [[9.0, 10.0], [13.0, 14.0]]


@given(shape=SHAPES, data=st.data(), dtype=TYPES)
def test_parts_are_written_into_zeros_and_extended(
    shape: tuple[int, ...], data: st.DataObject, dtype: torch.dtype
) -> None:
    before = [data.draw(st.integers(0, 2)) for _ in shape]
    after = [data.draw(st.integers(0, 2)) for _ in shape]
    total = tuple(b + size + a for b, size, a in zip(before, shape, after, strict=True))
    wanted = torch.zeros(total, dtype=dtype)
    place = wanted[tuple(slice(b, b + size) for b, size in zip(before, shape, strict=True))]
    place.copy_(numbers(*shape, dtype=dtype))
    sizes = (shape, total, place.stride(), place.storage_offset())
    (written,) = check_kernel(StridedWrite(*sizes), [numbers(*shape, dtype=dtype)], relative=0, absolute=0)
    assert torch.equal(written, wanted)
    earlier = torch.full(total, 7, dtype=dtype)
    (extended,) = StridedExtend(*sizes).run([numbers(*shape, dtype=dtype), earlier])
    assert torch.equal(extended[wanted == 0], earlier[wanted == 0])
    assert torch.equal(extended[wanted != 0], wanted[wanted != 0])


def test_a_reshape_runs_no_code() -> None:
    with pytest.raises(TypeError, match="runs no code"):
        Reshape((2, 3)).call([None], [])
    assert Reshape((2, 3)).run([numbers(6)])[0].shape == (2, 3)


@given(count=st.integers(1, 40), low=st.floats(-2, 0), high=st.floats(0, 2), seed=st.integers(0, 99))
def test_masks_of_bits(count: int, low: float, high: float, seed: int) -> None:
    """Strictly inside the bounds, as autograd's gradient of a clamp in its interior."""
    x = torch.randn(count, generator=torch.Generator().manual_seed(seed)).clamp(low, high)
    (mask,) = check_kernel(MaskInside(low, high), [x], relative=0, absolute=0)
    inside = unpack_bits(mask, count)
    bounds = torch.tensor([low, high])
    assert inside.tolist() == ((x > bounds[0]) & (x < bounds[1])).tolist()
    assert mask.numel() == -(-count // 8)
    gradient = torch.randn(count, generator=torch.Generator().manual_seed(seed + 1))
    (found,) = check_kernel(MaskGradient(), [gradient, mask], relative=0, absolute=0)
    assert torch.equal(found, torch.where(inside, gradient, 0.0))


@given(bits=st.lists(st.booleans(), min_size=1, max_size=70))
def test_bits_are_packed_and_unpacked(bits: list[bool]) -> None:
    assert unpack_bits(pack_bits(torch.tensor(bits)), len(bits)).tolist() == bits


CHANGES: dict[str, Change] = {
    "permute": lambda x: x.permute(*reversed(range(x.ndim))),
    "transpose": lambda x: x.transpose(0, -1),
    "flatten": lambda x: x.flatten(1) if x.ndim > 2 else x,
    "row": lambda x: x.reshape(1, -1),
    "unsqueeze": lambda x: x.unsqueeze(-1) if x.ndim < 5 else x.flatten(0, 1),
    "squeeze": lambda x: x.squeeze() if x.numel() > 1 else x,
    "first": lambda x: x[:1],
    "last": lambda x: x[..., -1:],
    "every_second": lambda x: x[..., ::2],
    "select": lambda x: x.select(0, x.shape[0] - 1) if x.ndim > 1 else x,
    "padded": lambda x: functional.pad(x, (1, 2)),
    "cropped": lambda x: functional.pad(x, (-1, 1)) if x.shape[-1] > 1 else x,
    "doubled": lambda x: torch.cat([x, x * 2], 0),
    "stacked": lambda x: torch.stack([x * 3, x], -1) if x.ndim < 5 else x,
    "halves": lambda x: torch.cat(list(x.chunk(2, -1))[::-1], -1),
    "parts": lambda x: sum((part * 2 for part in x.unbind(0)), start=torch.zeros(())) if x.ndim > 1 else x,
    "expanded": lambda x: x.unsqueeze(0).expand(2, *x.shape) * 1.5 if x.ndim < 5 else x,
    "repeated": lambda x: x.repeat(2, *(1,) * (x.ndim - 1)),
    "scaled": lambda x: x * 0.5,
    "mean": lambda x: x - x.mean(-1, keepdim=True),
}


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=4),
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple),
)
def test_chains_of_changes_of_shape(names: list[str], shape: tuple[int, ...]) -> None:
    """Any order of them keeps elements and gradients in place."""

    def function(x: torch.Tensor) -> torch.Tensor:
        for name in names:
            x = CHANGES[name](x)
        return x

    sample = torch.randn(shape, generator=torch.Generator().manual_seed(len(names)))
    output = function(sample)
    assume(0 < output.ndim <= 5 and output.numel() < 2000)
    target = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    module = Applied(function, (1, shape[1], *(1,) * (len(shape) - 2)))
    check_program(module, sample, target, lambda y, t: (y * y * t).sum(), relative=1e-4, absolute=1e-4)
