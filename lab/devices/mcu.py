"""Microcontrollers: an image goes in, a byte stream comes out; real boards and emulated ones alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from lab.artifact import Artifact
from lab.build import symbolize
from lab.devices.base import Identity, RegionCount, ResetKind, Rung
from lab.errors import ConfigError, Crash, CrashReport, DeviceError, Hang, InfrastructureError, ProtocolError
from lab.events import Event, Hello, Job
from lab.power.base import Meter
from lab.transports.base import ByteStream, MemoryPort
from lab.wire import Session

HELLO_TIMEOUT_S = 10.0


class McuTarget(Protocol):
    """How images get into a microcontroller and how its byte stream is reached."""

    @property
    def memory(self) -> MemoryPort | None:
        """A way to place bytes in its memory; None where there is none."""

    def load(self, artifact: Artifact) -> ByteStream:
        """Program the image and hold the core."""

    def release(self) -> bool:
        """Let the core run from reset; returns whether it will say ``hello`` by itself."""

    def reset(self) -> bool:
        """Reset by the reset pin or what stands for it; False where that cannot be done."""

    def check_alive(self) -> None:
        """Raise the right error when the target is known to be dead."""

    def program_counter(self) -> int | None:
        """Where the core is now; None where nobody can tell."""

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Count exactly, where ``identity.capabilities`` has ``counts``."""

    def close(self) -> None:
        """Let go of the target."""


class Mcu:
    """A microcontroller.

    Args:
        identity: what it is.
        target: how it is reached.
        meter: makes its meter, or None.
    """

    def __init__(self, identity: Identity, target: McuTarget, meter: Callable[[], Meter] | None = None) -> None:
        self.identity = identity
        self._target = target
        self._make_meter = meter
        self._stream: ByteStream | None = None
        self._session: Session | None = None
        self._artifact: Artifact | None = None

    def deploy(self, artifact: Artifact) -> Hello:
        """Program the image and open a session with it.

        Raises:
            ConfigError: the image was built for another board.
            DeviceError, InfrastructureError: see :meth:`lab.wire.Session.open`.
        """
        if artifact.board != self.identity.board:
            raise ConfigError(
                f"{self.identity.name} is a {self.identity.board}; the image was built for {artifact.board}",
                hint=f"build it with board={self.identity.board!r}",
            )
        self._drop_session()
        self._artifact = artifact
        self._stream = self._target.load(artifact)
        return self._open_session(self._target.release())

    def run(self, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        """Run a job on the deployed image.

        Raises:
            Hang, Crash, OutOfMemory, ProtocolError: the device failed; a crash carries registers and a place in the
                code.
        """
        if self._open().unfinished_job:
            self._open_session(announced=False)
        session = self._open()
        try:
            session.put_all(job.all_blobs, self._target.memory)
            yield from session.run(job, silence_s)
        except DeviceError as error:
            raise self._explain(error) from error

    def reset(self, kind: ResetKind) -> Hello:
        """Reset; ``soft`` asks the firmware, ``power`` uses the reset line or starts the image anew."""
        session = self._open()
        if kind == "soft":
            session.reset()
            # The same session: the hello may have come together with the acknowledgement.
            return session.open(HELLO_TIMEOUT_S, build_id=self._deployed().build_id, ask=False)
        return self._open_session(announced=True) if self._target.reset() else self.deploy(self._deployed())

    def recover(self) -> Rung:
        """Climb the ladder: resynchronise, reset, deploy again.

        Raises:
            LabError: what the last rung said.
        """
        try:
            self._open_session(announced=False, timeout_s=1.0)
            return "resync"
        except (DeviceError, InfrastructureError):
            pass
        try:
            if self._target.reset():
                self._open_session(announced=True)
                return "soft-reset"
        except (DeviceError, InfrastructureError):
            pass
        self.deploy(self._deployed())
        return "re-deploy"

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Exact counts of one run of ``job`` on an instance of its own."""
        return self._target.count(artifact, job)

    def meter(self) -> Meter | None:
        """The device's meter, not yet opened."""
        return None if self._make_meter is None else self._make_meter()

    def close(self) -> None:
        """Let go of the device; safe to call twice."""
        self._drop_session()
        self._target.close()

    def _open_session(self, announced: bool, timeout_s: float = HELLO_TIMEOUT_S) -> Hello:
        if self._stream is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        session = Session(self._stream, board_is_alive=self._target.check_alive)
        try:
            hello = session.open(timeout_s, build_id=self._deployed().build_id, ask=not announced)
        except DeviceError as error:
            raise self._explain(error) from error
        self._session = session
        return hello

    def _explain(self, error: DeviceError) -> DeviceError:
        """Add what only the target knows: where the core is, and which line of which function that is."""
        elf = self._deployed().path
        if isinstance(error, Crash):
            return _located_crash(error, elf)
        counter = self._target.program_counter() if isinstance(error, Hang) else None
        if counter is None:
            return error
        return Hang(f"{error.message}; the core is at {symbolize(elf, counter)}", hint=error.hint)

    def _open(self) -> Session:
        if self._session is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        return self._session

    def _deployed(self) -> Artifact:
        if self._artifact is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        return self._artifact

    def _drop_session(self) -> None:
        self._session = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _located_crash(error: Crash, elf: Path) -> Crash:
    registers = error.report.registers
    location = symbolize(elf, registers["pc"]) if "pc" in registers else ""
    caller = symbolize(elf, registers["lr"] & ~1) if "lr" in registers else ""
    listed = " ".join(f"{name}={value:#010x}" for name, value in registers.items())
    region = f" in region {error.report.region!r}" if error.report.region else ""
    message = f"{error.message}{region}\n  at {location or 'an unknown place'}"
    message += f", called from {caller}" if caller else ""
    report = CrashReport(registers, location, error.report.region)
    return Crash(f"{message}\n  {listed}", hint=error.hint, report=report)
