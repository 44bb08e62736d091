"""Calls that do nothing in evaluation: no node is added."""

from __future__ import annotations

from lab.compiler.operators.registry import Call, captures


@captures("aten.dropout.default", "aten.feature_dropout.default")
def capture_dropout(call: Call) -> str:
    """``dropout(input, p, train)`` with ``train`` false."""
    if call.flag(2, "train", False):
        raise call.refuse("dropout is active", "make it depend on self.training")
    return call.value(0)


@captures(
    "aten.clone.default",
    "aten.alias.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten._to_copy.default",
    "aten._assert_tensor_metadata.default",
)
def capture_clone(call: Call) -> str:
    """Copies of a value are the value: the graph is functional; so are checks of what export has settled."""
    return call.value(0)


@captures("getitem")
def capture_getitem(call: Call) -> str:
    """``tuple[0]`` of an operator with several results of which the model uses the first."""
    if call.argument(1, "index") != 0:
        raise call.refuse("only the first result may be used")
    return call.value(0)
