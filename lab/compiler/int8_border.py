"""A float32 program whose caller has int8: what goes in is widened first, what comes out is rounded last."""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.operations.int8_training import Dequantize, Quantize
from lab.compiler.program import Program, Step, Tensor
from lab.compiler.quantized import Affine
from lab.errors import CompileError


def int8_border(program: Program, taken: Affine, given: Affine) -> Program:
    """The program between int8 input and int8 output; all steps between them stay as they are.

    Args:
        program: of inference, float32 throughout.
        taken, given: quantisation of input and output.

    Raises:
        CompileError: an input or output that is not float32.
    """
    sample, output = program.of_kind("input")[0], program.tensors[program.output]
    for one in (sample, output):
        if one.dtype != "float32":
            raise CompileError(
                f"'{one.name}' is {one.dtype}, and an int8 border is made of float32",
                hint="compile for inference in float32",
            )
    # No module path can be equal to these.
    real, rounded = Tensor(f"{sample.name}.real", sample.shape), "<output>.int8"
    steps = (
        Step(real.name, Dequantize(taken), (sample.name,), (real.name,), "forward", program.steps[0].source),
        *(
            replace(step, inputs=tuple(real.name if name == sample.name else name for name in step.inputs))
            for step in program.steps
        ),
        Step(rounded, Quantize(given), (output.name,), (rounded,), "forward", program.steps[-1].source),
    )
    return replace(program, output=rounded).with_steps(
        steps,
        replace(sample, dtype="int8", affine=taken),
        real,
        Tensor(rounded, output.shape, "int8", affine=given),
    )
