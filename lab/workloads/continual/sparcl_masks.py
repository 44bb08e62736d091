"""SparCL's masks over weights: how many blocks of a layer are kept, and when they are others. Imports torch."""

from __future__ import annotations

from typing import Protocol

from lab.compiler.operations.block_sparse import BLOCK, Renewal
from lab.compiler.training_passes.block_sparse import Blocks
from lab.errors import ConfigError
from lab.workloads.continual.sparcl_networks import Norm, Size, sparse_layers
from lab.workloads.continual.sparcl_stream import PER_TASK, SEED, Rehearsal

TENTHS = 10
"""Of a task: in the first each row has a block more, in the last nothing is renewed."""
EXCHANGED = 0.01
"""Share of a layer's blocks that are others at each tenth of a task: from 75 % sparsity to 76 % and back."""


class Options(Protocol):
    """What a variant says of its masks."""

    @property
    def size(self) -> Size: ...
    @property
    def update(self) -> str: ...
    @property
    def hidden(self) -> int: ...
    @property
    def sparsity(self) -> float: ...
    @property
    def changed(self) -> float: ...
    @property
    def masks(self) -> str: ...
    @property
    def renew(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def norm(self) -> Norm: ...


def blocks_of(variant: Options, plan: Rehearsal) -> dict[str, Blocks]:
    """What each layer's weight keeps.

    Raises:
        ConfigError: as :func:`task_renewal`.
    """
    unit = plan.group
    found = {}
    for name, (rows, inputs) in sparse_layers(variant.size, variant.hidden, variant.norm).items():
        there = inputs // BLOCK
        kept = max(1, round((1 - variant.sparsity) * there))
        if variant.update == "static":
            renewal = Renewal()
        elif variant.masks == "turns":
            renewal = Renewal(steps=variant.renew * unit)
        else:
            if kept + 2 > there:
                raise ConfigError(
                    f"sparcl: masks=tasks and {inputs} inputs of {name}: no block is left to be exchanged for",
                    hint="a larger hidden=, or masks=turns",
                )
            changed = max(1, round(EXCHANGED * rows * there))
            renewal = task_renewal(plan.task_steps(PER_TASK * variant.samples), unit, changed)
        found[name] = Blocks(kept, variant.changed, renewal, SEED)
    return found


def task_renewal(task: int, unit: int, rows: int) -> Renewal:
    """The paper's schedule: a block more at first, some are exchanged at each tenth of the task but the last.

    Args:
        task: steps of a task.
        unit: steps of an update.
        rows: that exchange a block at each tenth.

    Raises:
        ConfigError: a task is too short for that.
    """
    every = max(1, task // TENTHS // unit) * unit
    if task < 3 * every:
        raise ConfigError(
            f"sparcl: masks=tasks needs three updates in each task; there are {task // unit}",
            hint="more samples= or epochs=, a smaller batch=, or masks=turns",
        )
    return Renewal(every, rows, task, every, task - every)
