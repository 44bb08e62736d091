"""Evidence for and against each event, after UR2M (Kwon et al., PerCom 2024, sections IV and V).

Each of C events has two numbers of evidence, e₁ for it and e₂ against it: α = e₁ + 1 and β = e₂ + 1 are a Beta
distribution of its probability, whose mean is α / S with S = α + β and whose uncertainty is 2 / S. Evidence is the
exponential of the logits: with a ReLU, as the paper has it, some events never get any and stay uncertain for ever.
Imports torch.
"""

from __future__ import annotations

import torch
from torch.nn import functional

LOWEST, HIGHEST = -8.0, 6.0
"""Bounds of the logits: evidence from nearly none to 403."""
PRIOR = 0.05
"""Weight of the term that takes away the evidence of the wrong side."""


def beta(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """α and β, both (n, C), of logits (n, 2C): the evidence for all events, then that against them."""
    evidence = torch.exp(torch.clamp(logits, LOWEST, HIGHEST)) + 1
    events = logits.shape[1] // 2
    return evidence[:, :events], evidence[:, events:]


def evidential_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Expected cross-entropy of every event under its Beta distribution, and what pulls wrong evidence to none.

    The expectation over Beta(α, β) of a binary cross-entropy is ψ(S) − ψ(α) where the event is there and ψ(S) − ψ(β)
    where it is not; the second term is the divergence of Beta(α̃, β̃) from the uniform Beta(1, 1), α̃ and β̃ without
    the evidence of the right side (M. Sensoy et al., "Evidential Deep Learning to Quantify Classification
    Uncertainty", 2018, for two classes).

    Args:
        logits: (n, 2C).
        labels: int64 (n,), the event that is there.

    Returns:
        The sum over events, mean over samples.
    """
    alpha, against = beta(logits)
    total = torch.digamma(alpha + against)
    there = functional.one_hot(labels, alpha.shape[1]).bool()
    expected = torch.where(there, total - torch.digamma(alpha), total - torch.digamma(against))
    ones = torch.ones_like(alpha)
    wrong = _from_uniform(torch.where(there, ones, alpha), torch.where(there, against, ones))
    return (expected + PRIOR * wrong).sum(1).mean()


def _from_uniform(alpha: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of Beta(alpha, against) from Beta(1, 1)."""
    total = alpha + against
    mean = torch.digamma(total)
    return (
        torch.lgamma(total) - torch.lgamma(alpha) - torch.lgamma(against)
        + (alpha - 1) * (torch.digamma(alpha) - mean) + (against - 1) * (torch.digamma(against) - mean)
    )  # fmt: skip
