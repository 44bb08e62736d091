"""The debug port and memory access port in front of an emulated core (Arm Debug Interface, ADIv5: IHI 0031)."""

from __future__ import annotations

from enum import IntEnum

from lab.emulators.probe.core import CoreModel
from lab.emulators.probe.rom_table import ROM_TABLE
from lab.emulators.probe.signals import BusFault


class Ack(IntEnum):
    """What the target answers to a transfer."""

    OK = 1
    WAIT = 2
    FAULT = 4
    NONE = 7


class Refused(Exception):
    """A transfer that was not acknowledged with OK.

    Attributes:
        ack: what was answered.
        done: transfers of the block that were done before.
    """

    def __init__(self, ack: Ack, done: int = 0) -> None:
        super().__init__(ack.name)
        self.ack = ack
        self.done = done


_DPIDR = 0x2BA01477
_POWER_REQUESTS = 0x50000000
_STICKY_ERROR = 1 << 5
_CLEAR_STICKY_ERROR = 1 << 2

_CSW, _TAR, _DRW, _BANKED, _CFG, _BASE, _IDR = 0x00, 0x04, 0x0C, 0x10, 0xF4, 0xF8, 0xFC
_CSW_SIZE, _CSW_INCREMENT, _CSW_ENABLED = 0x7, 0x30, 1 << 6
_CSW_SECURE_ENABLED = 1 << 23
_CSW_AT_RESET = 0x23000042
# Where a block has not as many bytes, its read ends with it.
_LONG_READ_BYTES = 256


