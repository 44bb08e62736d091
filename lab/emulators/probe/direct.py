"""A probe of pyOCD's that reaches the debug port without packets: for long tests and for measuring what packets cost.

It is not listed; hand it to a session: ``Session(DirectProbe(find_board(unique_id)), target_override=…)``. The faults
of single transfers are of the packet level, so it has none; those of the board it has.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from pyocd.core import exceptions
from pyocd.probe.debug_probe import DebugProbe

from lab.emulators.probe.core import CoreModel
from lab.emulators.probe.dap import Ack, DebugPort, Refused
from lab.emulators.probe.faults import read_state
from lab.emulators.probe.registry import Listed, claim
from lab.emulators.probe.signals import InUse, TargetLost

_REGISTER = 0x0C
_Result = TypeVar("_Result")


class DirectProbe(DebugProbe):  # type: ignore[misc]
    """One probe; order of calls as in pyOCD's ``DebugProbe``.

    Args:
        listed: the board, from the registry.
    """

    def __init__(self, listed: Listed) -> None:
        super().__init__()
        self._listed = listed
        self._port: DebugPort | None = None
        self._claim = ExitStack()
        self._connected = False
        self._reset_asserted = False

    @property
    def vendor_name(self) -> str:
        """Who made it."""
        return "hil-lab"

    @property
    def product_name(self) -> str:
        """What it is."""
        return f"direct probe, {self._listed.entry.board}"

    @property
    def unique_id(self) -> str:
        """That of the board."""
        return self._listed.entry.unique_id

    @property
    def supported_wire_protocols(self) -> Sequence[DebugProbe.Protocol]:
        """SWD only."""
        return [DebugProbe.Protocol.DEFAULT, DebugProbe.Protocol.SWD]

    @property
    def wire_protocol(self) -> DebugProbe.Protocol | None:
        """SWD once connected."""
        return DebugProbe.Protocol.SWD if self._connected else None

    @property
    def is_open(self) -> bool:
        """Whether the board is reached."""
        return self._port is not None

    @property
    def capabilities(self) -> set[DebugProbe.Capability]:
        """Nothing that pyOCD does not do by itself."""
        return {DebugProbe.Capability.SWJ_SEQUENCE}

    def open(self) -> None:
        """Reach the board."""
        with ExitStack() as stack:
            try:
                stack.callback(os.close, claim(self._listed))
                self._port = DebugPort(CoreModel(self._listed.entry))
            except (InUse, TargetLost) as error:
                raise exceptions.ProbeError(error.message) from error
            self._claim = stack.pop_all()

    def close(self) -> None:
        """Let go of the board."""
        if self._port is not None:
            self._port.core.close()
            self._port = None
            self._claim.close()

    def connect(self, protocol: DebugProbe.Protocol | None = None) -> None:
        """There is no wire."""
        self._connected = True

    def disconnect(self) -> None:
        """There is no wire."""
        self._connected = False

    def set_clock(self, frequency: float) -> None:
        """There is no clock."""

    def swj_sequence(self, length: int, bits: int) -> None:
        """There is no wire."""

    def reset(self) -> None:
        """Pulse the reset pin."""
        self.assert_reset(True)
        self.assert_reset(False)

    def assert_reset(self, asserted: bool) -> None:
        """Set the reset pin."""
        self._do(lambda port: port.hold_reset(asserted))
        self._reset_asserted = asserted

    def is_reset_asserted(self) -> bool:
        """The reset pin."""
        return self._reset_asserted

    def read_dp(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        """Read a register of the debug port."""
        return _deferred(self._do(lambda port: port.read(False, addr & _REGISTER)), now)

    def write_dp(self, addr: int, data: int) -> None:
        """Write a register of the debug port."""
        self._do(lambda port: port.write(False, addr & _REGISTER, data))

    def read_ap(self, addr: int, now: bool = True) -> int | Callable[[], int]:
        """Read a register of the access port."""
        return _deferred(self._do(lambda port: port.read(True, addr & _REGISTER)), now)

    def write_ap(self, addr: int, data: int) -> None:
        """Write a register of the access port."""
        self._do(lambda port: port.write(True, addr & _REGISTER, data))

    def read_ap_multiple(
        self, addr: int, count: int = 1, now: bool = True
    ) -> Sequence[int] | Callable[[], Sequence[int]]:
        """Read a register of the access port many times."""
        data = self._do(lambda port: port.read_block(True, addr & _REGISTER, count))
        return _deferred(struct.unpack(f"<{count}I", data), now)

    def write_ap_multiple(self, addr: int, values: Sequence[int]) -> None:
        """Write a register of the access port many times."""
        data = struct.pack(f"<{len(values)}I", *values)
        self._do(lambda port: port.write_block(True, addr & _REGISTER, data))

    def _do(self, access: Callable[[DebugPort], _Result]) -> _Result:
        if self._port is None:
            raise exceptions.ProbeError(f"probe {self.unique_id} is not open")
        self._port.core.apply(read_state(self._listed.faults_path))
        try:
            result = access(self._port)
            self._port.settle()
            return result
        except TargetLost as error:
            raise exceptions.TransferError(error.message) from error
        except Refused as refused:
            if refused.ack is Ack.FAULT:
                raise exceptions.TransferFaultError() from refused
            raise exceptions.TransferError(refused.ack.name) from refused


def _deferred(value: _Result, now: bool) -> _Result | Callable[[], _Result]:
    return value if now else lambda: value
