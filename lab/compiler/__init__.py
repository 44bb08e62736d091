"""PyTorch module → typed graph → passes → int8 → memory plan → static C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.compiler.model import CompiledModel
from lab.errors import CompileError

if TYPE_CHECKING:
    import torch

    from lab.compiler.joint import Loss
    from lab.compiler.operations.optimizer import Optimizer
    from lab.compiler.quantized import QuantizedGraph
    from lab.compiler.training import Precision, Selection

__all__ = ["CompiledModel", "compile", "compile_with_reference"]


def compile(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    calibration: torch.Tensor | None = None,
    name: str = "model",
    arena_limit_bytes: int | None = None,
    loss: Loss | None = None,
    target: torch.Tensor | None = None,
    train: Selection = (),
    optimizer: Optimizer | None = None,
    precision: Precision = "int8",
    recompute_bytes: int | None = None,
) -> CompiledModel:
    """Compile ``module`` to static C: for inference, or with a ``loss`` also for training on the device.

    Args:
        module: network in float32; compiled as in ``eval()`` (the module's own mode is restored).
        example: one input with batch 1: ``(1, C, H, W)`` or ``(1, F)``, float32; for float32 training any batch, which
            is then the batch of a step, and int64 for indices.
        calibration: inputs ``(n, C, H, W)`` or ``(n, F)`` that set the ranges of int8 activations.
        name: C identifier of the model.
        arena_limit_bytes: most arena bytes the device offers; no limit where ``None``.
        loss: ``loss(output, target)``, one scalar.
        target: an example of the loss's target; derived from the loss where ``None``.
        train: names of the parameters that change, or a predicate over (name, parameter).
        optimizer: how they change; plain SGD where ``None``.
        precision: ``float32`` throughout, or ``int8``: of training the forward pass and the weights, gradients are
            float32.
        recompute_bytes: arena to be reached by computing activations again in backward; none where ``None``.

    Raises:
        CompileError: an operator, dtype or shape that is not supported (with its place in the module), unusable
            calibration data, an unknown parameter, or an arena larger than the limit (with bytes per layer).
    """
    if loss is None and precision == "float32":
        from lab.compiler.float_inference import compile_float_inference

        return compile_float_inference(module, example, name=name, arena_limit_bytes=arena_limit_bytes)
    if loss is None:
        if calibration is None:
            raise CompileError("inference in int8 needs calibration data", hint="pass calibration=, real inputs")
        compiled, _ = compile_with_reference(
            module, example, calibration=calibration, name=name, arena_limit_bytes=arena_limit_bytes
        )
        return compiled
    from lab.compiler.operations.optimizer import Sgd
    from lab.compiler.training import compile_training

    return compile_training(
        module,
        example,
        loss=loss,
        train=train,
        optimizer=optimizer or Sgd(),
        target=target,
        name=name,
        arena_limit_bytes=arena_limit_bytes,
        recompute_bytes=recompute_bytes,
        precision=precision,
        calibration=calibration,
    ).compiled


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
