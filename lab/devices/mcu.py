"""Microcontrollers: an image goes in, a byte stream comes out; real boards and emulated ones alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Protocol

from lab.artifact import Artifact
from lab.devices.base import Evident, Identity, PowerAction, RegionCount, ResetKind, Rung
from lab.errors import ConfigError, DeviceError, Hang, InfrastructureError, LabError, LeaseLost, ProtocolError
from lab.events import Event, Hello, Job
from lab.fence import Fence
from lab.heard import Heard
from lab.postmortem.capture import Core, examine_core, explain_report
from lab.postmortem.text import explained
from lab.power.base import Meter
from lab.power.switches.base import PowerSwitch
from lab.transports.base import ByteStream, MemoryPort
from lab.wire import Session

HELLO_TIMEOUT_S = 10.0
# A board that is well answers within milliseconds; one that hangs is to be reset soon.
RESYNC_TIMEOUT_S = 1.0


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

    def core(self) -> Core | None:
        """The core, for a look at it after a hang; None where there is no way to."""

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
        switch: makes the switch in its supply, or None.
        fence: the lease under which it is used; None where nobody else can reach it.
    """

    def __init__(
        self,
        identity: Identity,
        target: McuTarget,
        meter: Callable[[], Meter] | None = None,
        switch: Callable[[], PowerSwitch] | None = None,
        fence: Fence | None = None,
    ) -> None:
        self.identity = identity
        self._target = target
        self._make_meter = meter
        self._make_switch = switch
        self._fence = fence
        self._stream: ByteStream | None = None
        self._session: Session | None = None
        self._artifact: Artifact | None = None
        self._heard = Heard()

    def deploy(self, artifact: Artifact) -> Hello:
        """Program the image and open a session with it.

        Raises:
            ConfigError: the image was built for another board.
            LeaseLost: somebody else holds the device; it was left alone.
            DeviceError, InfrastructureError: see :meth:`lab.wire.Session.open`.
        """
        if artifact.board != self.identity.board:
            raise ConfigError(
                f"{self.identity.name} is a {self.identity.board}; the image was built for {artifact.board}",
                hint=f"build it with board={self.identity.board!r}",
            )
        self._check_lease()
        self._drop_session()
        self._artifact = artifact
        self._stream = self._target.load(artifact)
        return self._open_session(self._target.release())

    def run(self, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        """Run a job on the deployed image.

        Raises:
            Hang, Crash, OutOfMemory, ProtocolError: the device failed; a crash carries registers and a place in the
                code.
            LeaseLost: somebody else holds the device.
        """
        self._check_lease()
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
        self._check_lease()
        if kind == "soft":
            session.reset()
            # The same session: the hello may have come together with the acknowledgement.
            return session.open(HELLO_TIMEOUT_S, build_id=self._deployed().build_id, ask=False)
        return self._open_session(announced=True) if self._target.reset() else self.deploy(self._deployed())

    def recover(self) -> Rung:
        """Climb the ladder: resynchronise, reset, deploy again, and where there is a switch, power cycle.

        Raises:
            LeaseLost: somebody else holds the device; it was left alone from there on.
            LabError: what the last rung said.
        """
        try:
            self._open_session(announced=False, timeout_s=RESYNC_TIMEOUT_S)
            return "resync"
        except LeaseLost:
            # A reset would make the device forget who holds it.
            raise
        except (DeviceError, InfrastructureError):
            pass
        self._check_lease()
        try:
            if self._target.reset():
                self._open_session(announced=True)
                return "soft-reset"
        except LeaseLost:
            raise
        except (DeviceError, InfrastructureError):
            pass
        artifact = self._deployed()
        try:
            self.deploy(artifact)
            return "re-deploy"
        except LeaseLost:
            raise
        except (DeviceError, InfrastructureError):
            # Of an emulated board that was a new one already.
            if self._make_switch is None or self.identity.source == "emulated":
                raise
        self.power("cycle")
        self.deploy(artifact)
        return "power-cycle"

    def power(self, action: PowerAction) -> None:
        """Switch the supply; see :class:`lab.devices.base.Powered`."""
        if self._make_switch is None:
            raise ConfigError(
                f"{self.identity.name} has no power switch",
                hint="add power_switch: to its entry in the bench file (docs/switches.md)",
            )
        switch = self._make_switch()
        self._check_lease()
        self._drop_session()
        switch.do(action)

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Exact counts of one run of ``job`` on an instance of its own."""
        return self._target.count(artifact, job)

    def meter(self) -> Meter | None:
        """The device's meter, not yet opened."""
        return None if self._make_meter is None else self._make_meter()

    def evidence(self) -> Mapping[str, str]:
        """See :class:`lab.devices.base.Evident`."""
        seen = {"console": "\n".join(self._heard.lines())}
        if isinstance(self._target, Evident):
            seen |= self._target.evidence()
        return {where: text for where, text in seen.items() if text}

    def close(self) -> None:
        """Let go of the device; safe to call twice."""
        if self._session is not None:
            # A device that is gone is met at its first rate anyway.
            with suppress(DeviceError, InfrastructureError):
                self._session.leave()
        self._drop_session()
        self._target.close()

    def _open_session(self, announced: bool, timeout_s: float = HELLO_TIMEOUT_S) -> Hello:
        if self._stream is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        session = Session(
            self._stream, board_is_alive=self._target.check_alive, heard=self._heard.feed, fence=self._fence
        )
        try:
            hello = session.open(timeout_s, build_id=self._deployed().build_id, ask=not announced)
        except DeviceError as error:
            raise self._explain(error) from error
        self._session = session
        return hello

    def _check_lease(self) -> None:
        """What goes past the runner (a probe, a reset line, a switch) no device can refuse."""
        if self._fence is not None:
            self._fence.check()

    def _explain(self, error: DeviceError) -> DeviceError:
        """Add what only the image and the target can tell: faults in words, the calls that led there, the stacks."""
        core = self._target.core() if isinstance(error, Hang) else None
        try:
            if core is not None:
                return explained(error, examine_core(core, self._deployed().path))
            if error.report.registers:
                return explained(error, explain_report(error.report, self._deployed().path))
        except LabError as failed:
            # The device's failure is what counts; that the look at it failed as well is a note.
            error.add_note(f"no post-mortem: {failed.message}")
        return error

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
