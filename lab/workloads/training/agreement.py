"""How far a device that trains may be from PyTorch, and what rounding alone makes of the same steps.

Every step of theirs differs in last bits. Mostly that stays so; but once a last bit puts a value on the other side of a
ReLU's corner, the ways part, and the further the higher the rate. Another gradient is one from the first step on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
Precision: TypeAlias = Literal["int8", "float32"]

ROUNDING = 1e-7
"""Of a weight in float32: a change of this relative size is what any two machines differ by."""
STROKE = 100 * ROUNDING
"""A change of the weights after which the ways part almost surely where they can: how far then, is measured."""
AS_FAR = 3.0
"""A device whose way parts from PyTorch's may come so many times as far from it as a run that was changed so."""
UNTRAINED = 0.9
"""The trained variables are never allowed to be further off: those of a device that trains nothing are off by 1."""
EARLY_STEPS, EARLY_LOSS = 64, 1e-4
"""Ways that part only by rounding have the same losses in the first steps. Seen: 1e-6."""


@dataclass(frozen=True)
class Spread:
    """How far a run ends from another one of the same steps.

    Attributes:
        loss: in the median of the losses.
        update: distance of the trained variables, of the way that they have come.
    """

    loss: float
    update: float


NONE = Spread(0.0, 0.0)


@dataclass(frozen=True)
class Limits:
    """How far a device may be from PyTorch.

    Attributes:
        loss: in the median of the losses.
        update: distance of the trained variables, of the way that PyTorch's have come.
        autograd: the same of autograd's first steps and the program's operators on this computer, in the median.
    """

    loss: float
    update: float
    autograd: float = 1e-4

    def beside(self, parted: Spread) -> Limits:
        """The same for ways that part, where a changed run ends so far away: never less, never as untrained."""
        update = max(self.update, min(UNTRAINED, AS_FAR * parted.update))
        return replace(self, loss=max(self.loss, AS_FAR * parted.loss), update=update)


LIMITS: Mapping[Precision, Limits] = {"int8": Limits(0.02, 0.25), "float32": Limits(1e-4, 1e-3)}
"""Seen: 1e-6 in float32. In int8 a last bit of a float32 gradient can tip a stochastic rounding, the next step
starts from there, and after some hundred steps a tenth of the way is another one; the losses stay the same."""


def nearly(weights: Mapping[str, FloatArray], size: float, draw: int) -> dict[str, FloatArray]:
    """Weights, each changed by chance, relative to its own size, by ``size`` in the standard deviation."""
    random = np.random.default_rng(draw)
    drawn = {name: 1 + size * random.standard_normal(weights[name].shape) for name in sorted(weights)}
    return {name: (one * drawn[name]).astype(np.float32) for name, one in weights.items()}


def parts_late(found: FloatArray, expected: FloatArray) -> bool:
    """Whether losses (steps,) are the same in the first :data:`EARLY_STEPS`, and later ones are not."""
    apart = np.flatnonzero(~(np.abs(found - expected) <= EARLY_LOSS))
    return len(apart) > 0 and int(apart[0]) >= EARLY_STEPS


def loss_error(found: FloatArray, expected: FloatArray) -> float:
    """Distance of two runs' losses (steps,), in the median."""
    return float(np.median(np.abs(found - expected)))


def update_error(
    found: Mapping[str, FloatArray], expected: Mapping[str, FloatArray], initial: Mapping[str, FloatArray]
) -> float:
    """Distance of two sets of trained variables, as a share of the way that the expected ones have come."""
    come = math.sqrt(sum(_square(expected[name], initial[name]) for name in expected))
    off = math.sqrt(sum(_square(found[name], expected[name]) for name in expected))
    return off / come if come else math.inf


def _square(one: FloatArray, other: FloatArray) -> float:
    return float(np.sum((one.astype(np.float64) - other.astype(np.float64)) ** 2))
