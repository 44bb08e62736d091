"""A microcontroller on a real serial port and nothing else: the user flashes it."""

from __future__ import annotations

from collections.abc import Callable

from lab.artifact import Artifact
from lab.connection_config import SerialPort as SerialConfig
from lab.devices.base import RegionCount
from lab.errors import DeviceError, EmulatorError, LabError, ProbeError
from lab.events import Hello, Job
from lab.fence import Fence
from lab.postmortem.capture import Core
from lab.transports.base import ByteStream
from lab.transports.serial import SerialPort, open_port
from lab.transports.serial_ports import PortLister, is_remote, list_ports
from lab.wire import Session

# A USB device that was reset, or plugged out and in, is back within a few seconds.
REENUMERATION_S = 10.0


class SerialTarget:
    """A board on a serial port as a target of :class:`lab.devices.mcu.Mcu`.

    Args:
        config: the entry ``serial:`` of the bench file.
        ports: lists what is attached.
        fence: the lease under which it is used.
        where: says where the port is now, for one of another host, which may move; None: where ``config`` says.
    """

    def __init__(
        self,
        config: SerialConfig,
        ports: PortLister = list_ports,
        fence: Fence | None = None,
        where: Callable[[], SerialConfig] | None = None,
    ) -> None:
        self._config = config
        self._where = where
        self._ports = ports
        self._fence = fence
        self._port: SerialPort | None = None

    @property
    def remote(self) -> bool:
        """Whether a network lies between this computer and the board."""
        return is_remote(self._config.port or "")

    @property
    def memory(self) -> None:
        """None: that needs a probe."""
        return None

    def load(self, artifact: Artifact) -> ByteStream:
        """Open the port and make sure that the board runs this very image; one that hangs is reset where that is wired.

        Raises:
            ProbeError: it runs another one; says which file to flash.
            TransportError, DeviceError: the port cannot be opened, or the board is silent.
        """
        if self._port is not None and self._where is None:
            self._port.reopen(REENUMERATION_S)
        else:
            if self._where is not None:
                self._config = self._where()
            self._port = open_port(self._config, self._ports)
        stream = self._port
        try:
            running = _running_on(stream, self._fence)
        except LabError:
            stream.close()
            raise
        if running.build_id != artifact.build_id:
            stream.close()
            raise ProbeError(
                f"{stream.name} runs build {running.build_id} ({running.model}); this run needs {artifact.build_id}",
                hint=f"flash {artifact.path} with your tool (pyocd load, st-flash, drag and drop), then run again",
            )
        return stream

    def release(self) -> bool:
        """The board runs already; it will not say ``hello`` unless asked."""
        return False

    def reset(self) -> bool:
        """Pulse the reset line, where one is wired."""
        return self._port is not None and self._port.pulse_reset()

    def check_alive(self) -> None:
        """A wire tells nothing of the board's health."""

    def core(self) -> Core | None:
        """None: that needs a probe."""
        return None

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Hardware has no exact counts of loads and stores."""
        raise EmulatorError("a board on a serial port is hardware: loads and stores cannot be counted")

    def close(self) -> None:
        """The stream is closed by whoever got it from :meth:`load`."""


def _running_on(port: SerialPort, fence: Fence | None) -> Hello:
    try:
        return Session(port, fence=fence).open()
    except DeviceError:
        if not port.pulse_reset():
            raise
    return Session(port, fence=fence).open(ask=False)
