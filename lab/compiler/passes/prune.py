"""Drop nodes whose value nobody reads."""

from __future__ import annotations

from dataclasses import replace

from lab.compiler.graph import Graph, Node


def prune(graph: Graph) -> Graph:
    """The graph without nodes that do not reach the output."""
    needed = {graph.output}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            needed.update(node.inputs)
            kept.append(node)
    return replace(graph, nodes=tuple(reversed(kept)))
