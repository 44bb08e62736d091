"""What a night does with a device: look whether it is well, and run a cell on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from lab.comparison import Sizes, run_on
from lab.devices.base import Device as Connected
from lab.devices.connect import connected
from lab.doctor import availability
from lab.ending import rested
from lab.errors import DeviceError, LabError
from lab.inventory import Device
from lab.lease import held
from lab.nightly.config import Cell
from lab.runs import deploy
from lab.workloads import get
from measurements.record import Run
from measurements.store import Store


class Worker(Protocol):
    """What the night needs of a bench."""

    def availability(self, device: Device) -> str:
        """Why a device cannot be used on this computer now; empty when it can."""

    def check(self, cell: Cell) -> None:
        """Make sure that the device of a cell starts its image.

        Raises:
            LabError: it does not.
        """

    def measure(self, cell: Cell) -> Run:
        """Run a cell; whatever comes of it is in the store.

        Raises:
            LabError: what went wrong.
        """

    def runs(self, cell: Cell) -> tuple[Run, ...]:
        """Runs of a cell that this night has stored, oldest first."""


class BenchWorker:
    """The real thing: leases, emulators, boards and the store.

    Args:
        store: the store's folder.
        cache: where prepared workloads and images lie.
        session_id: what the runs belong to.
    """

    def __init__(self, store: Path, cache: Path, session_id: str) -> None:
        self._store = store
        self._cache = cache
        self._session_id = session_id

    def availability(self, device: Device) -> str:
        """See :class:`Worker`."""
        return availability(device)

    def check(self, cell: Cell) -> None:
        """See :class:`Worker`. A device that does not answer is given its ladder of recovery before it is given up."""
        with self._device(cell.device) as device:
            try:
                deploy(cell.device, device, cell.workload, self._cache, cell.variant)
            except DeviceError as error:
                try:
                    device.recover()
                except LabError as worse:
                    raise error from worse

    def measure(self, cell: Cell) -> Run:
        """See :class:`Worker`."""
        sizes = Sizes(cell.repeats, cell.samples)
        with Store(self._store) as store, self._device(cell.device) as device:
            compared = run_on(
                cell.device, device, get(cell.workload), cell.variant, store, self._session_id, sizes, self._cache
            )
        compared.check()
        return compared.method.run

    def runs(self, cell: Cell) -> tuple[Run, ...]:
        """See :class:`Worker`."""
        wanted = (cell.device.name, cell.workload, cell.variant)
        with Store(self._store) as store:
            found = store.runs(self._session_id)
        return tuple(
            run
            for run in found
            if (run.provenance.device, run.provenance.workload, run.provenance.variant) == wanted
        )

    @contextmanager
    def _device(self, entry: Device) -> Iterator[Connected]:
        with ExitStack() as stack:
            fence = stack.enter_context(held(entry, "lab nightly", priority="nightly"))
            device = stack.enter_context(connected(entry, self._cache, fence))
            stack.enter_context(rested(entry.name, device, fence))
            yield device
