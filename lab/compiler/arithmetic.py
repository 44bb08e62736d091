"""TFLite's fixed-point arithmetic on PyTorch integers.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", section 2.2, and the gemmlowp fixed-point definitions that TFLite's reference kernels use.
"""

from __future__ import annotations

import math

import torch

from lab.compiler.quantized import Affine


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Split ``real`` in (0, 1) into ``q31 · 2^-31 · 2^-shift`` with ``q31`` in [2^30, 2^31) and ``shift`` ≥ 0.

    Returns:
        ``(q31, shift)``; ``(0, 0)`` where ``real`` is below 2^-32, as in TFLite.

    Raises:
        ValueError: ``real`` is not in (0, 1) after rounding to 31 bits.
    """
    q31, shift = split_multiplier(real) if 0 < real < 1 else (0, -1)
    if shift < 0:
        raise ValueError(f"a requantisation multiplier must be in (0, 1), got {real!r}")
    return q31, shift


def split_multiplier(real: float) -> tuple[int, int]:
    """``QuantizeMultiplier``: split any positive ``real`` into ``q31 · 2^-31 · 2^-shift``, ties away from zero.

    Returns:
        ``(q31, shift)``, ``shift`` negative where ``real`` ≥ 1; ``(0, 0)`` where ``real`` is below 2^-32.

    Raises:
        ValueError: ``real`` is not finite and positive, or 2^30 or more.
    """
    if not 0 < real < math.inf:
        raise ValueError(f"a requantisation multiplier must be positive and finite, got {real!r}")
    fraction, exponent = math.frexp(real)
    q31 = math.floor(fraction * (1 << 31) + 0.5)
    if q31 == 1 << 31:
        q31, exponent = q31 // 2, exponent + 1
    if exponent > 30:
        raise ValueError(f"a requantisation multiplier must be below 2^30, got {real!r}")
    return (q31, -exponent) if exponent >= -31 else (0, 0)


def product_multiplier(inputs: tuple[Affine, Affine], output: Affine) -> tuple[int, int]:
    """:func:`split_multiplier` from the scale of a product of two activations to the output's."""
    return split_multiplier(inputs[0].scale * inputs[1].scale / output.scale)


def rounding_doubling_high_mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``round(a·b / 2^31)``, ties towards +∞ (``SaturatingRoundingDoublingHighMul`` for non-negative ``b``).

    Args:
        a, b: int64 tensors with int32 values, ``b`` ≥ 0.
    """
    product = a * b
    nudge = torch.where(product >= 0, 1 << 30, 1 - (1 << 30))
    return torch.div(product + nudge, 1 << 31, rounding_mode="trunc")


def rounding_divide_by_power_of_two(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """``round(x / 2^exponent)``, ties away from zero (``RoundingDivideByPOT``); int64 tensors, exponent 0 … 31."""
    one = torch.ones_like(exponent)
    mask = torch.bitwise_left_shift(one, exponent) - 1
    remainder = torch.bitwise_and(x, mask)
    threshold = torch.bitwise_right_shift(mask, 1) + (x < 0).to(x.dtype)
    return torch.bitwise_right_shift(x, exponent) + (remainder > threshold).to(x.dtype)


def requantize(accumulator: torch.Tensor, multiplier: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """``MultiplyByQuantizedMultiplier`` for multipliers below one; broadcasts over the last (channel) dimension."""
    return rounding_divide_by_power_of_two(rounding_doubling_high_mul(accumulator, multiplier), shift)


def rescale(accumulator: torch.Tensor, multiplier: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """``MultiplyByQuantizedMultiplier`` for any multiplier: ``shift`` is positive to the right, negative to the left.

    What a left shift brings beyond int32 saturates (TFLite leaves it undefined).
    """
    raised = torch.bitwise_left_shift(accumulator, (-shift).clamp(min=0)).clamp(-(1 << 31), (1 << 31) - 1)
    return rounding_divide_by_power_of_two(rounding_doubling_high_mul(raised, multiplier), shift.clamp(min=0))
