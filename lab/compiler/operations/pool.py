"""Pooling over (N, H, W, C), and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor
from lab.compiler.quantized import KernelCall

BYTE_PLACES = 256
"""Windows of at most this many elements keep the place of their maximum in one byte."""


@dataclass(frozen=True)
class Windows:
    """Windows of a pooling layer.

    Attributes:
        batch: samples.
        input, output: (height, width, channels).
        kernel, stride, padding, dilation: (height, width); how far windows reach at the bottom and right follows from
            the output's size.
    """

    batch: int
    input: tuple[int, int, int]
    output: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    @property
    def touch_input(self) -> bool:
        """Whether every window covers an element of the input."""
        return all(
            any(0 <= start * stride - pad + tap * dilation < length for tap in range(kernel))
            for length, size, kernel, stride, pad, dilation in zip(
                self.input[:2],
                self.output[:2],
                self.kernel,
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
            for start in range(size)
        )

    def fields(self) -> tuple[tuple[str, int], ...]:
        """Sizes in the kernels' descriptors."""
        return (
            ("batch", self.batch),
            ("input_height", self.input[0]),
            ("input_width", self.input[1]),
            ("output_height", self.output[0]),
            ("output_width", self.output[1]),
            ("channels", self.input[2]),
            ("kernel_height", self.kernel[0]),
            ("kernel_width", self.kernel[1]),
            ("stride_height", self.stride[0]),
            ("stride_width", self.stride[1]),
            ("pad_top", self.padding[0]),
            ("pad_left", self.padding[1]),
        )

    def image(self, x: torch.Tensor) -> torch.Tensor:
        """A physical input in PyTorch's order."""
        return x.reshape(self.batch, *self.input).permute(0, 3, 1, 2)

    def result(self, y: torch.Tensor) -> torch.Tensor:
        """A physical output in PyTorch's order."""
        return y.reshape(self.batch, *self.output).permute(0, 3, 1, 2)


def _physical(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class AvgPool2d(Operation):
    """Average pooling.

    Attributes:
        windows: sizes.
        adaptive: windows split the input evenly; kernel, stride and padding are not used.
        count_padding: whether padding counts in the divisor.
        divisor: divisor of every window; 0 for its number of elements.
    """

    kind: ClassVar[str] = "avg_pool2d"
    windows: Windows
    adaptive: bool = False
    count_padding: bool = True
    divisor: int = 0

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The layer in PyTorch's order."""
        windows = self.windows
        if self.adaptive:
            return functional.adaptive_avg_pool2d(x, windows.output[:2])
        return functional.avg_pool2d(
            x,
            windows.kernel,
            windows.stride,
            windows.padding,
            ceil_mode=_is_ceil(windows),
            count_include_pad=self.count_padding,
            divisor_override=self.divisor or None,
        )

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (_physical(self.of(self.windows.image(present(inputs[0])))),)

    def fields(self) -> tuple[tuple[str, int], ...]:
        """Values of the kernels' descriptor."""
        return (
            *self.windows.fields(),
            ("adaptive", int(self.adaptive)),
            ("count_padding", int(self.count_padding)),
            ("divisor", self.divisor),
        )

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_avg_pool2d", (), self.fields())


def _is_ceil(windows: Windows) -> bool:
    """Whether the output's size was rounded up."""
    return any(
        size != (length + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, length, kernel, stride, pad, dilation in zip(
            windows.output[:2],
            windows.input[:2],
            windows.kernel,
            windows.stride,
            windows.padding,
            windows.dilation,
            strict=True,
        )
    )


@dataclass(frozen=True)
class AvgPool2dGradient(Operation):
    """Gradient of :class:`AvgPool2d` with respect to its input; the only input is the gradient of its output.

    Attributes:
        layer: the layer.
    """

    kind: ClassVar[str] = "avg_pool2d.gradient"
    layer: AvgPool2d

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        windows = self.layer.windows
        x = torch.zeros(windows.batch, windows.input[2], *windows.input[:2])
        with torch.enable_grad():
            y = self.layer.of(x.requires_grad_())
        (gradient,) = torch.autograd.grad(y, x, windows.result(present(inputs[0])))
        return (_physical(gradient),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall(
            "lab_f32_avg_pool2d_gradient", (), self.layer.fields(), descriptor="lab_f32_avg_pool2d_t"
        )


@dataclass(frozen=True)
class MaxPool2d(Operation):
    """Max pooling.

    Attributes:
        windows: sizes.
    """

    kind: ClassVar[str] = "max_pool2d"
    windows: Windows

    def find(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer in PyTorch's order: maxima, and where in the image they were found."""
        windows = self.windows
        y, indices = torch.ops.aten.max_pool2d_with_indices(
            x, windows.kernel, windows.stride, windows.padding, windows.dilation, _is_ceil(windows)
        )
        return y, indices

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        return (_physical(self.find(self.windows.image(present(inputs[0])))[0]),)

    def fields(self) -> tuple[tuple[str, int], ...]:
        """Values of the kernels' descriptor."""
        dilation = self.windows.dilation
        return (*self.windows.fields(), ("dilation_height", dilation[0]), ("dilation_width", dilation[1]))

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_max_pool2d", (), self.fields())

    def origins(self) -> torch.Tensor:
        """Row and column, (2, height, width), where every window starts."""
        rows = torch.arange(self.windows.output[0]) * self.windows.stride[0] - self.windows.padding[0]
        columns = torch.arange(self.windows.output[1]) * self.windows.stride[1] - self.windows.padding[1]
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


@dataclass(frozen=True)
class MaxPool2dPlaces(MaxPool2d):
    """Max pooling that also yields the place of each maximum in its window: ``row · kernel width + column``."""

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        y, indices = self.find(self.windows.image(present(inputs[0])))
        rows, columns = self.origins()
        width = self.windows.input[1]
        row = (indices // width - rows) // self.windows.dilation[0]
        column = (indices % width - columns) // self.windows.dilation[1]
        places = row * self.windows.kernel[1] + column
        return _physical(y), _physical(places.to(places_type(self.windows)))

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_max_pool2d_places", (), self.fields(), descriptor="lab_f32_max_pool2d_t")


def places_type(windows: Windows) -> torch.dtype:
    """Element type of the places."""
    return torch.uint8 if windows.kernel[0] * windows.kernel[1] <= BYTE_PLACES else torch.int32


@dataclass(frozen=True)
class MaxPool2dGradient(Operation):
    """Gradient of max pooling with respect to its input; inputs are the gradient of its output, and the places.

    Attributes:
        layer: the layer.
    """

    kind: ClassVar[str] = "max_pool2d.gradient"
    layer: MaxPool2d

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        windows = self.layer.windows
        places = windows.result(present(inputs[1])).long()
        rows, columns = self.layer.origins()
        row = rows + places // windows.kernel[1] * windows.dilation[0]
        column = columns + places % windows.kernel[1] * windows.dilation[1]
        gradient = torch.zeros(windows.batch, windows.input[2], windows.input[0] * windows.input[1])
        found = (row * windows.input[1] + column).flatten(2)
        gradient.scatter_add_(2, found, windows.result(present(inputs[0])).flatten(2))
        return (_physical(gradient.reshape(windows.batch, windows.input[2], *windows.input[:2])),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall(
            "lab_f32_max_pool2d_gradient", (), self.layer.fields(), descriptor="lab_f32_max_pool2d_t"
        )
