"""One bit per element for the gradients of clamps: the same bits in the parameters, fewer bytes kept."""

from __future__ import annotations

import torch
from helpers.random_networks import Case, case, cases
from hypothesis import given, settings

from lab.compiler.memory import kept_for_backward, layout
from lab.compiler.operations.mask import MaskInside
from lab.compiler.operations.unary import ClampGradient
from lab.compiler.program import Program
from lab.compiler.training_passes import fuse_activation, pack_masks, prune


def kept_bytes(program: Program) -> int:
    """Bytes that forward leaves for backward."""
    return sum(program.tensors[name].size_bytes for name in kept_for_backward(program, layout(program)))


@settings(max_examples=10, deadline=None)
@given(case=cases())
def test_gradients_are_the_same_bits_from_fewer_bytes(case: Case) -> None:
    plain = fuse_activation(prune(case.program()))
    packed = pack_masks(plain)
    before, after = case.gradients(plain), case.gradients(packed)
    assert all(torch.equal(before[name], after[name]) for name in before)
    masks = [tensor for tensor in packed.tensors.values() if tensor.dtype == "bits"]
    saved = sum(tensor.elements * 4 - tensor.size_bytes for tensor in masks)
    assert kept_bytes(packed) == kept_bytes(plain) - saved


def test_a_clamp_whose_output_nobody_else_reads_is_packed() -> None:
    """Batch norm keeps the convolution's output; the clamp behind it feeds only the pooling."""
    packed = pack_masks(prune(case([(4, 3, False, True, 1)], 3).program()))
    (mask,) = [step for step in packed.steps if isinstance(step.operation, MaskInside)]
    assert (mask.operation.low, mask.operation.high) == (0.0, 6.0)  # type: ignore[attr-defined]
    assert packed.tensors[mask.outputs[0]].size_bytes == 2 * 6 * 6 * 4 // 8
    assert not [step for step in packed.steps if isinstance(step.operation, ClampGradient)]


def test_an_output_that_the_next_layer_keeps_is_not_packed() -> None:
    """The second convolution's weight gradient reads it anyway: a mask would be kept besides."""
    plain = fuse_activation(prune(case([(4, 3, False, False, 0), (3, 1, False, False, 3)], 4).program()))
    assert pack_masks(plain).steps == plain.steps
