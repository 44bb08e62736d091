"""Client of QEMU's machine protocol (QMP): one JSON object per line over a unix socket, one client at a time."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from typing import cast

from lab.emulators.probe.signals import TargetLost

_TIMEOUT_S = 10.0
_REGION = re.compile(r"^  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (\w+/?\w*)\): (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Region:
    """A range of the core's memory map.

    Attributes:
        start: first address.
        end: last address.
        kind: QEMU's word for it: ``ram``, ``rom`` (stores are dropped), ``romd`` (stores go to a device) or ``i/o``.
        name: QEMU's name of it.
    """

    start: int
    end: int
    kind: str
    name: str

    @property
    def is_memory(self) -> bool:
        """Whether code could be there."""
        return self.kind in ("ram", "rom", "romd") or self.is_guarded

    @property
    def is_guarded(self) -> bool:
        """Whether it is memory behind a gate of TrustZone, which lets in only who is in the right state of security."""
        return self.name.startswith("tz-mpc")


class Monitor:
    """One connection.

    Args:
        path: the socket.

    Raises:
        TargetLost: QEMU is gone, or serves another client.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT_S)
        self._events: list[str] = []
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise TargetLost(f"QEMU's monitor at {path} does not answer: {error}") from error
        self._lines = self._socket.makefile("rb")
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: str) -> object:
        """Run a command and return its answer.

        Raises:
            TargetLost: QEMU is gone, or refused the command.
        """
        self._write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise TargetLost(f"QEMU refused {command}: {answer['error']}")

    def running(self) -> bool:
        """Whether the machine runs."""
        status = cast(dict[str, object], self.execute("query-status"))
        return bool(status["running"])

    def reset(self) -> None:
        """Reset the machine as its reset pin would, and wait until that is done."""
        self._events.clear()
        self.execute("system_reset")
        while "RESET" not in self._events:
            self._read()

    def memory_map(self) -> list[Region]:
        """What the core sees where, in order of address."""
        text = str(self.execute("human-monitor-command", **{"command-line": "info mtree -f"}))
        # The map of a core with the security extension as its secure state sees it, else the only one.
        for name in ('"cpu-secure-memory-0"', '"cpu-memory-0"'):
            for view in text.split("FlatView #"):
                if name in view:
                    return [Region(int(a, 16), int(b, 16), kind, what) for a, b, kind, what in _REGION.findall(view)]
        raise TargetLost("QEMU shows no memory map of the core")

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise TargetLost(f"QEMU's monitor broke: {error}") from error

    def _read(self) -> dict[str, object]:
        try:
            line = self._lines.readline()
            answer = cast(dict[str, object], json.loads(line))
        except (OSError, ValueError) as error:
            raise TargetLost(f"QEMU's monitor broke: {error}") from error
        if "event" in answer:
            self._events.append(str(answer["event"]))
        return answer
