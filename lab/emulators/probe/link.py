"""The link of one open probe: which of the faults set for it happens now."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from lab.emulators.probe.faults import ALWAYS, LinkState, TransferFault, TransferFaultKind, change, read_state
from lab.emulators.probe.signals import Unplugged


class Link:
    """Counts transfers against the faults in a file.

    Args:
        path: the file; see :mod:`lab.emulators.probe.faults`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = read_state(path)
        self._passed: dict[TransferFault, int] = {}

    def begin_packet(self) -> LinkState:
        """Look at the file again, wait where the link is slow, and say what is wrong.

        Raises:
            Unplugged: the probe is.
        """
        self._state = read_state(self._path)
        if self._state.unplugged:
            raise Unplugged("the probe is unplugged")
        if self._state.delay_s:
            time.sleep(self._state.delay_s)
        return self._state

    @property
    def counts(self) -> bool:
        """Whether single transfers matter."""
        return bool(self._state.transfers)

    def next_transfer(self, address: int, size: int) -> TransferFaultKind | None:
        """What goes wrong with the next transfer, to ``size`` bytes at ``address`` (-1: not to memory); counts it.

        Raises:
            Unplugged: the probe is, from now on.
        """
        for fault in self._state.transfers:
            if not fault.hits(address, size):
                continue
            key = replace(fault, times=0)
            self._passed[key] = self._passed.get(key, 0) + 1
            if self._passed[key] <= fault.after_transfers:
                continue
            self._spend(fault)
            if fault.kind == "unplug":
                raise Unplugged("the probe is unplugged")
            return fault.kind
        return None

    def _spend(self, fault: TransferFault) -> None:
        if fault.times == ALWAYS:
            return

        def without(state: LinkState) -> LinkState:
            left = [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
            others = [one for one in state.transfers if one != fault]
            unplugged = state.unplugged or fault.kind == "unplug"
            return replace(state, transfers=(*left, *others), unplugged=unplugged)

        change(self._path, without)
        self._state = read_state(self._path)
