"""What a process of ``--workers`` is told to run, and what it tells of it; :mod:`lab.commands.worker` says how."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from lab.comparison import Sizes
from measurements.report.method_table import Unmeasured

RECORD = "\x1e"
"""Begins a line of JSON among lines of text (RS of RFC 7464)."""


@dataclass(frozen=True)
class Terms:
    """What holds for all cells of a session.

    Attributes:
        variant: of all workloads; alternatives (``network=cnn|ds-cnn``) run one after the other.
        sizes: how much is measured.
        baselines: whether those run too.
        session_id: what the runs belong to.
        resumed: whether what passed in this session beside its baselines is left as it is.
    """

    variant: str
    sizes: Sizes
    baselines: bool
    session_id: str
    resumed: bool


@dataclass(frozen=True)
class Order:
    """What one process is to run.

    Attributes:
        device: name on the bench.
        workloads: ids, in this order.
        terms: what holds for all of them.
    """

    device: str
    workloads: tuple[str, ...]
    terms: Terms


ORDER = TypeAdapter(Order)
UNMEASURED = TypeAdapter(Unmeasured)
