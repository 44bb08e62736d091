"""Exits of a network: where it may stop because it is sure enough of what it has.

A module calls :func:`leave` once per exit, from the first to the last. In PyTorch everything is computed and each row
keeps the answer of the first exit that was sure of it; the generated C returns from the exit itself and computes
nothing behind it. Source of the idea: Teerapittayanon, McDanel and Kung, "BranchyNet", 2016.
"""

from __future__ import annotations

import torch


@torch.library.custom_op("lab::leave", mutates_args=())
def leave(answer: torch.Tensor, earlier: torch.Tensor | None) -> torch.Tensor:
    """The output so far: rows of ``earlier`` with a margin of 0 or more stay, others are replaced by ``answer``.

    Args:
        answer: float32 (n, k); its last column is the margin, by how much the exit is surer than it has to be.
        earlier: what the exits before yielded, float32 (n, k); None at the first.
    """
    if earlier is None:
        return answer.clone()
    return torch.where(earlier[:, -1:] >= 0, earlier, answer)


@leave.register_fake
def _(answer: torch.Tensor, earlier: torch.Tensor | None) -> torch.Tensor:
    return torch.empty_like(answer)
