"""Training by forward differences in PyTorch: what a device that learns without a backward pass is compared with.

Nothing here comes from the compiler: the generator is written anew from ``firmware/runtime/lab_random.h`` and
``lab_perturbation.h``, all passes of a step run at once (``torch.func.vmap``), each with parameters of its own, and the
estimate is stored and applied like any gradient. Source: Feng et al., "Does Federated Learning Really Need
Backpropagation?", the estimator by Stein's identity with forward differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.model import Variable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.operations.perturbation import Perturbation

FloatArray: TypeAlias = npt.NDArray[np.float32]
_LOW = (1 << 32) - 1
_STRIDE, _SECOND = 0x85EBCA6B, 0xC2B2AE35


@dataclass(frozen=True)
class Steps:
    """What came of training.

    Attributes:
        losses: before each step, float32 (steps,).
        initial, variables: the trained parameters before and after, by name.
    """

    losses: FloatArray
    initial: Mapping[str, FloatArray]
    variables: Mapping[str, FloatArray]


def keys(seed: int) -> Iterator[int]:
    """The key of each step: the states of xorshift32 behind a seed (Marsaglia 2003)."""
    state = seed
    while True:
        state ^= state << 13 & _LOW
        state ^= state >> 17
        state ^= state << 5 & _LOW
        yield state


def signs(key: int, passes: int, counts: Sequence[int]) -> list[npt.NDArray[np.int8]]:
    """-1 and 1 for each element of variables of so many elements, (passes, count) each."""
    words = [-(-count // 32) for count in counts]
    numbers = (key + np.arange(passes * sum(words), dtype=np.uint64) * _STRIDE) & _LOW
    numbers = (numbers ^ numbers >> np.uint64(16)) * _STRIDE & _LOW
    numbers = (numbers ^ numbers >> np.uint64(13)) * _SECOND & _LOW
    numbers ^= numbers >> np.uint64(16)
    bits = numbers.reshape(passes, -1, 1) >> np.arange(32, dtype=np.uint64) & np.uint64(1)
    parts = np.split(2 * bits.astype(np.int8) - 1, np.cumsum(words)[:-1], axis=1)
    return [part.reshape(passes, -1)[:, :count] for part, count in zip(parts, counts, strict=True)]


def train(
    network: nn.Module,
    variables: Sequence[Variable],
    perturbation: Perturbation,
    samples: torch.Tensor,
    labels: npt.NDArray[np.int64],
    *,
    epochs: int,
    rate: float,
    seed: int,
) -> Steps:
    """Take every step; the network's parameters are left as they are at the end.

    Args:
        network: its loss is cross-entropy.
        variables: the parameters that change, as they lie on the device: their order is that of the generator.
        perturbation: passes of a step, and how far these move.
        samples, labels: float32 (n, …) and int64 (n,), one a step, in this order.
        epochs, rate, seed: passes over the samples, learning rate and the generator's first state.
    """
    import torch

    parameters = {one.name: network.get_parameter(one.name).detach() for one in variables}
    initial = {name: one.numpy().copy() for name, one in parameters.items()}
    answers, key, losses = torch.from_numpy(labels), keys(seed), list[float]()
    with torch.no_grad():
        for number in list(range(len(samples))) * epochs:
            sample, label = samples[number : number + 1], answers[number : number + 1]
            directions = directions_of(variables, perturbation.passes, next(key))
            base, moved = probed(network, parameters, directions, perturbation.sigma, sample, label)
            differences = (moved - base)[:, 0]
            for name, one in parameters.items():
                gradient = torch.tensordot(differences / perturbation.sigma, directions[name], 1)
                one -= rate / perturbation.passes * gradient
            losses.append(float(base))
    trained = {name: one.numpy().copy() for name, one in parameters.items()}
    return Steps(np.array(losses, np.float32), initial, trained)


def directions_of(variables: Sequence[Variable], passes: int, key: int) -> dict[str, torch.Tensor]:
    """Signs of a step's perturbations, float32 (passes, …) as PyTorch has each parameter, by name."""
    drawn = signs(key, passes, [math.prod(one.shape) for one in variables])
    return {one.name: _in_torch(one, each) for one, each in zip(variables, drawn, strict=True)}


def probed(
    network: nn.Module,
    parameters: Mapping[str, torch.Tensor],
    directions: Mapping[str, torch.Tensor],
    sigma: float,
    samples: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of each sample with the parameters as they are, (n,), and moved by each perturbation, (passes, n)."""
    import torch
    from torch.func import functional_call, vmap

    def losses_of(values: dict[str, torch.Tensor]) -> torch.Tensor:
        output = functional_call(network, values, (samples,))
        return torch.nn.functional.cross_entropy(output, labels, reduction="none")

    moved = {name: one + sigma * directions[name] for name, one in parameters.items()}
    return losses_of(dict(parameters)), vmap(losses_of)(moved)


def _in_torch(variable: Variable, drawn: npt.NDArray[np.int8]) -> torch.Tensor:
    """Signs in the order of the device's memory, (passes, count), as PyTorch has the parameter, (passes, …)."""
    import torch

    axes = (0, *(axis + 1 for axis in variable.permutation))
    ordered = drawn.reshape(-1, *variable.shape).transpose(axes)
    return torch.from_numpy(np.ascontiguousarray(ordered, np.float32)).reshape(-1, *variable.torch_shape)
