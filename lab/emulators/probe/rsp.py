"""Client of QEMU's gdbstub: gdb's remote serial protocol (GDB manual, appendix E) over a unix socket.

Measured facts of QEMU 7.2 used here: registers answer only after ``target.xml`` was read once on the connection; any
byte that arrives while the machine runs stops it, so nothing is acknowledged (a packet that follows counts as one); it
works off packets that arrive together one after the other. To wake it takes longer than what it then does, so commands
whose answers can wait travel with the next one, and their answers are read when they are needed.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Sequence

from lab.emulators.probe.signals import BusFault, TargetLost

_TIMEOUT_S = 10.0
# QEMU takes packets of 4096 characters; a byte takes two.
_PART_BYTES = 1024


class Answer:
    """What QEMU answers to a command, once it has come."""

    def __init__(self, *, must_be_ok: bool) -> None:
        self.must_be_ok = must_be_ok
        self.packet: bytes | None = None


def _nothing() -> None:
    """No other way to the memory is in use."""


class GdbRemote:
    """One connection; the machine stops when it is made.

    Args:
        path: the socket.
        running: whether the machine runs now; its stop is then reported and taken off the line.
        settle: called before the core runs or memory is accessed: what was sent to memory by another way arrives first.

    Raises:
        TargetLost: QEMU is gone.
    """

    def __init__(self, path: str, *, running: bool, settle: Callable[[], None] = _nothing) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT_S)
        self._settle_memory = settle
        self._buffer = b""
        self._unsent = b""
        self._awaited: deque[Answer] = deque()
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise TargetLost(f"QEMU's gdbstub at {path} does not answer: {error}") from error
        if running:
            self.wait_stop()
        # What an earlier debugger that died left in the code goes with this question.
        self.ask("?")
        self.ask("qXfer:features:read:target.xml:0,ffb")

    def ask(self, command: str) -> bytes:
        """Send a packet and return the answer to it; only while the machine stands."""
        answer = self._queue(command)
        self._flush()
        return self._take(answer)

    def _take(self, answer: Answer) -> bytes:
        while answer.packet is None:
            self._note(self._receive())
        return answer.packet

    def post_core(self, code: Sequence[int] = ()) -> list[Answer]:
        """Ask for what :meth:`core_of` reads, and at each address in ``code`` for what :meth:`halfword_of` does."""
        if code:
            self._settle_memory()
        answers = [self._queue(command) for command in ("g", *(f"m{address:x},2" for address in code))]
        self._flush()
        return answers

    def core_of(self, answer: Answer) -> list[int]:
        """r0 … r15 and xPSR, as they were when they were asked for."""
        return _words(bytes.fromhex(self._take(answer).decode()))[:17]

    def read_core(self) -> list[int]:
        """r0 … r15 and xPSR."""
        return self.core_of(*self.post_core())

    def write_core(self, number: int, value: int) -> None:
        """Write r0 … r15 (0–15) or xPSR (25, gdb's number of it); it travels with the next command.

        A flash algorithm needs five of these for every page.
        """
        self._queue(f"P{number:x}={value.to_bytes(4, 'little').hex()}", must_be_ok=True)

    def halfword_of(self, answer: Answer) -> bytes:
        """Two bytes of memory as they were when they were asked for; none where nothing is."""
        packet = self._take(answer)
        return bytes.fromhex(packet.decode()) if len(packet) == 4 else b""

    def read_raw(self, number: int) -> bytes:
        """Any register by gdb's number, as bytes."""
        return bytes.fromhex(self.ask(f"p{number:x}").decode())

    def write_raw(self, number: int, value: bytes) -> None:
        """Write any register by gdb's number."""
        self._expect_ok(f"P{number:x}={value.hex()}")

    def read_memory(self, address: int, size: int) -> bytes:
        """Read memory as the core would now, in its present state of security.

        Raises:
            BusFault: nothing is there.
        """
        self._settle_memory()
        parts = []
        for start in range(0, size, _PART_BYTES):
            count = min(_PART_BYTES, size - start)
            answer = self.ask(f"m{address + start:x},{count:x}")
            if len(answer) != 2 * count:
                raise BusFault(f"nothing can be read at {address + start:#x}")
            parts.append(bytes.fromhex(answer.decode()))
        return b"".join(parts)

    def write_memory(self, address: int, data: bytes) -> None:
        """Write memory, read-only memory too: this is the one way into what QEMU makes a ROM.

        Raises:
            BusFault: nothing is there.
        """
        self._settle_memory()
        for start in range(0, len(data), _PART_BYTES):
            part = data[start : start + _PART_BYTES]
            if self.ask(f"M{address + start:x},{len(part):x}:{part.hex()}") != b"OK":
                raise BusFault(f"nothing can be written at {address + start:#x}")

    def set_point(self, kind: int, address: int, size: int) -> None:
        """Insert a breakpoint (kind 1) or watchpoint (2 write, 3 read, 4 access)."""
        self._expect_ok(f"Z{kind},{address:x},{size:x}")

    def clear_point(self, kind: int, address: int, size: int) -> None:
        """Remove what :meth:`set_point` inserted."""
        self._expect_ok(f"z{kind},{address:x},{size:x}")

    def resume(self) -> None:
        """Let the machine run; nothing may be sent until :meth:`wait_stop` but :meth:`interrupt`."""
        self._run("c")

    def step(self) -> None:
        """One instruction, without interrupts; then :meth:`wait_stop`."""
        self._run("s")

    def interrupt(self) -> None:
        """Stop the machine; then :meth:`wait_stop`."""
        self._write(b"\x03")

    def stopped(self, patience_s: float) -> bool:
        """Whether a stop waits to be read; one that is about to come is waited for, up to ``patience_s``."""
        while True:
            # What arrives before a packet is the acknowledgement of the last one.
            while b"$" not in self._buffer:
                if not select.select([self._socket], [], [], patience_s)[0]:
                    return False
                self._fill()
            if not self._awaited:
                return True
            self._note(self._receive())

    def wait_stop(self) -> bytes:
        """The report of a stop, such as ``T05thread:01;watch:20000000;``."""
        self._settle_answers()
        return self._receive()

    def settle(self) -> None:
        """Return when everything has been done that was sent, or was to travel with what is sent next."""
        self._flush()
        self._settle_answers()

    def close(self) -> None:
        """Close the connection; the machine stays as it is."""
        try:
            self.settle()
        finally:
            self._socket.close()

    def _expect_ok(self, command: str) -> None:
        answer = self.ask(command)
        if answer != b"OK":
            raise BusFault(f"QEMU refused {command[:40]}: {answer.decode(errors='replace') or 'not supported'}")

    def _run(self, command: str) -> None:
        self._settle_memory()
        # No answer: a stop is reported whenever there is one.
        self._unsent += _packet(command)
        self._flush()

    def _queue(self, command: str, *, must_be_ok: bool = False) -> Answer:
        self._unsent += _packet(command)
        answer = Answer(must_be_ok=must_be_ok)
        self._awaited.append(answer)
        return answer

    def _flush(self) -> None:
        data, self._unsent = self._unsent, b""
        if data:
            self._write(data)

    def _note(self, packet: bytes) -> None:
        """Give a packet to the command that has waited longest for one."""
        answer = self._awaited.popleft()
        answer.packet = packet
        if answer.must_be_ok and packet != b"OK":
            raise BusFault(f"QEMU refused a register: {packet.decode(errors='replace') or 'not supported'}")

    def _settle_answers(self) -> None:
        while self._awaited:
            self._note(self._receive())

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise TargetLost(f"QEMU's gdbstub broke: {error}") from error

    def _receive(self) -> bytes:
        while True:
            start = self._buffer.find(b"$")
            stop = self._buffer.find(b"#", start + 1)
            if start >= 0 and 0 <= stop <= len(self._buffer) - 3:
                packet = self._buffer[start + 1 : stop]
                self._buffer = self._buffer[stop + 3 :]
                return packet
            self._fill()

    def _fill(self) -> None:
        try:
            data = self._socket.recv(65536)
        except OSError as error:
            raise TargetLost(f"QEMU's gdbstub broke: {error}") from error
        if not data:
            raise TargetLost("QEMU's gdbstub closed the connection")
        self._buffer += data


def _packet(command: str) -> bytes:
    body = command.encode()
    return b"$%b#%02x" % (body, sum(body) & 0xFF)


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
