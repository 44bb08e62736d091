"""Gradients of convolutions on patches in place of positions: gradient filtering.

Forward is unchanged, but what it keeps of a layer's input is the *sum* over each patch; backward takes the *mean* of
the output's gradient over each patch. Both gradients are then those of a 1×1 convolution on the map of patches: that of
the weight is the same for every tap of the kernel, that of the input goes through the sum of the weight over its taps
and is the same at every position of a patch. The gradient of a bias stays exact. Source: Yang et al., "Efficient
On-device Training via Gradient Filtering", CVPR 2023, section 3. Like ``to_int8``, this pass changes numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.compiler.graph import Shape
from lab.compiler.operations.conv2d import Conv2dInputGradient, Conv2dWeightGradient, ConvGeometry
from lab.compiler.operations.copy import Reshape, StridedCopy
from lab.compiler.operations.pool import AvgPool2d, Windows
from lab.compiler.operations.reduce import Sum
from lab.compiler.program import Operation, Phase, Program, Step, Tensor
from lab.errors import CompileError


def filter_gradients(program: Program, patches: Mapping[str, int]) -> Program:
    """Compute the gradients of some convolutions on patches.

    Args:
        program: float32, with gradients and without updates.
        patches: path of a convolution to the side of its patches, positions of its output map; 1 changes nothing.

    Raises:
        CompileError: a layer without a gradient, a side below 1, or a map that patches do not divide.
    """
    work = _Work(program)
    for layer, side in patches.items():
        if side != 1:
            work.filter(layer, side)
    return work.rewritten()


@dataclass
class _Work:
    """Steps in the making: what takes the place of a step, and what comes right behind the producer of a tensor."""

    program: Program
    tensors: dict[str, Tensor] = field(default_factory=dict)
    replaced: dict[str, list[Step]] = field(default_factory=dict)
    behind: dict[str, dict[str, Step]] = field(default_factory=dict)

    def filter(self, layer: str, side: int) -> None:
        """Rewrite both gradients of a layer."""
        weight = f"{layer}.weight"
        found = [step for step in self.program.steps if weight in (self._weight_of(step), *step.inputs)]
        gradients = [
            step for step in found if isinstance(step.operation, (Conv2dWeightGradient, Conv2dInputGradient))
        ]
        if not gradients:
            raise CompileError(
                f"gradients of '{layer}' are to be filtered, which is no convolution with a gradient",
                hint="name convolutions whose weight is trained, or that the gradient passes on its way to one",
            )
        for step in gradients:
            if isinstance(step.operation, Conv2dWeightGradient):
                self._weight_gradient(step, _Patches.of(layer, step.operation.geometry, side))
            elif isinstance(step.operation, Conv2dInputGradient):
                self._input_gradient(step, _Patches.of(layer, step.operation.geometry, side))

    def rewritten(self) -> Program:
        """The program with all that was asked for."""
        steps = [step for one in self.program.of_kind("input") for step in self.behind.get(one.name, {}).values()]
        for step in self.program.steps:
            steps += self.replaced.get(step.name, [step])
            steps += [made for name in step.outputs for made in self.behind.get(name, {}).values()]
        return self.program.with_steps(steps, *self.tensors.values())

    def _weight_of(self, step: Step) -> str:
        """The parameter whose gradient a step computes."""
        names = {gradient: parameter for parameter, gradient in self.program.gradients.items()}
        return next((names[name] for name in step.outputs if name in names), "")

    def _weight_gradient(self, step: Step, patches: _Patches) -> None:
        x, gradient = step.inputs
        summed = f"{x}.patch_sums_{patches.input_side[0]}x{patches.input_side[1]}"
        self._keep(step, x, summed, patches.sums())
        means = self._means(step, gradient, patches)
        product = Conv2dWeightGradient(patches.small)
        if patches.taps == 1:
            self.replaced[step.name] = [_step(step, step.name, product, (summed, means), step.outputs[0])]
            return
        single = self._made(f"{step.outputs[0]}.tap", patches.small.weight_shape)
        self.replaced[step.name] = [
            _step(step, f"{step.name}.tap", product, (summed, means), single),
            _step(step, step.name, patches.to_every_tap(), (single,), step.outputs[0]),
        ]

    def _input_gradient(self, step: Step, patches: _Patches) -> None:
        gradient, weight = step.inputs
        means, steps = self._means(step, gradient, patches), list[Step]()
        if patches.taps > 1:
            summed = self._made(f"{step.outputs[0]}.taps", patches.small.weight_shape)
            steps.append(_step(step, summed, patches.sum_of_taps(), (weight,), summed))
            weight = summed
        coarse = self._made(f"{step.outputs[0]}.patches", (patches.small.batch, *patches.small.input))
        spread = patches.to_every_position()
        wide = self._made(f"{step.outputs[0]}.spread", spread.shape)
        shape = self.program.tensors[step.outputs[0]].shape
        self.replaced[step.name] = [
            *steps,
            _step(step, coarse, Conv2dInputGradient(patches.small), (means, weight), coarse),
            _step(step, wide, spread, (coarse,), wide),
            _step(step, step.name, Reshape(shape), (wide,), step.outputs[0]),
        ]

    def _means(self, step: Step, gradient: str, patches: _Patches) -> str:
        """The means of a gradient over patches, computed once for both gradients of a layer."""
        name = f"{gradient}.patch_means_{patches.side}"
        self._keep(step, gradient, name, patches.means())
        return name

    def _keep(self, step: Step, source: str, name: str, pool: AvgPool2d) -> None:
        """Compute ``name`` right behind ``source``, once."""
        producer = self.program.producer(source)
        phase: Phase = "forward" if producer is None else producer.phase
        self._made(name, (pool.windows.batch, *pool.windows.output))
        made = Step(name, pool, (source,), (name,), phase, (producer or step).source)
        self.behind.setdefault(source, {})[name] = made

    def _made(self, name: str, shape: Shape) -> str:
        self.tensors[name] = Tensor(name, shape)
        return name


@dataclass(frozen=True)
class _Patches:
    """Patches of one convolution.

    Attributes:
        geometry: of the layer.
        small: of the 1×1 convolution on the map of patches.
        side: positions of the output map along a side of a patch.
    """

    geometry: ConvGeometry
    small: ConvGeometry
    side: int

    @staticmethod
    def of(layer: str, geometry: ConvGeometry, side: int) -> _Patches:
        """The patches of a layer.

        Raises:
            CompileError: they do not divide its maps.
        """
        (height, width, outputs), stride = geometry.output, geometry.stride
        scaled = (height * stride[0], width * stride[1])
        if side < 1 or height % side or width % side or scaled != geometry.input[:2]:
            raise CompileError(
                f"'{layer}': patches of {side}x{side} do not divide its maps, {geometry.input[:2]} to "
                f"{geometry.output[:2]} positions at stride {stride}",
                hint=f"sides that divide both: {_divisors(height, width)}; the input has stride times the output's",
            )
        cells = (height // side, width // side)
        small = ConvGeometry(
            geometry.batch, (*cells, geometry.input[2]), (*cells, outputs), (1, 1), (1, 1), (0, 0), (1, 1),
            geometry.groups,
        )  # fmt: skip
        return _Patches(geometry, small, side)

    @property
    def taps(self) -> int:
        """Taps of a filter."""
        return math.prod(self.geometry.kernel)

    @property
    def input_side(self) -> tuple[int, int]:
        """Positions of the input map along the sides of a patch."""
        return self.side * self.geometry.stride[0], self.side * self.geometry.stride[1]

    def sums(self) -> AvgPool2d:
        """Sums of the input."""
        side = self.input_side
        windows = Windows(self.geometry.batch, self.geometry.input, self.small.input, side, side, (0, 0))
        return AvgPool2d(windows, divisor=1)

    def means(self) -> AvgPool2d:
        """Means of the output's gradient."""
        side = (self.side, self.side)
        return AvgPool2d(Windows(self.geometry.batch, self.geometry.output, self.small.output, side, side, (0, 0)))

    def sum_of_taps(self) -> Operation:
        """The weight of the 1×1 convolution."""
        if self.geometry.depthwise:
            return Sum(1, self.taps, self.geometry.input[2])
        return Sum(self.geometry.output[2], self.taps, self.geometry.input[2] // self.geometry.groups)

    def to_every_tap(self) -> StridedCopy:
        """From the gradient of the 1×1 weight to that of the layer's."""
        if self.geometry.depthwise:
            return StridedCopy(self.geometry.weight_shape, (0, 0, 1), 0)
        return StridedCopy(self.geometry.weight_shape, (self.geometry.input[2] // self.geometry.groups, 0, 0, 1), 0)

    def to_every_position(self) -> StridedCopy:
        """From the map of patches to the input's map: (N, rows, side, columns, side, C)."""
        rows, columns, channels = self.small.input
        high, wide = self.input_side
        shape = (self.small.batch, rows, high, columns, wide, channels)
        return StridedCopy(shape, (rows * columns * channels, columns * channels, 0, channels, 0, 1), 0)


def _divisors(height: int, width: int) -> str:
    common = math.gcd(height, width)
    return ", ".join(str(side) for side in range(1, common + 1) if common % side == 0)


def _step(template: Step, name: str, operation: Operation, inputs: tuple[str, ...], output: str) -> Step:
    return Step(name, operation, inputs, (output,), "backward", template.source)
