"""An emulated microcontroller as a target: programming it means starting an emulator with the image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

from lab.artifact import Artifact
from lab.devices.base import RegionCount
from lab.emulators.base import McuEmulator
from lab.emulators.qemu import Qemu, QemuMachine
from lab.emulators.tcg_plugin import MarkerCount
from lab.errors import EmulatorError, LabError
from lab.events import Job, RegionEvent
from lab.transports.base import ByteStream
from lab.wire import Session


class EmulatedTarget:
    """An emulator as a target of :class:`lab.devices.mcu.Mcu`.

    Args:
        make: makes an emulator, not yet started, of an ELF.
        counter: counts exactly, None where the emulator cannot.
    """

    def __init__(self, make: Callable[[Path], McuEmulator], counter: QemuCounter | None = None) -> None:
        self._make = make
        self._counter = counter
        self._emulator: McuEmulator | None = None

    @property
    def emulator(self) -> McuEmulator | None:
        """The running emulator, for faults; None while nothing is loaded."""
        return self._emulator

    @property
    def memory(self) -> McuEmulator | None:
        """The emulator, as a way to place blobs."""
        return self._emulator

    def load(self, artifact: Artifact) -> ByteStream:
        """Start an emulator with the image, held before its first instruction."""
        self.close()
        self._emulator = self._make(artifact.path)
        self._emulator.start()
        return self._emulator.open_serial()

    def release(self) -> bool:
        """Let the core run."""
        self._running().release()
        return True

    def reset(self) -> bool:
        """Reset as the reset pin would; a core that its emulator gave up on needs a new emulator."""
        try:
            self._running().check_alive()
        except LabError:
            return False
        self._running().reset()
        return True

    def check_alive(self) -> None:
        """Raise a crash or an emulator error when the emulator is dead."""
        if self._emulator is not None:
            self._emulator.check_alive()

    def core(self) -> EmulatedCore | None:
        """The core, to be looked at; None where nothing runs."""
        return None if self._emulator is None else EmulatedCore(self._emulator)

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Run the job on an instance of its own and count.

        Raises:
            EmulatorError: this emulator cannot count.
        """
        if self._counter is None:
            raise EmulatorError(
                "loads and stores cannot be counted: this emulator is not QEMU, or the counting plug-in was not built",
                hint="`make setup` builds it",
            )
        return self._counter.count(artifact, job)

    def close(self) -> None:
        """End the emulator; safe to call twice."""
        if self._emulator is not None:
            self._emulator.stop()
            self._emulator = None

    def _running(self) -> McuEmulator:
        if self._emulator is None:
            raise EmulatorError("no emulator is running: nothing is deployed", hint="call deploy() first")
        return self._emulator


class EmulatedCore:
    """An emulated core that runs, as :class:`lab.postmortem.capture.Core`."""

    def __init__(self, emulator: McuEmulator) -> None:
        self._emulator = emulator

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Hold the core for a look around."""
        self._emulator.hold()
        try:
            yield
        finally:
            self._emulator.release()

    def registers(self) -> Mapping[str, int]:
        """Core registers."""
        return self._emulator.registers()

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        return self._emulator.read_memory(address, size)


class QemuCounter:
    """Counts instructions, loads and stores with QEMU's counting plug-in.

    Args:
        machine: what QEMU emulates.
        plugin: the counting plug-in.
    """

    def __init__(self, machine: QemuMachine, plugin: Path) -> None:
        self._machine = machine
        self._plugin = plugin

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Run the job and count every region.

        Raises:
            EmulatorError: the plug-in's marks do not match the runner's events.
        """
        with Qemu(self._machine, artifact.path, plugin=self._plugin) as qemu:
            stream = qemu.open_serial()
            try:
                qemu.release()
                session = Session(stream, board_is_alive=qemu.check_alive)
                session.open(build_id=artifact.build_id, ask=False)
                session.put_all(job.all_blobs, qemu)
                events = [event for event in session.run(job) if isinstance(event, RegionEvent)]
                return match_counts(events, _settled_counts(qemu, 2 * len(events)))
            finally:
                stream.close()


def qemu_target(
    machine: QemuMachine, *, marker_socket: Path | None = None, plugin: Path | None = None
) -> EmulatedTarget:
    """A QEMU machine as a target.

    Args:
        machine: what QEMU emulates.
        marker_socket: the socket that takes the marker line, None where nobody listens to it.
        plugin: the counting plug-in, None where it was not built.
    """
    counter = None if plugin is None else QemuCounter(machine, plugin)
    return EmulatedTarget(lambda firmware: Qemu(machine, firmware, marker_socket=marker_socket), counter)


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
    return RegionCount(event.region, event.index, *astuple(count))
