"""Training by forward passes alone: module and loss to static C that estimates its gradient instead of computing it."""

from __future__ import annotations

import torch

from lab.compiler.driver import check_name
from lab.compiler.joint import Loss, export_training
from lab.compiler.lowering import lower
from lab.compiler.operations.perturbation import Perturbation
from lab.compiler.training import Selection, TrainingModel, assemble, default_target, trained_names
from lab.compiler.training_passes import fold_batch_norm, fuse_activation, perturb, prune


def compile_perturbed(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    loss: Loss,
    train: Selection,
    perturbation: Perturbation,
    target: torch.Tensor | None = None,
    name: str = "model",
    arena_limit_bytes: int | None = None,
    uploads: bool = False,
) -> TrainingModel:
    """Compile a module for training on the device without a backward pass, in float32 (BAFFLE, Feng et al.).

    A step runs the model with each perturbation of its trained parameters, then as it is, and moves the parameters
    against the mean of loss differences times perturbations; the learning rate comes with the step. The model has
    ``learn`` (``lab_training.h``).

    Args:
        module, example, loss, train, target, name, arena_limit_bytes: as of
            :func:`lab.compiler.training.compile_training`; whole parameters are trained.
        perturbation: how many passes a step has, and how far these move.
        uploads: whether the parameters stay and the differences of the losses are kept for a server
            (:func:`lab.compiler.training_passes.perturb.perturb`).

    Raises:
        CompileError: as :func:`~lab.compiler.training.compile_training`.
    """
    check_name(name)
    names = trained_names(module, train)
    module = fold_batch_norm(module, example, trained=names)
    labels = default_target(module, example, loss) if target is None else target
    program = fuse_activation(prune(lower(export_training(module, example, labels, loss, names))))
    optimizer = f"Stein({perturbation.passes} passes, sigma={perturbation.sigma:g})"
    return assemble(perturb(program, perturbation, uploads=uploads), name, optimizer, arena_limit_bytes)
