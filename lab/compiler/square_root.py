"""Square roots as every processor has them."""

from __future__ import annotations

import torch


def square_root(x: torch.Tensor) -> torch.Tensor:
    """Correctly rounded, as ``sqrtf``; float32.

    PyTorch's own takes MKL's, which begins with the processor's estimate: one of five results is off by a last bit, and
    others are on another processor.
    """
    return x.double().sqrt().float()
