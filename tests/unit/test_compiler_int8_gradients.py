"""Gradients of the int8 program against a straight-through, fake-quantised model that PyTorch differentiates.

The model shares no arithmetic with the compiler: the user's modules in float64, with real weights, and hooks that put
every activation on its int8 grid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from helpers.int8_training import CROSS_ENTROPY, everything
from torch import nn

from lab.compiler.graph import to_nhwc
from lab.compiler.operations.copy import StridedCopy
from lab.compiler.operations.int8_training import Int8BiasSgd, Int8WeightUpdate
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.program import Program, TrainingState
from lab.compiler.quantized import Affine
from lab.compiler.training import TrainingModel, compile_training

ROUNDED_TWICE = 0.52
"""Most steps of the grid between a real value and its int8: TFLite rounds the product with a multiplier, and once more
what is left after the shift to the right; the first costs half of 2^-shift, and these layers shift by five or more."""


class Add(nn.Module):
    """A sum as a module, so that a hook can round it."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class Join(nn.Module):
    """A concatenation as a module."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat((a, b), 1)


class Mixed(nn.Module):
    """Full, depthwise and pointwise convolutions, a residual, a concatenation, pools and a hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_act = nn.Conv2d(2, 6, 3, 2, 1), nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.depthwise, self.depthwise_act = nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.ReLU6()
        self.project, self.add = nn.Conv2d(6, 6, 1), Add()
        self.branch, self.swish, self.join = nn.Conv2d(6, 4, 3, 1, 1), nn.Hardswish(), Join()
        self.last, self.last_act, self.average = nn.Conv2d(10, 8, 3, 1, 1), nn.ReLU(), nn.AvgPool2d(2)
        self.hidden, self.hidden_act, self.head = nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem_act(self.stem(x)))
        x = self.add(x, self.project(self.depthwise_act(self.depthwise(x))))
        x = self.join(x, self.swish(self.branch(x)))
        x = self.average(self.last_act(self.last(x))).flatten(1)
        y: torch.Tensor = self.head(self.hidden_act(self.hidden(x)))
        return y


