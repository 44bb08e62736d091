"""Rows of the kernel benchmark, one file per family: each offers ``BOARD``, ``KERNELS`` and ``rows()``.

A row's reference figures are instructions per multiply-accumulate of public kernels on mps2-an386 under QEMU 7.2,
counted around the whole call (measured for this project, not the libraries' own figures).
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.emulators.kernel_calls import KernelArguments


@dataclass(frozen=True)
class Row:
    """One kernel on one shape.

    Attributes:
        name: kernel and shape.
        call: the call.
        macs: its multiply-accumulates.
        references: name to instructions per multiply-accumulate; the least is the ceiling.
        attainable: what private prototypes reach; ``None`` where there is none.
    """

    name: str
    call: KernelArguments
    macs: int
    references: dict[str, float]
    attainable: float | None = None

    @property
    def ceiling(self) -> float:
        """The least of the public figures."""
        return min(self.references.values())
