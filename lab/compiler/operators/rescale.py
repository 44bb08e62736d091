"""Change of quantisation, with an optional clamp; what an imported model does where tensors of two scales meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from lab.compiler.arithmetic import rescale, split_multiplier
from lab.compiler.graph import Shape
from lab.compiler.quantized import Affine, KernelCall, QuantizedOperator


@dataclass(frozen=True)
class QuantizedRescale(QuantizedOperator):
    """From one int8 quantisation to another, in place where the input dies here.

    Attributes:
        input, output: quantisations.
        real_multiplier: input scale over output scale.
        bounds: clamp of the output.
    """

    kind: ClassVar[str] = "rescale"
    in_place: ClassVar[bool] = True
    input: Affine
    output: Affine
    real_multiplier: float
    bounds: tuple[int, int] = (-128, 127)

    def run(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        multiplier, shift = split_multiplier(self.real_multiplier)
        scaled = rescale(inputs[0] - self.input.zero_point, torch.tensor(multiplier), torch.tensor(shift))
        return (scaled + self.output.zero_point).clamp(*self.bounds)

    def call(self, inputs: Sequence[Shape], output: Shape) -> KernelCall:
        multiplier, shift = split_multiplier(self.real_multiplier)
        fields = (
            ("size", int(np.prod(output))),
            ("multiplier", multiplier),
            ("shift", shift),
            ("input_zero_point", self.input.zero_point),
            ("output_zero_point", self.output.zero_point),
            ("output_minimum", self.bounds[0]),
            ("output_maximum", self.bounds[1]),
        )
        return KernelCall("lab_rescale", (), fields)
