"""Batch norm that leans on the statistics of the one sample it sees, and forgets them; of int8 networks a layer whole.

LeanTTA (arXiv:2503.15889, section 3.2 and algorithm 1). In float32 :func:`normalised` is compiled operation by
operation. In int8 its parts have no grids of their own: a module calls :func:`sample_norm`, which computes the same.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def normalised(
    x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
    tau: float, balance: float, eps: float,
) -> torch.Tensor:  # fmt: skip
    """One sample, normalised by ``tau`` of the source's statistics and the rest of its own.

    Args:
        x: (1, C, H, W).
        mean, variance: of the source, (C,).
        weight, bias: of the batch norm, (C,).
        tau: share of the source's statistics.
        balance: λ, the most that the distance of the sample from the source gives back to the source; 0 is α-BN.
        eps: of the batch norm.
    """
    seen = x.detach()
    own = seen.mean((0, 2, 3))
    spread = (seen * seen).mean((0, 2, 3)) - own * own
    used_mean = tau * mean + (1 - tau) * own
    used_variance = tau * variance + (1 - tau) * spread
    if balance > 0:
        moved = used_mean - mean
        share = balance * (1 - torch.exp(-(moved * moved / variance).sum()))
        used_mean = used_mean - share * moved
        used_variance = used_variance - share * (used_variance - variance)
    return functional.batch_norm(x, used_mean, used_variance, weight, bias, False, 0.0, eps)


@torch.library.custom_op("lab::sample_norm", mutates_args=())
def sample_norm(
    x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
    tau: float, balance: float, eps: float,
) -> torch.Tensor:  # fmt: skip
    """What :func:`normalised` computes, as one operator."""
    return normalised(x, mean, variance, weight, bias, tau, balance, eps)


@sample_norm.register_fake
def _(
    x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
    tau: float, balance: float, eps: float,
) -> torch.Tensor:  # fmt: skip
    return torch.empty_like(x)
