"""The firmware of a CMSIS-DAP probe (Arm's specification, version 2.1) in front of an emulated board.

pyOCD's own code packs the packets, defers reads, and makes errors of answers, as with a probe on USB.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping

from lab.emulators.probe.core import CoreModel
from lab.emulators.probe.dap import Ack, DebugPort, Refused
from lab.emulators.probe.faults import LinkState
from lab.emulators.probe.link import Link
from lab.emulators.probe.registry import Listed
from lab.emulators.probe.signals import TargetLost

PACKET_BYTES = 512
PACKET_COUNT = 4

_OK, _ERROR, _INVALID = b"\x00", b"\xff", b"\xff"
_SWD = 1
_RESET_PIN = 1 << 7
_CONNECTED_PINS = 0x83
_AP, _READ, _REGISTER = 1, 2, 0x0C
_ABORT = 0x00
_ACKS = {"no-ack": Ack.NONE, "wait": Ack.WAIT, "fault": Ack.FAULT}


class CmsisDapProbe:
    """One probe. Its target may lose and gain power while it is plugged in.

    Args:
        listed: the board, from the registry.
        look_up: finds the board's entry again, after a power cycle.
    """

    def __init__(self, listed: Listed, look_up: Callable[[], Listed]) -> None:
        self._listed = listed
        self._look_up = look_up
        self._link = Link(listed.faults_path)
        self._port: DebugPort | None = None
        self._pins = _RESET_PIN
        entry = listed.entry
        self._information: Mapping[int, bytes] = {
            0x01: _text("hil-lab"),
            0x02: _text("Virtual CMSIS-DAP"),
            0x03: _text(entry.unique_id),
            0x04: _text("2.1.1"),
            0x05: _text("hil-lab" if entry.target else ""),
            0x06: _text(entry.target),
            0x07: _text("hil-lab"),
            0x08: _text(f"{entry.board}, emulated"),
            0x09: _text("1.0"),
            0xF0: bytes((1,)),
            0xFE: bytes((PACKET_COUNT,)),
            0xFF: PACKET_BYTES.to_bytes(2, "little"),
        }
        self._commands: Mapping[int, Callable[[bytes], bytes]] = {
            0x00: self._info,
            0x01: lambda _: _OK,
            0x02: self._connect,
            0x03: self._disconnect,
            0x04: lambda _: _OK,
            0x05: self._transfer,
            0x06: self._transfer_block,
            0x08: self._write_abort,
            0x09: self._delay,
            0x0A: lambda _: b"\x00\x00",
            0x10: self._swj_pins,
            0x11: lambda _: _OK,
            0x12: self._swj_sequence,
            0x13: lambda _: _OK,
        }

    def handle(self, packet: bytes) -> bytes:
        """Answer one packet.

        Raises:
            Unplugged: by a fault that was set.
        """
        state = self._link.begin_packet()
        command = self._commands.get(packet[0])
        if command is None:
            return _INVALID
        self._apply(state)
        return packet[:1] + command(packet[1:])

    def settle(self) -> None:
        """Return when what the packets wrote is in its place, as it is before a probe answers."""
        if self._port is not None:
            try:
                self._port.settle()
            except TargetLost:
                # As if it had lost its power just after the last transfer.
                self._release()

    def close(self) -> None:
        """Let go of the board; the core stays as it is."""
        self._release()

    def _apply(self, state: LinkState) -> None:
        if self._port is not None:
            self._port.core.apply(state)

    def _info(self, data: bytes) -> bytes:
        answer = self._information.get(data[0], b"")
        return bytes((len(answer),)) + answer

    def _connect(self, data: bytes) -> bytes:
        if data[0] not in (0, _SWD):
            return b"\x00"
        self._reach()
        return bytes((_SWD,))

    def _disconnect(self, _: bytes) -> bytes:
        self._release()
        return _OK

    def _reach(self) -> None:
        """Connect to the emulator if it has power and is not connected to yet."""
        if self._port is not None:
            return
        entry = self._look_up().entry
        if not entry.powered:
            return
        try:
            self._port = DebugPort(CoreModel(entry))
        except TargetLost:
            # Its power went this moment.
            return
        self._apply(self._link.begin_packet())
        if not self._pins & _RESET_PIN:
            # Held since before the target was looked for: connecting under reset.
            self._port.hold_reset(True)

    def _release(self) -> None:
        port, self._port = self._port, None
        if port is None:
            return
        try:
            port.core.close()
        except TargetLost:
            return

    def _transfer(self, data: bytes) -> bytes:
        """DAP_Transfer: single transfers. Equal ones in a row are done as one, which a loop in a probe does as fast."""
        answers: list[bytes] = []
        done, count, at = 0, data[1], 2
        one_by_one = self._link.counts
        try:
            while done < count:
                alike, end = _alike(data, at, count - done)
                request = data[at]
                if alike == 1 and not one_by_one:
                    answers.append(self._one(request, int.from_bytes(data[at + 1 : end], "little")))
                else:
                    starts = () if request & _READ else range(at + 1, end, 5)
                    answers.append(self._many(request, alike, b"".join(data[start : start + 4] for start in starts)))
                done, at = done + alike, end
        except Refused as refused:
            return bytes((done + refused.done, refused.ack)) + b"".join(answers)
        return bytes((done, Ack.OK)) + b"".join(answers)

    def _transfer_block(self, data: bytes) -> bytes:
        """DAP_TransferBlock: one register, many times."""
        count, request = struct.unpack_from("<HB", data, 1)
        try:
            answer = self._many(request, count, data[4 : 4 + 4 * count])
        except Refused as refused:
            return struct.pack("<HB", refused.done, refused.ack)
        return struct.pack("<HB", count, Ack.OK) + answer

    def _many(self, request: int, count: int, data: bytes) -> bytes:
        """``count`` equal transfers: the words read, or ``data`` written."""
        if self._link.counts:
            return self._one_by_one(request, count, data)
        access_port, register = bool(request & _AP), request & _REGISTER
        port = self._reached()
        try:
            if request & _READ:
                return port.read_block(access_port, register, count)
            port.write_block(access_port, register, data)
        except TargetLost as error:
            raise self._lost() from error
        return b""

    def _one_by_one(self, request: int, count: int, data: bytes) -> bytes:
        """:meth:`_many` with the faults of the link."""
        access_port, register = bool(request & _AP), request & _REGISTER
        answers = []
        for done in range(count):
            try:
                self._fault(access_port, register)
                answers.append(self._one(request, int.from_bytes(data[4 * done : 4 * done + 4], "little")))
            except Refused as refused:
                raise Refused(refused.ack, done) from refused
        return b"".join(answers)

    def _fault(self, access_port: bool, register: int) -> None:
        """Refuse the next transfer if a fault of the link says so."""
        port = self._port
        address, size = (-1, 0) if port is None else port.memory_access(access_port, register)
        kind = self._link.next_transfer(address, size)
        if kind is not None:
            if kind == "fault" and port is not None:
                port.fault()
            raise Refused(_ACKS[kind])

    def _one(self, request: int, value: int) -> bytes:
        """One transfer: the word read, or nothing."""
        port = self._reached()
        try:
            if request & _READ:
                return port.read(bool(request & _AP), request & _REGISTER).to_bytes(4, "little")
            port.write(bool(request & _AP), request & _REGISTER, value)
        except TargetLost as error:
            raise self._lost() from error
        return b""

    def _reached(self) -> DebugPort:
        """The debug port; without power nothing acknowledges a transfer."""
        if self._port is None:
            raise Refused(Ack.NONE)
        return self._port

    def _lost(self) -> Refused:
        """What becomes of the transfer at which the power went."""
        self._release()
        return Refused(Ack.NONE)

    def _write_abort(self, data: bytes) -> bytes:
        try:
            self._one(_ABORT, int.from_bytes(data[1:5], "little"))
        except Refused:
            return _ERROR
        return _OK

    def _delay(self, data: bytes) -> bytes:
        time.sleep(int.from_bytes(data[:2], "little") * 1e-6)
        return _OK

    def _swj_pins(self, data: bytes) -> bytes:
        output, select = data[0], data[1]
        self._pins = self._pins & ~select | output & select
        if select & _RESET_PIN and self._port is not None:
            try:
                self._port.hold_reset(not output & _RESET_PIN)
            except TargetLost:
                self._release()
        return bytes((self._pins & _CONNECTED_PINS,))

    def _swj_sequence(self, _: bytes) -> bytes:
        # A line reset is where a target that was powered in the meantime answers again.
        self._reach()
        return _OK


def _alike(data: bytes, at: int, most: int) -> tuple[int, int]:
    """How many transfers of a DAP_Transfer packet from ``at`` on are alike, ``most`` at most, and where they end."""
    request = data[at]
    size = 1 if request & _READ else 5
    count, end = 1, at + size
    while count < most and data[end] == request:
        count, end = count + 1, end + size
    return count, end


def _text(words: str) -> bytes:
    return words.encode() + b"\x00" if words else b""
