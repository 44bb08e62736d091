"""Passes over the float graph, one file each; :func:`lower` runs them in order."""

from __future__ import annotations

from collections.abc import Callable

from lab.compiler.graph import Graph
from lab.compiler.passes.fold_batch_norm import fold_batch_norm
from lab.compiler.passes.fuse_activation import fuse_activation
from lab.compiler.passes.fuse_pad import fuse_pad
from lab.compiler.passes.order_reshape import order_reshape
from lab.compiler.passes.prune import prune

PASSES: tuple[Callable[[Graph], Graph], ...] = (prune, fuse_pad, fold_batch_norm, fuse_activation, order_reshape)


def lower(graph: Graph) -> Graph:
    """Run all passes.

    Raises:
        CompileError: a reshape whose order of elements cannot be moved into a linear layer.
    """
    for run in PASSES:
        graph = run(graph)
    return graph
