"""What the catalogue says of one fault, and how a line of the documentation's table is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lab.errors import (
    BudgetExceeded,
    ConfigError,
    DeviceError,
    InfrastructureError,
    LabError,
    WorkloadError,
)

Area: TypeAlias = Literal[
    "Microcontrollers", "Serial lines", "Debug probes", "Power meters", "Images and builds",
    "Linux devices and phones", "This computer and the store", "The controller is killed",
]  # fmt: skip
"""Headings of the documentation's page, in its order."""

Ends: TypeAlias = Literal["raised", "measured again", "never"]
"""How an error ends: the run fails with it; the lab recovers and measures again, and the run passes; there is none."""

NONE_NEEDED = "none needed"
BY_HAND = "quarantine"
"""How a recovery begins that only a person can make: the device is kept out until then."""


@dataclass(frozen=True)
class Fault:
    """One fault, and what the lab promises of it.

    Attributes:
        name: in a few words; the test's id.
        area: where it belongs.
        injected: how the test makes it happen.
        error: the exact class of the error, None where there is none.
        recovery: what brings the device back: a rung of its ladder or a step by hand, or :data:`NONE_NEEDED`.
        kept: what the store holds of the run that met it, in the words that the tests compare.
        ends: what becomes of the error.
    """

    name: str
    area: Area
    injected: str
    error: type[LabError] | None
    recovery: str
    kept: tuple[str, ...]
    ends: Ends = "raised"

    def __post_init__(self) -> None:
        if (self.error is None) != (self.ends == "never"):
            raise ValueError(f"{self.name}: error {self.error} cannot end as {self.ends!r}")
        if "|" in "".join((self.name, self.injected, self.recovery, *self.kept)):
            raise ValueError(f"{self.name}: a table's cell holds no '|'")

    def __str__(self) -> str:
        return self.name

    @property
    def side(self) -> str:
        """Whose failure the error says it is; empty where there is none."""
        sides = {
            InfrastructureError: "infrastructure", DeviceError: "device", WorkloadError: "workload",
            ConfigError: "configuration", BudgetExceeded: "budget",
        }  # fmt: skip
        if self.error is None:
            return ""
        return next(side for kind, side in sides.items() if issubclass(self.error, kind))

    @property
    def row(self) -> str:
        """Its line of the table."""
        said = "none" if self.error is None else f"`{self.error.__name__}` ({self.side})"
        again = ", measured again" if self.ends == "measured again" else ""
        return f"| {self.name} | {self.injected} | {said}{again} | {self.recovery} | {', '.join(self.kept)} |"


def tables(faults: Sequence[Fault], areas: Sequence[Area]) -> str:
    """The tables of the documentation's page, one per area, as Markdown."""
    parts = []
    for area in areas:
        rows = [fault.row for fault in faults if fault.area == area]
        if rows:
            head = "| fault | injected by | error | recovery | kept |\n|---|---|---|---|---|"
            parts.append(f"## {area}\n{head}\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)
