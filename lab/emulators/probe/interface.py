"""pyOCD's CMSIS-DAP probe in front of an emulated board: what stands in for USB below its own, unmodified code."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from pyocd.probe.cmsis_dap_probe import CMSISDAPProbe
from pyocd.probe.pydapaccess.dap_access_api import DAPAccessIntf
from pyocd.probe.pydapaccess.dap_access_cmsis_dap import DAPAccessCMSISDAP
from pyocd.probe.pydapaccess.interface.interface import Interface

from lab.emulators.probe.cmsis_dap import CmsisDapProbe
from lab.emulators.probe.faults import read_state
from lab.emulators.probe.registry import Listed, boards, claim
from lab.emulators.probe.signals import BusFault, InUse, Unplugged


class EmulatedInterface(Interface):  # type: ignore[misc]
    """What stands in for USB below pyOCD's CMSIS-DAP code.

    Args:
        listed: the board behind the probe.
    """

    def __init__(self, listed: Listed) -> None:
        super().__init__()
        self.vendor_name = "hil-lab"
        self.product_name = f"virtual probe, {listed.entry.board}"
        self.serial_number = listed.entry.unique_id
        self._listed = listed
        self._probe: CmsisDapProbe | None = None
        self._answers: deque[bytes] = deque()
        self._descriptor = -1

    @property
    def is_bulk(self) -> bool:
        """CMSIS-DAP version 2."""
        return True

    def open(self) -> None:
        """Claim the probe; one program at a time, as with USB."""
        self._check_plugged()
        try:
            self._descriptor = claim(self._listed)
        except InUse as error:
            raise DAPAccessIntf.DeviceError(error.message) from error
        self._probe = CmsisDapProbe(self._listed, self._look_up)

    def close(self) -> None:
        """Free the probe."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None
            os.close(self._descriptor)

    def write(self, data: Sequence[int]) -> None:
        """Send a packet to the probe."""
        if self._probe is None:
            raise DAPAccessIntf.DeviceError(f"probe {self.serial_number} is not open")
        try:
            self._answers.append(self._probe.handle(bytes(data)))
        except (Unplugged, BusFault) as error:
            raise DAPAccessIntf.DeviceError(f"probe {self.serial_number}: {error.message}") from error

    def read(self) -> bytes:
        """The answer to the oldest packet not answered yet."""
        if not self._answers:
            raise DAPAccessIntf.DeviceError(f"probe {self.serial_number} has nothing to say")
        if self._probe is not None:
            self._probe.settle()
        return self._answers.popleft()

    def _look_up(self) -> Listed:
        for listed in boards():
            if listed.path == self._listed.path:
                return listed
        raise Unplugged("its board has ended")

    def _check_plugged(self) -> None:
        if read_state(self._listed.faults_path).unplugged:
            raise DAPAccessIntf.DeviceError(f"probe {self.serial_number} not found")


class LabProbe(CMSISDAPProbe):  # type: ignore[misc]
    """pyOCD's own CMSIS-DAP probe in front of an emulated board."""

    @classmethod
    def get_all_connected_probes(cls, unique_id: str | None = None, is_explicit: bool = False) -> Sequence[LabProbe]:
        """Probes of all boards that run."""
        return [cls(DAPAccessCMSISDAP(None, EmulatedInterface(listed))) for listed in _plugged()]

    @classmethod
    def get_probe_with_id(cls, unique_id: str, is_explicit: bool = False) -> LabProbe | None:
        """The one probe with an id; None where there is none, or more than one, which pyOCD then asks about."""
        found = [listed for listed in _plugged() if listed.entry.unique_id == unique_id]
        return cls(DAPAccessCMSISDAP(None, EmulatedInterface(found[0]))) if len(found) == 1 else None


def _plugged() -> list[Listed]:
    return [listed for listed in boards() if not read_state(listed.faults_path).unplugged]
