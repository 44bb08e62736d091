"""Which channels of a weight are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from lab.compiler.operations.conv2d import ConvGeometry, Part
from lab.errors import CompileError

Chosen: TypeAlias = float | Sequence[int] | None
"""A share (the first channels), indices, or ``None`` for all."""


@dataclass(frozen=True)
class Channels:
    """The trained channels of a weight; each run of neighbours is updated by one call of a kernel.

    Attributes:
        inputs: input channels, or features of a linear layer. What backward keeps of the layer's input shrinks with
            them (Lin et al. 2022, "On-Device Training Under 256KB Memory", section 2.2).
        outputs: output channels. They save work, but no memory for activations (Kwon et al. 2024, "TinyTrain",
            section 2.2). A depthwise convolution has one set of channels: give either.
    """

    inputs: Chosen = None
    outputs: Chosen = None

    def parts(self, parameter: str, geometry: ConvGeometry) -> tuple[Part, ...]:
        """The trained parts of the weight of a layer.

        Raises:
            CompileError: a share or an index that is not in range, a layer with groups.
        """
        if geometry.depthwise:
            if self.inputs is not None and self.outputs is not None:
                raise CompileError(
                    f"'{parameter}' is depthwise: its inputs are its outputs", hint="give Channels(inputs=…) alone"
                )
            chosen = self.inputs if self.outputs is None else self.outputs
            runs = _runs(parameter, "channels", chosen, geometry.input[2])
            return tuple(Part(first, count, first, count) for first, count in runs)
        if geometry.groups > 1:
            raise CompileError(
                f"'{parameter}' has {geometry.groups} groups, of which no channels can be chosen",
                hint="train all of it, or none",
            )
        inputs = _runs(parameter, "inputs", self.inputs, geometry.input[2])
        outputs = _runs(parameter, "outputs", self.outputs, geometry.output[2])
        return tuple(Part(*run, *other) for other, run in product(outputs, inputs))


def _runs(parameter: str, what: str, chosen: Chosen, channels: int) -> list[tuple[int, int]]:
    """First and count of each run of neighbours."""
    if chosen is None:
        return [(0, channels)]
    if isinstance(chosen, (int, float)):
        if not 0.0 < chosen <= 1.0:
            raise CompileError(f"'{parameter}': {what}={chosen}", hint="a share is above 0 and at most 1")
        return [(0, max(1, int(channels * chosen)))]
    indices = sorted(chosen)
    if not indices or indices[0] < 0 or indices[-1] >= channels or len(set(indices)) < len(indices):
        raise CompileError(
            f"'{parameter}': {what}={list(chosen)}",
            hint=f"there are {channels}, numbered from 0: name at least one, each once",
        )
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and index == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs
