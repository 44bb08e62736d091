"""Exits, behind which inference may end (:mod:`lab.compiler.exits`)."""

from __future__ import annotations

from lab.compiler.lowering import Call, Results, lowers
from lab.compiler.operations.leave import Leave, LeaveLater


@lowers("lab.leave.default")
def lower_leave(call: Call) -> Results:
    """``leave(answer, earlier)``, of one sample."""
    rows, size = call.lowered(0, "answer").shape
    if rows != 1:
        raise call.refuse(f"{rows} samples cannot leave at once", "compile the network for one sample")
    answer = call.plain(0, "answer")
    if call.given(1, "earlier"):
        (made,) = call.emit(LeaveLater(size), [answer, call.plain(1, "earlier")], (1, size))
    else:
        (made,) = call.emit(Leave(size), [answer], (1, size))
    return call.plain_view(made, (1, size))