class DebugPort:
    """One debug port with one memory access port (APSEL 0).

    Args:
        core: what is behind it.
    """

    def __init__(self, core: CoreModel) -> None:
        self.core = core
        kind = core.processor
        self._idr, self._page = kind.ap_idr, kind.page_bytes
        self._csw_fixed = _CSW_ENABLED | (_CSW_SECURE_ENABLED if kind.v8 else 0)
        self._control = 0
        self._select = 0
        self._csw = _CSW_AT_RESET
        self._tar = 0
        self._ahead = b""

    def settle(self) -> None:
        """Return when everything that was written is in its place.

        Raises:
            TargetLost: the emulator is gone.
        """
        self.core.settle()

    def hold_reset(self, held: bool) -> None:
        """The board's reset pin."""
        self._ahead = b""
        self.core.hold_reset(held)

    def read(self, access_port: bool, register: int) -> int:
        """Read a register: ``register`` is 0, 4, 8 or 12, in the bank that SELECT names.

        Raises:
            Refused: not acknowledged.
            TargetLost: the emulator is gone.
        """
        self._ahead = b""
        if access_port:
            return self._read_ap(self._select & 0xF0 | register)
        if register == 0x0:
            return _DPIDR
        if register == 0x4:
            return self._control | (self._control & _POWER_REQUESTS) << 1 if not self._select & 0xF else 0
        self._check_sticky()
        # RESEND and RDBUFF: the probe's business, which the packet level has done already.
        return 0

    def write(self, access_port: bool, register: int, value: int) -> None:
        """Write a register; see :meth:`read`."""
        self._ahead = b""
        if access_port:
            self._write_ap(self._select & 0xF0 | register, value)
        elif register == 0x0:
            self._control &= ~_STICKY_ERROR if value & _CLEAR_STICKY_ERROR else ~0
        elif register == 0x4 and not self._select & 0xF:
            self._control = self._control & _STICKY_ERROR | value & _POWER_REQUESTS
        elif register == 0x8:
            self._check_sticky()
            self._select = value

    def read_block(self, access_port: bool, register: int, count: int) -> bytes:
        """Read a register ``count`` times; of memory, all words in as few accesses as the port's page allows."""
        if not self._is_streaming(access_port, register):
            words = [self.read(access_port, register) for _ in range(count)]
            return b"".join(word.to_bytes(4, "little") for word in words)
        parts = []
        while count:
            size = min(4 * count, self._page - self._tar % self._page)
            parts.append(self._read_on(size))
            self._advance(size)
            count -= size // 4
        return b"".join(parts)

    def write_block(self, access_port: bool, register: int, data: bytes) -> None:
        """Write words to a register one after the other; see :meth:`read_block`."""
        if not self._is_streaming(access_port, register):
            for at in range(0, len(data), 4):
                self.write(access_port, register, int.from_bytes(data[at : at + 4], "little"))
            return
        self._ahead = b""
        at = 0
        while at < len(data):
            size = min(len(data) - at, self._page - self._tar % self._page)
            self._access(self._tar, size, data[at : at + size])
            self._advance(size)
            at += size

    def memory_access(self, access_port: bool, register: int) -> tuple[int, int]:
        """Address and bytes of the memory that an access to a register would reach; -1 where it reaches none."""
        if not access_port or self._select >> 24:
            return -1, 0
        full = self._ap_register(register)
        if full == _DRW:
            return self._tar, 1 << min(self._csw & _CSW_SIZE, 2)
        if full & 0xF0 == _BANKED:
            return self._tar & ~0xF | register, 4
        return -1, 0

    def fault(self) -> None:
        """Remember an error until the debugger clears it."""
        self._control |= _STICKY_ERROR

    def _ap_register(self, register: int) -> int:
        return self._select & 0xF0 | register

    def _is_streaming(self, access_port: bool, register: int) -> bool:
        is_drw = access_port and self._ap_register(register) == _DRW and not self._select >> 24
        if is_drw:
            self._check_ready()
        return is_drw and self._csw & _CSW_SIZE == 2 and bool(self._csw & _CSW_INCREMENT) and not self._tar & 3

    def _check_sticky(self) -> None:
        if self._control & _STICKY_ERROR:
            raise Refused(Ack.FAULT)

    def _check_ready(self) -> None:
        if self._control & (_POWER_REQUESTS | _STICKY_ERROR) != _POWER_REQUESTS:
            self.fault()
            raise Refused(Ack.FAULT)

    def _read_ap(self, register: int) -> int:
        self._check_ready()
        if self._select >> 24:
            return 0
        if register == _DRW:
            size = 1 << min(self._csw & _CSW_SIZE, 2)
            address = self._tar
            value = int.from_bytes(self._access(address, size), "little") << 8 * (address & 3)
            self._advance(size)
            return value & 0xFFFFFFFF
        if register & 0xF0 == _BANKED:
            return int.from_bytes(self._access(self._tar & ~0xF | register & 0xC, 4), "little")
        return {
            _CSW: self._csw | self._csw_fixed,
            _TAR: self._tar,
            _CFG: 0,
            _BASE: ROM_TABLE | 3,
            _IDR: self._idr,
        }.get(register, 0)

    def _write_ap(self, register: int, value: int) -> None:
        self._check_ready()
        if self._select >> 24:
            return
        if register == _CSW:
            # Packed transfers are an option that these cores lack.
            self._csw = value & ~_CSW_INCREMENT | (0x10 if value & _CSW_INCREMENT else 0)
        elif register == _TAR:
            self._tar = value
        elif register == _DRW:
            size = 1 << min(self._csw & _CSW_SIZE, 2)
            data = (value >> 8 * (self._tar & 3) & 0xFFFFFFFF).to_bytes(4, "little")[:size]
            self._access(self._tar, size, data)
            self._advance(size)
        elif register & 0xF0 == _BANKED:
            self._access(self._tar & ~0xF | register & 0xC, 4, value.to_bytes(4, "little"))

    def _advance(self, size: int) -> None:
        if self._csw & _CSW_INCREMENT:
            page = ~(self._page - 1)
            self._tar = self._tar & page | (self._tar + size) & ~page

    def _read_on(self, size: int) -> bytes:
        """Bytes from the transfer address on, and with a long read what is left of the page: the next block of a
        debugger's read, whose packet is on its way already."""
        left = self._page - self._tar % self._page
        if not self._ahead and size >= _LONG_READ_BYTES and self.core.can_read_ahead(self._tar, left):
            self._ahead = self._access(self._tar, left)
        if not self._ahead:
            return self._access(self._tar, size)
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def _access(self, address: int, size: int, data: bytes | None = None) -> bytes:
        try:
            if data is None:
                return self.core.read(address, size)
            self.core.write(address, data)
        except BusFault as error:
            self.fault()
            raise Refused(Ack.FAULT) from error
        return b""
