"""The machine the lab runs on: the same runner and the same generated C as a local process.

It is a computer like any other (:mod:`lab.devices.linux`), without a connection that could break: set up, watched and
recorded in the same way, with its GPU where a Python on it has PyTorch for CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab.devices.base import Identity
from lab.devices.linux import Linux
from lab.errors import InfrastructureError
from lab.fence import Fence
from lab.inventory import Device
from lab.power.base import Meter
from lab.transports.local import LocalRemote
from lab.transports.remote import Remote


class ThisComputer:
    """The machine the lab runs on, as :class:`lab.devices.machine.Machine`.

    Args:
        folder: what the lab may write to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def connect(self) -> Remote:
        """Nothing lies in between."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return LocalRemote(self._folder)

    def check_alive(self) -> None:
        """It runs the lab."""

    def reboot(self, remote: Remote) -> None:
        """Never: the lab would end with it.

        Raises:
            InfrastructureError: always.
        """
        raise InfrastructureError("this computer runs the lab: it is not rebooted")

    def power_cycle(self) -> bool:
        """Nothing can."""
        return False

    def close(self) -> None:
        """Nothing is held."""


def host_of(
    entry: Device, board: str, cache: Path, meter: Callable[[], Meter] | None, fence: Fence | None = None
) -> Linux:
    """This computer as a device.

    Args:
        entry: from a bench.
        board: the folder of ``firmware/boards`` it runs.
        cache: of the lab; images and environments for Python lie there.
        meter: makes a meter of this computer (RAPL, NVML, hwmon), or None.
        fence: the lease under which it is used.
    """
    folder = cache / "host"
    return Linux(
        Identity(entry.name, board, "hardware", "", frozenset(entry.features)),
        ThisComputer(folder),
        str(folder),
        meter=None if meter is None else lambda _: meter(),
        python=entry.config.python,
        environment=entry.config.environment,
        fence=fence,
    )
