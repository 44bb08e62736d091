"""Training memory by every definition in use, as figures of a run (:mod:`lab.compiler.memory_definitions`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab.compiler.model import CompiledTraining
from lab.workloads.base import Figure

if TYPE_CHECKING:
    from lab.compiler.layer_costs import LayerCost
    from lab.compiler.memory_definitions import Optimizer
    from lab.compiler.update_schemes import UpdateScheme

PAPERS_BATCH = 100
"""The batch at which TinyTrain counts its baselines; it counts itself at 1."""


def memory_figures(
    layers: Sequence[LayerCost], scheme: UpdateScheme, training: CompiledTraining, optimizer: Optimizer = "sgd"
) -> tuple[Figure, ...]:
    """M1 to M4 in bytes, M2 and M3 at batch 1 and at the papers' batch, and MACs of backward.

    Args:
        layers: the network; with batch norm folded, as the device has it.
        scheme: what is updated.
        training: the compiled step: its arena and its variables are M4.
        optimizer: sets the state per parameter in M3.
    """
    from lab.compiler.memory_definitions import backward_macs, backward_memory, extra_memory, profiled_memory

    one = "at batch 1"
    many = f"at batch {PAPERS_BATCH}, as in the papers' tables of baselines"
    m1 = extra_memory(layers, scheme).total_bytes
    m4 = training.arena_bytes + training.variables_bytes
    return (
        Figure("memory.m1", m1, "bytes", "extra memory of int8 training (MCUNetV3's analysis), without gradients"),
        Figure("memory.m2", profiled_memory(layers, scheme), "bytes", f"TinyTL's profiler, {one}"),
        Figure("memory.m2.batch100", profiled_memory(layers, scheme, batch=PAPERS_BATCH), "bytes",
               f"TinyTL's profiler, {many}"),
        Figure("memory.m3", backward_memory(layers, scheme, optimizer).total_bytes, "bytes",
               f"TinyTrain's backward memory, {optimizer}, {one}"),
        Figure("memory.m3.batch100", backward_memory(layers, scheme, optimizer, batch=PAPERS_BATCH).total_bytes,
               "bytes", f"TinyTrain's backward memory, {optimizer}, {many}"),
        Figure("memory.m4", m4, "bytes", "planned arena of a step and trained variables: what the firmware has"),
        Figure("macs.backward", backward_macs(layers, scheme).total, "MACs", "of a backward pass, analytic"),
    )  # fmt: skip
