"""A module with its loss through export and lowering, against autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from helpers.kernel_runner import check_kernel
from torch import nn

from lab.compiler.joint import export_training
from lab.compiler.lowering import lower
from lab.compiler.program import Program, Update

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Applied(nn.Module):
    """A function of a scaled sample: the scale is trained, so that the gradient reaches the function's input."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``function(x · scale)``."""
        return self.function(x * self.scale)


def lowered(module: nn.Module, sample: torch.Tensor, target: torch.Tensor, loss: Loss) -> Program:
    """The program of a module with everything trained."""
    return lower(export_training(module, sample, target, loss, [name for name, _ in module.named_parameters()]))


def check_program(
    module: nn.Module,
    sample: torch.Tensor,
    target: torch.Tensor,
    loss: Loss,
    *,
    relative: float = 1e-5,
    absolute: float = 1e-6,
    kernels: bool = True,
) -> Program:
    """Output, loss and every gradient of the lowered program equal autograd's; with ``kernels`` every step's kernel
    equals its reference on the values that occur."""
    program = lowered(module, sample, target, loss)
    values = program.run(_physical(program, sample), target, program.initial_memory())
    module.eval()
    output = module(sample)
    wanted = loss(output, target)
    named = dict(module.named_parameters())
    gradients = torch.autograd.grad(wanted, list(named.values()))
    close = partial(torch.testing.assert_close, rtol=relative, atol=absolute)
    close(values[program.output].reshape(output.shape), output.detach())
    close(values[program.loss].reshape(()), wanted.detach())
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        tensor = program.tensors[name]
        found = values[program.gradients[name]].reshape(tensor.shape)
        close(found.permute(tensor.permutation).reshape(parameter.shape), gradient)
    if kernels:
        _check_steps(program, values, relative, absolute)
    return program


def _check_steps(program: Program, values: dict[str, torch.Tensor], relative: float, absolute: float) -> None:
    for step in program.steps:
        if isinstance(step.operation, Update) or step.operation.alias:
            continue
        if step.operation.__class__.__module__.endswith(".conv2d"):
            continue  # their descriptors are nested: test_kernels_f32_convolutions checks them
        inputs = [values[name] if name else None for name in step.inputs]
        check_kernel(step.operation, inputs, relative=relative, absolute=absolute)


def _physical(program: Program, sample: torch.Tensor) -> torch.Tensor:
    (tensor,) = program.of_kind("input")
    if sample.ndim == 4:
        sample = sample.permute(0, 2, 3, 1)
    return sample.contiguous().reshape(tensor.shape)
