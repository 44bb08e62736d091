"""What a device says before it greets: frames left over from before, or why it does not come up."""

from __future__ import annotations

from collections.abc import Mapping

from lab.errors import DeviceError, Hang, TransportError, WorkloadError
from lab.wire_messages import Value, bytes_field, integer_field, parse_error, tells_of_a_fault

# One may be left over from before the deployment, and one be cut off by it.
_FAULTS_AT_START = 3


class Overheard:
    """Bytes, frames and faults that came while a hello is waited for.

    Attributes:
        stack: pieces of the stack of a fault that is being told, by address.
        data_bytes: how much arrived.
    """

    def __init__(self) -> None:
        self.stack: list[tuple[int, bytes]] = []
        self.data_bytes = 0
        self._frames = 0
        self._faults = 0
        self._fault: DeviceError | WorkloadError | None = None

    def keep_stack(self, message: Mapping[str, Value]) -> None:
        """Remember a piece of the stack; the fault is told after it."""
        self.stack.append((integer_field(message, "a"), bytes_field(message, "d")))

    def keep(self, message: Mapping[str, Value]) -> None:
        """Remember a frame that is no hello; a fault told there is left over, or the reason why no hello comes.

        Raises:
            DeviceError, WorkloadError: the device fails again and again as it starts.
        """
        self._frames += 1
        if message.get("t") == "stack":
            self.keep_stack(message)
        elif tells_of_a_fault(message):
            self._fault = parse_error(message, tuple(self.stack))
            self._faults += 1
            self.stack.clear()
            if self._faults >= _FAULTS_AT_START:
                # It restarts and fails again, and would do so for ever.
                raise self._fault

    def no_hello(self, name: str, timeout_s: float) -> DeviceError | WorkloadError | TransportError:
        """Why none came within ``timeout_s`` from the device behind the stream ``name``."""
        if self._fault is not None:
            return self._fault
        if self._frames:
            return Hang(
                f"{name} sent {self._frames} frame(s) in {timeout_s:.1f} s, but no hello",
                hint="it is busy with a job that does not end: `lab reset`",
            )
        if self.data_bytes:
            return TransportError(
                f"{name}: {self.data_bytes} bytes came in {timeout_s:.1f} s, none a frame of the runner",
                hint="wrong baud rate, or another program on the device: check `baud` in the bench file, deploy again",
            )
        return Hang(
            f"{name} said nothing for {timeout_s:.1f} s",
            hint="is it powered, is this the right port, was the firmware deployed? try `lab reset`",
        )
