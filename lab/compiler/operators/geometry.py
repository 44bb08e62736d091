"""Window geometry shared by convolutions and pools."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lab.compiler.graph import Shape


@dataclass(frozen=True)
class Window:
    """A sliding window.

    Attributes:
        kernel, stride: (height, width).
        top, bottom, left, right: padding.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def output_size(self, shape: Shape) -> tuple[int, int]:
        """Output height and width for an input (H, W, C)."""
        height = (shape[0] + self.top + self.bottom - self.kernel[0]) // self.stride[0] + 1
        width = (shape[1] + self.left + self.right - self.kernel[1]) // self.stride[1] + 1
        return height, width

    @property
    def padded(self) -> bool:
        """Whether there is any padding."""
        return any((self.top, self.bottom, self.left, self.right))

    @property
    def pointwise(self) -> bool:
        """A 1×1 window without padding."""
        return self.kernel == (1, 1) and not self.padded

    def widened(self, top: int, bottom: int, left: int, right: int) -> Window:
        """With more padding on each side."""
        return replace(
            self,
            top=self.top + top,
            bottom=self.bottom + bottom,
            left=self.left + left,
            right=self.right + right,
        )

    def pad(self, x: torch.Tensor, value: float) -> torch.Tensor:
        """Pad NCHW with ``value``."""
        return torch.nn.functional.pad(x, (self.left, self.right, self.top, self.bottom), value=value)

    def fields(self) -> tuple[tuple[str, int], ...]:
        """Descriptor fields of the C kernels."""
        return (
            ("kernel_height", self.kernel[0]),
            ("kernel_width", self.kernel[1]),
            ("stride_height", self.stride[0]),
            ("stride_width", self.stride[1]),
            ("pad_top", self.top),
            ("pad_left", self.left),
        )


def size_fields(prefix: str, shape: Shape) -> tuple[tuple[str, int], ...]:
    """``<prefix>_height``, ``_width`` and ``_channels`` of (H, W, C)."""
    return tuple((f"{prefix}_{name}", size) for name, size in zip(("height", "width", "channels"), shape, strict=True))
