"""PyTorch module → typed graph → passes → int8 → memory plan → static C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.compiler.model import CompiledModel

if TYPE_CHECKING:
    import torch

    from lab.compiler.quantized import QuantizedGraph

__all__ = ["CompiledModel", "compile", "compile_with_reference"]


def compile(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    calibration: torch.Tensor,
    name: str = "model",
    arena_limit_bytes: int | None = None,
) -> CompiledModel:
    """Compile ``module`` for int8 inference to static C.

    Args:
        module: network in float32; compiled as in ``eval()`` (the module's own mode is restored).
        example: one input with batch 1: ``(1, C, H, W)`` or ``(1, F)``, float32.
        calibration: inputs ``(n, C, H, W)`` or ``(n, F)`` that set the ranges of the activations.
        name: C identifier of the model.
        arena_limit_bytes: most arena bytes the device offers; no limit where ``None``.

    Raises:
        CompileError: an operator, dtype or shape that is not supported (with its place in the module), unusable
            calibration data, or an arena larger than the limit (with bytes per layer).
    """
    compiled, _ = compile_with_reference(
        module, example, calibration=calibration, name=name, arena_limit_bytes=arena_limit_bytes
    )
    return compiled


def compile_with_reference(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    calibration: torch.Tensor,
    name: str = "model",
    arena_limit_bytes: int | None = None,
) -> tuple[CompiledModel, QuantizedGraph]:
    """Like :func:`compile`, with the quantised graph whose ``run_integer`` the C must equal bit for bit."""
    from lab.compiler.driver import compile_module

    return compile_module(module, example, calibration, name, arena_limit_bytes)