def sequence() -> nn.Module:
    """One dimension."""
    network = nn.Sequential()
    network.add_module("first", nn.Conv1d(3, 6, 5, 2, 2))
    network.add_module("first_act", nn.ReLU())
    network.add_module("second", nn.Conv1d(6, 8, 5, 2, 2))
    network.add_module("second_act", nn.ReLU())
    network.add_module("average", nn.AdaptiveAvgPool1d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("head", nn.Linear(8, 4))
    return network


class Straight(torch.autograd.Function):
    """Puts an int8 value in the place of a real one; gradients pass where ``passes`` is one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: torch.Tensor, passes: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(passes)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (passes,) = ctx.saved_tensors
        return gradients[0] * passes, None, None


@dataclass
class Rounding:
    """Hooks that round the outputs of layers to the program's grids.

    Both sides must be at the same point, so the program's value is taken, once it is shown to be the rounded real one.

    Attributes:
        program: with int8 tensors.
        values: of its last run.
    """

    program: Program
    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def attach(self, fake: nn.Module) -> None:
        """Hook every layer the program has an int8 tensor for; where an activation is fused, that is the activation."""
        for path, layer in fake.named_modules():
            name = self._tensor(path)
            if name:
                layer.register_forward_hook(self._hook(name))

    def _tensor(self, path: str) -> str:
        """The last int8 tensor that forward computes for a module."""
        computed = [step for step in self.program.steps if not isinstance(step.operation, StridedCopy)]
        produced = [name for step in computed if step.phase == "forward" for name in step.outputs]
        own = [name for name in produced if name == path or (path and name.startswith(f"{path}."))]
        return next((name for name in reversed(own) if self.program.tensors[name].affine is not None), "")

    def _hook(self, name: str) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
        affine = self.program.tensors[name].affine
        assert affine is not None

        def hook(layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            found = self.values[name].double()
            if output.ndim > 2:
                found = found.reshape(1, *output.shape[2:], output.shape[1]).movedim(-1, 1)
            found = found.reshape(output.shape)
            raw = (output.detach() / affine.scale + affine.zero_point).clamp(-128, 127)
            assert float((raw - found).abs().max()) <= ROUNDED_TWICE, name
            inside = bounds_of(layer, affine)
            passes = torch.ones_like(found)
            if inside is not None:
                passes = ((found > inside[0]) & (found < inside[1])).double()
            real = (found - affine.zero_point) * affine.scale
            rounded: torch.Tensor = Straight.apply(output, real, passes)  # type: ignore[no-untyped-call]
            return rounded

        return hook


def bounds_of(module: nn.Module, affine: Affine) -> tuple[int, int] | None:
    """Where the gradient of a clamp passes: strictly inside its int8 bounds."""
    if not isinstance(module, (nn.ReLU, nn.ReLU6)):
        return None
    six = affine.zero_point + round(6 / affine.scale) if isinstance(module, nn.ReLU6) else 127
    return affine.zero_point, min(six, 127)


def with_weights_of(module: nn.Module, program: Program, memory: dict[str, torch.Tensor]) -> nn.Module:
    """A copy in float64 with the real values of the program's weights."""
    fake = copy.deepcopy(module).double()
    with torch.no_grad():
        for tensor in program.of_kind("parameter"):
            parameter = fake.get_parameter(tensor.name)
            stored = memory[tensor.name].numpy()
            if tensor.grid is None:
                parameter.copy_(memory[tensor.name].reshape(parameter.shape).double())
            elif parameter.ndim == 1:
                owner = memory[tensor.name.replace("bias", "weight")].numpy()
                parameter.copy_(torch.from_numpy(tensor.grid.real_bias(stored, owner)).double())
            else:
                real = torch.from_numpy(tensor.grid.real_weight(stored)).double()
                parameter.copy_(channels_first(real, parameter.shape))
    return fake


def channels_first(weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(O, …, I) to PyTorch's order; a filter per channel has no I."""
    if len(shape) <= 2:
        return weight.reshape(shape)
    if shape[1] == 1 and weight[0].numel() == np.prod(shape[2:]):
        return weight.reshape(shape)
    return weight.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def gradients_of(program: Program, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradient every update consumes, in the order of PyTorch's parameter."""
    found: dict[str, torch.Tensor] = {}
    for step in program.steps:
        if step.phase != "update":
            continue
        name = step.outputs[0]
        tensor = program.tensors[name]
        if isinstance(step.operation, Int8WeightUpdate):
            geometry = step.operation.update.geometry
            weight = geometry.to_torch_weight(values[step.inputs[1]])
            found[name] = weight.reshape(tensor.torch_shape)
        elif isinstance(step.operation, Int8BiasSgd):
            found[name] = values[step.inputs[0]].reshape(-1)
        else:
            found[name] = values[step.inputs[1]].reshape(tensor.torch_shape)
    return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mixed": (Mixed, (2, 16, 16)),
    "sequence": (sequence, (3, 32)),
}


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_those_of_the_straight_through_model(network: str) -> None:
    build, shape = NETWORKS[network]
    torch.manual_seed(5)
    module, data = build().eval(), torch.randn(16, *shape)
    model = compile_training(
        module,
        data[:1],
        loss=CROSS_ENTROPY,
        train=everything,
        optimizer=Sgd(),
        precision="int8",
        calibration=data,
        immediate=False,
    )
    program, memory = model.program, model.program.initial_memory()
    fake, rounding = with_weights_of(module, program, memory), Rounding(program)
    rounding.attach(fake)
    for number in range(4):
        sample = torch.from_numpy(model.compiled.input.quantize(to_nhwc(data[number : number + 1]).numpy()))
        label = torch.tensor([number])
        rounding.values = program.run(sample, label.to(torch.int32), dict(memory), TrainingState(0.0, 1, 1))
        expected = reference_gradients(fake, real_input(model, sample), label)
        found = gradients_of(program, rounding.values)
        assert sorted(found) == sorted(expected)
        for name, gradient in found.items():
            error = (gradient.double() - expected[name]).norm() / expected[name].norm()
            assert float(error) < 1e-5, name


def real_input(model: TrainingModel, sample: torch.Tensor) -> torch.Tensor:
    """An int8 sample as the real one PyTorch takes."""
    spec = model.compiled.input
    real = (sample.double() - spec.zero_point) * spec.scale
    return real.permute(0, 3, 1, 2) if real.ndim == 4 else real


def reference_gradients(fake: nn.Module, x: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
    """PyTorch's gradients by parameter."""
    names = [name for name, _ in fake.named_parameters()]
    gradients = torch.autograd.grad(CROSS_ENTROPY(fake(x), label), list(fake.parameters()))
    return dict(zip(names, gradients, strict=True))
