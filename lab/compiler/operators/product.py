"""Matrix products of two activations, as attention has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.arithmetic import product_multiplier, rescale
from lab.compiler.graph import Operator, Shape
from lab.compiler.operations.matmul import MatMul
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator
from lab.errors import CompileError

MOST_DEPTH = 1 << 14
"""Sums of this many products stay below 2^30."""


@dataclass(frozen=True)
class Product(Operator):
    """``a · b``.

    Attributes:
        sizes: how the operands lie; without bias or clamp.
    """

    kind: ClassVar[str] = "matmul"
    sizes: MatMul

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (self.sizes.batch, self.sizes.rows, self.sizes.columns)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.sizes.product(inputs[0], inputs[1])

    def quantize(self, inputs: Sequence[Affine], output: Affine) -> QuantizedOperator:
        if self.sizes.depth > MOST_DEPTH:
            raise CompileError(
                f"a product over {self.sizes.depth} elements; at most {MOST_DEPTH} are allowed",
                hint="use precision='float32'",
            )
        return QuantizedProduct(self.sizes, (inputs[0], inputs[1]), output)


@dataclass(frozen=True)
class QuantizedProduct(QuantizedOperator):
    """The product in int8, to the bit as ``firmware/runtime/lab_matmul.h``.

    Attributes:
        sizes: how the operands lie.
        inputs, output: quantisations.
    """

    kind: ClassVar[str] = "matmul"
    sizes: MatMul
    inputs: tuple[Affine, Affine]
    output: Affine

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        # float64 holds these sums exactly.
        centred = [(x - affine.zero_point).to(torch.float64) for x, affine in zip(inputs, self.inputs, strict=True)]
        sums = self.sizes.product(centred[0], centred[1]).to(torch.int64)
        multiplier, shift = product_multiplier(self.inputs, self.output)
        return (rescale(sums, torch.tensor(multiplier), torch.tensor(shift)) + self.output.zero_point).clamp(-128, 127)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        sizes, (multiplier, shift) = self.sizes, product_multiplier(self.inputs, self.output)
        fields = (
            ("batch", sizes.batch),
            ("rows", sizes.rows),
            ("columns", sizes.columns),
            ("depth", sizes.depth),
            ("transpose_first", int(sizes.transpose_a)),
            ("transpose_second", int(sizes.transpose_b)),
            ("first_zero_point", self.inputs[0].zero_point),
            ("second_zero_point", self.inputs[1].zero_point),
            ("multiplier", multiplier),
            ("shift", shift),
            ("output_zero_point", self.output.zero_point),
        )
        return KernelCall("lab_matmul", (), fields)

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int:
        return self.sizes.batch * self.sizes.rows * self.sizes.columns * self.sizes.depth
