"""Seeded supervised training of small classifiers.

Two runs of :func:`fit` on the same machine with the same torch give the same weights to the bit: one generator orders
the samples, initialisation and dropout draw from torch's own seeded generator, deterministic kernels are demanded, and
one thread does all the work, so that the order of additions does not depend on the number of cores. Another version of
torch or another instruction set of the processor (oneDNN picks its kernels by it) may add in another order; the weights
then differ in the last bits and, after some thousand steps, visibly. The cache keys on the version of torch for this
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import progress

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Plan:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the samples.
        batch: samples per step; the last, incomplete batch of an epoch is dropped.
        learning_rate: peak of the one-cycle schedule (L. Smith and N. Topin, arXiv:1708.07120).
        weight_decay: of AdamW.
        label_smoothing: share of the target spread over all classes.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 1e-2
    label_smoothing: float = 0.1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch and make it deterministic and single-threaded; the process's settings are restored afterwards."""
    import torch

    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)


def fit(
    network: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    plan: Plan,
    seed: int,
    title: str,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> float:
    """Train ``network`` in place by cross-entropy or another loss; call it inside :func:`seeded`.

    Args:
        network: yields logits.
        inputs: samples along the first dimension.
        targets: class numbers, int64, shape (n,).
        plan: how.
        seed: orders the samples.
        title: what the progress display calls it.
        loss: ``loss(output, target)``, the mean over a batch; cross-entropy with the plan's smoothing where ``None``.

    Returns:
        Mean loss of the last epoch.

    Raises:
        ValueError: fewer samples than one batch.
    """
    import torch

    batches = len(inputs) // plan.batch
    if batches == 0:
        raise ValueError(f"{len(inputs)} samples are fewer than one batch of {plan.batch}")
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
    steps = plan.epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=steps)
    loss_of = loss or torch.nn.CrossEntropyLoss(label_smoothing=plan.label_smoothing)
    network.train()
    mean_loss = 0.0
    with progress.step(title, quiet_below_s=2.0) as step:
        for epoch in range(plan.epochs):
            permutation = torch.randperm(len(inputs), generator=order)
            total = 0.0
            for number in range(batches):
                chosen = permutation[number * plan.batch : (number + 1) * plan.batch]
                found = loss_of(network(inputs[chosen]), targets[chosen])
                optimizer.zero_grad()
                found.backward()
                optimizer.step()
                schedule.step()
                value = float(found.detach())
                total += value
                step.update(epoch * batches + number + 1, steps, f"loss {value:.3f}")
            mean_loss = total / batches
    network.eval()
    return mean_loss
