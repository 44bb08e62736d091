"""An emulated microcontroller as a target: programming it means starting an emulator with the image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.artifact import Artifact
from lab.devices.base import RegionCount
from lab.emulators.qemu import Qemu, QemuMachine
from lab.emulators.tcg_plugin import MarkerCount
from lab.errors import EmulatorError, LabError
from lab.events import Job, RegionEvent
from lab.transports.base import ByteStream
from lab.transports.serial import SerialPort
from lab.wire import Session


class QemuTarget:
    """A QEMU machine as a target of :class:`lab.devices.mcu.Mcu`.

    Args:
        machine: what QEMU emulates.
        marker_socket: the socket that takes the marker line, None where nobody listens to it.
        plugin: the counting plug-in, None where it was not built.
    """

    def __init__(
        self, machine: QemuMachine, *, marker_socket: Path | None = None, plugin: Path | None = None
    ) -> None:
        self._machine = machine
        self._marker_socket = marker_socket
        self._plugin = plugin
        self._qemu: Qemu | None = None

    @property
    def memory(self) -> Qemu | None:
        """The shared memory, as a way to place blobs."""
        return self._qemu if self._machine.shared_bytes else None

    def load(self, artifact: Artifact) -> ByteStream:
        """Start QEMU with the image, held before its first instruction."""
        self.close()
        self._qemu = Qemu(self._machine, artifact.path, marker_socket=self._marker_socket)
        self._qemu.start()
        return SerialPort(self._qemu.serial_url)

    def release(self) -> bool:
        """Let the core run."""
        self._running().release()
        return True

    def reset(self) -> bool:
        """Reset by QEMU's monitor; a core that QEMU gave up on needs a new QEMU."""
        try:
            self._running().check_alive()
        except LabError:
            return False
        self._running().reset()
        return True

    def check_alive(self) -> None:
        """Raise a crash or an emulator error when QEMU is dead."""
        if self._qemu is not None:
            self._qemu.check_alive()

    def program_counter(self) -> int | None:
        """Where the core is now."""
        try:
            return self._running().registers().get("pc")
        except EmulatorError:
            return None

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Run the job on an instance of its own with the counting plug-in.

        Raises:
            EmulatorError: the plug-in was not built, or its marks do not match the runner's events.
        """
        if self._plugin is None:
            raise EmulatorError("the counting plug-in was not built", hint="`make setup` builds it")
        with (
            Qemu(self._machine, artifact.path, plugin=self._plugin) as qemu,
            _opened(qemu.serial_url) as stream,
        ):
            qemu.release()
            session = Session(stream, board_is_alive=qemu.check_alive)
            session.open(build_id=artifact.build_id, ask=False)
            session.put_all(job.all_blobs, qemu if self._machine.shared_bytes else None)
            events = [event for event in session.run(job) if isinstance(event, RegionEvent)]
            return match_counts(events, _settled_counts(qemu, 2 * len(events)))

    def close(self) -> None:
        """End QEMU; safe to call twice."""
        if self._qemu is not None:
            self._qemu.stop()
            self._qemu = None

    def _running(self) -> Qemu:
        if self._qemu is None:
            raise EmulatorError("QEMU is not running: nothing is deployed", hint="call deploy() first")
        return self._qemu


@contextmanager
def _opened(url: str) -> Iterator[SerialPort]:
    stream = SerialPort(url)
    try:
        yield stream
    finally:
        stream.close()


def _settled_counts(qemu: Qemu, expected: int) -> list[MarkerCount]:
    """The counts once as many as expected have been written; QEMU's stdio may lag behind the UART."""
    deadline = time.monotonic() + 5.0
    counts = qemu.counts()
    while len(counts) < expected and time.monotonic() < deadline:
        time.sleep(0.01)
        counts = qemu.counts()
    return counts


def match_counts(events: list[RegionEvent], marks: list[MarkerCount]) -> list[RegionCount]:
    """Pair the runner's events with the plug-in's marks: two stores to the marker register per event, in order.

    Raises:
        EmulatorError: there are not two marks per event.
    """
    if len(marks) != 2 * len(events):
        raise EmulatorError(
            f"QEMU's counting plug-in saw {len(marks)} stores to the marker register; {len(events)} events make 2 each",
            hint="does `marker_address` in the board file agree with the firmware?",
        )
    pairs = zip(events, marks[::2], marks[1::2], strict=True)
    return [_region_count(event, end.since(begin)) for event, begin, end in pairs]


def _region_count(event: RegionEvent, count: MarkerCount) -> RegionCount:
    return RegionCount(event.region, event.index, count.instructions, count.loads, count.stores)
