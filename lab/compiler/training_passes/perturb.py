"""Replaces the backward pass by passes with perturbed variables, in front of the forward pass, and their update behind
it. The gradient becomes an estimate: another method, not a pass that keeps the numbers.

The losses of the passes outlive the step's own forward pass; all else that the passes compute lies where that forward
pass has it, in memory that is free while they run.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lab.compiler.model import UPLOAD
from lab.compiler.operations.perturbation import LossDifferences, Perturbation, PerturbedPasses, SteinUpdate
from lab.compiler.program import Program, Step, Tensor
from lab.compiler.training_passes.prune import prune
from lab.errors import CompileError

LOSSES = "<losses>"
"""Name of the losses of the passes; no module path can be equal to it."""


def perturb(program: Program, perturbation: Perturbation, *, uploads: bool = False) -> Program:
    """A program whose trained parameters change by what their perturbations do to the loss.

    Args:
        program: forward, loss and backward, without updates.
        perturbation: how the loss is probed.
        uploads: whether the differences of the losses are summed up in the variable :data:`UPLOAD`, for a server that
            changes the parameters, and the key stays from step to step.

    Raises:
        CompileError: a parameter that is not float32.
    """
    forward = prune(replace(program, gradients={}))
    variables = forward.of_kind("parameter")
    for one in variables:
        if one.dtype != "float32":
            raise CompileError(f"'{one.name}' is {one.dtype}; perturbations are of float32 variables")
    names = tuple(one.name for one in variables)
    sample, target = (forward.of_kind(kind)[0].name for kind in ("input", "target"))
    source = forward.steps[-1].source
    losses = Tensor(LOSSES, (perturbation.passes,))
    passes = Step(
        "perturbed_passes", PerturbedPasses(perturbation, forward, uploads), (sample, target, *names), (LOSSES, *names),
        "forward", source,
    )  # fmt: skip
    if uploads:
        start = np.zeros(perturbation.passes, np.float32)
        kept = Tensor(UPLOAD, (perturbation.passes,), kind="state", value=start)
        differences = Step(
            "loss_differences", LossDifferences(perturbation.passes), (LOSSES, forward.loss, UPLOAD), (UPLOAD,),
            "forward", source,
        )  # fmt: skip
        return forward.with_steps([passes, *forward.steps, differences], losses, kept)
    update = Step(
        "stein_update", SteinUpdate(perturbation), (LOSSES, forward.loss, *names), names, "forward", source
    )
    return forward.with_steps([passes, *forward.steps, update], losses)
