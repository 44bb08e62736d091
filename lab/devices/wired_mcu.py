"""A microcontroller on a real serial port. The image is flashed by the user until SWD support lands."""

from __future__ import annotations

from lab.artifact import Artifact
from lab.devices.base import RegionCount
from lab.errors import EmulatorError, LabError, ProbeError
from lab.events import Job
from lab.transports.base import ByteStream
from lab.transports.serial import SerialPort
from lab.wire import Session


class SerialTarget:
    """A board on a serial port as a target of :class:`lab.devices.mcu.Mcu`.

    Args:
        url: port or URL for pyserial.
        baud: bits per second.
    """

    def __init__(self, url: str, baud: int) -> None:
        self._url = url
        self._baud = baud

    @property
    def memory(self) -> None:
        """None until there is a probe."""

    def load(self, artifact: Artifact) -> ByteStream:
        """Open the port and make sure that the board runs this very image.

        Raises:
            ProbeError: it runs another one; says which file to flash.
            TransportError, DeviceError: the port cannot be opened, or the board is silent.
        """
        stream = SerialPort(self._url, self._baud)
        try:
            running = Session(stream).open()
        except LabError:
            stream.close()
            raise
        if running.build_id != artifact.build_id:
            stream.close()
            raise ProbeError(
                f"{self._url} runs build {running.build_id} ({running.model}); this run needs {artifact.build_id}",
                hint=f"flash {artifact.path} with your tool (pyocd load, st-flash, drag and drop), then run again",
            )
        return stream

    def release(self) -> bool:
        """The board runs already; it will not say ``hello`` unless asked."""
        return False

    def reset(self) -> bool:
        """There is no reset line yet."""
        return False

    def check_alive(self) -> None:
        """A wire tells nothing of the board's health."""

    def program_counter(self) -> int | None:
        """Needs a probe."""
        return None

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Hardware has no exact counts of loads and stores."""
        raise EmulatorError(f"{self._url} is hardware: loads and stores cannot be counted")

    def close(self) -> None:
        """The stream is closed by whoever got it from :meth:`load`."""
