"""The nRF52840 and the RP2040 as far as start-up code and runner need them, strict where silicon is: what a data sheet
forbids, or what would hang or damage a real part, fails the test. The cores are Unicorn's.

Written from Nordic's nRF52840 product specification 1.7 and the RP2040 data sheet, not from the firmware and not from
the emulator that the lab ships (``lab.emulators.unicorn``): a reference that shares code with either finds nothing.
Time passes with each access of a register. An interrupt is taken between two stretches of the program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol, cast

import unicorn
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from unicorn import UC_ARCH_ARM, UC_MODE_MCLASS, UC_MODE_THUMB, arm_const

CYCLES_PER_ACCESS = 40
STRETCH = 20_000  # instructions
IDLE_STRETCHES = 20  # without a byte, after which nothing comes by itself
BAUD_TOLERANCE = 0.01
SYSTEM = 0xE0000000  # the core's own registers
NVIC_ENABLE = 0xE000E100
_SAVED = (
    *(arm_const.UC_ARM_REG_R0, arm_const.UC_ARM_REG_R1, arm_const.UC_ARM_REG_R2, arm_const.UC_ARM_REG_R3),
    *(arm_const.UC_ARM_REG_R12, arm_const.UC_ARM_REG_LR, arm_const.UC_ARM_REG_PC, arm_const.UC_ARM_REG_XPSR),
)


class Engine(Protocol):
    """What is used of Unicorn, which has no types."""

    def ctl_set_cpu_model(self, model: int) -> None: ...
    def mem_map(self, address: int, size: int) -> None: ...
    def mmio_map(self, address: int, size: int, read: object, at: int, write: object, also_at: int) -> None: ...
    def mem_read(self, address: int, size: int) -> bytearray: ...
    def mem_write(self, address: int, data: bytes) -> None: ...
    def reg_read(self, register: int) -> int: ...
    def reg_write(self, register: int, value: int) -> None: ...
    def emu_start(self, begin: int, until: int, timeout: int = 0, count: int = 0) -> None: ...
    def emu_stop(self) -> None: ...


class Forbidden(AssertionError):
    """A real part would not have forgiven this."""


def require(holds: object, rule: str) -> None:
    """Fail the test where a rule of the data sheet is broken."""
    if not holds:
        raise Forbidden(rule)


class Chip:
    """A core with flash, RAM and the registers that a subclass models; also the far end of its UART.

    Attributes:
        cycles: of the core since power-up.
        stores: every store to a register, in order.
        interrupts: how many were taken.
        overruns: how many bytes found the receiver full.
    """

    cpu: int
    flash: tuple[int, int]
    ram: tuple[int, int]
    registers: tuple[tuple[int, int], ...]
    irq: int
    receiver_bytes: int

    def __init__(self, image: Path, baud: int = 115200) -> None:
        self.name = image.name
        self.cycles = 0
        self.interrupts = 0
        self.overruns = 0
        self.stores: list[tuple[int, int]] = []
        self.received: deque[int] = deque()
        self.sent = bytearray()
        self.baud = self.first_baud = baud
        self.max_baud = 10_000_000
        self.values: dict[int, int] = {}
        self._failure: Exception | None = None
        self._nvic = 0
        make = cast("Callable[[int, int], Engine]", vars(unicorn)["Uc"])
        self._uc = make(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        self._uc.ctl_set_cpu_model(self.cpu)
        for start, size in (self.flash, self.ram):
            self._uc.mem_map(start, size)
        for start, size in (*self.registers, (SYSTEM, 0x10000)):
            self._uc.mmio_map(start, size, self._on_read, start, self._on_write, start)
        # Where interrupts return to: no program reaches it.
        self._return = self.flash[0] + self.flash[1] - 4
        self.symbols: dict[str, int] = {}
        self._load(image)

    def _load(self, image: Path) -> None:
        with image.open("rb") as stream:
            elf = ELFFile(stream)
            for segment in elf.iter_segments("PT_LOAD"):
                if segment["p_filesz"]:
                    self._uc.mem_write(segment["p_paddr"], segment.data())
            table = elf.get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            self.symbols = {symbol.name: int(symbol["st_value"]) for symbol in table.iter_symbols()}

    # ---- what a chip is ----

    def read_register(self, address: int) -> int:
        """The value of a register."""
        raise NotImplementedError

    def write_register(self, address: int, value: int) -> None:
        """Store to a register."""
        raise NotImplementedError

    def interrupt_pending(self) -> bool:
        """Whether the UART asks for its interrupt."""
        raise NotImplementedError

    @property
    def uart_hz(self) -> float:
        """The rate the UART is set to."""
        raise NotImplementedError

    def memory(self, address: int, size: int) -> bytes:
        """Bytes of flash or RAM."""
        return bytes(self._uc.mem_read(address, size))

    # ---- running ----

    def _on_read(self, _: Engine, offset: int, size: int, start: int) -> int:
        self.cycles += CYCLES_PER_ACCESS
        try:
            require(size == 4, f"an access of {size} bytes at {start + offset:#x}")
            address = start + offset
            return self.values.get(address, 0) if start == SYSTEM else self.read_register(address) & 0xFFFFFFFF
        except Exception as error:
            self._stop(error)
            return 0

    def _on_write(self, _: Engine, offset: int, size: int, value: int, start: int) -> None:
        self.cycles += CYCLES_PER_ACCESS
        address = start + offset
        self.stores.append((address, value))
        try:
            require(size == 4, f"an access of {size} bytes at {address:#x}")
            if address == NVIC_ENABLE:
                self._nvic |= value
            elif start == SYSTEM:
                self.values[address] = value
            else:
                self.write_register(address, value)
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._uc.emu_stop()

    def boot(self) -> None:
        """Begin as at reset, from the vector table at the start of flash."""
        stack, reset = (int.from_bytes(self.memory(self.flash[0] + at, 4), "little") for at in (0, 4))
        self.jump(reset, stack)

    def jump(self, address: int, stack: int) -> None:
        """Go on at another place with another stack."""
        self._uc.reg_write(arm_const.UC_ARM_REG_SP, stack)
        self._uc.reg_write(arm_const.UC_ARM_REG_PC, address | 1)

    @property
    def pc(self) -> int:
        """Where the core is."""
        return self._uc.reg_read(arm_const.UC_ARM_REG_PC)

    @property
    def stack_pointer(self) -> int:
        """The stack pointer in use."""
        return self._uc.reg_read(arm_const.UC_ARM_REG_SP)

    def _start(self, address: int, until: int, instructions: int) -> None:
        self._uc.emu_start(address | 1, until, count=instructions)
        if self._failure is not None:
            raise self._failure

    def run(self, instructions: int = STRETCH) -> None:
        """Let the core run a while, and take an interrupt where one waits."""
        self._start(self.pc, self._return, instructions)
        masked = self._uc.reg_read(arm_const.UC_ARM_REG_PRIMASK) & 1
        if self._nvic >> self.irq & 1 and not masked and self.interrupt_pending():
            self._take_interrupt()

    def _take_interrupt(self) -> None:
        self.interrupts += 1
        saved = [self._uc.reg_read(register) for register in _SAVED]
        self._uc.reg_write(arm_const.UC_ARM_REG_LR, self._return | 1)
        self._start(self.symbols["board_interrupt"], self._return, 100_000)
        for register, value in zip(_SAVED, saved, strict=True):
            self._uc.reg_write(register, value)

    # ---- the far end of the line: a ByteStream, and Tunable ----

    def _across(self, byte: int) -> int:
        """A byte as it arrives: another one where the two ends are too far apart in rate."""
        return byte if abs(self.uart_hz / self.baud - 1) < BAUD_TOLERANCE else byte ^ 0x5A

    def write(self, data: bytes) -> None:
        """Send to the chip, at its pace."""
        for byte in data:
            if len(self.received) < self.receiver_bytes:
                self.received.append(self._across(byte))
            else:
                self.overruns += 1
            if len(self.received) >= 4:
                self.run(2000)

    def read(self, timeout_s: float) -> bytes:
        """What the chip sends next; nothing where it stays silent."""
        del timeout_s
        for _ in range(IDLE_STRETCHES):
            if self.sent:
                break
            self.run()
        data = bytes(self.sent)
        self.sent.clear()
        return data

    def put(self, byte: int) -> None:
        """The chip's UART sends a byte."""
        self.sent.append(self._across(byte))

    def set_baud(self, baud: int) -> None:
        """Go on at another rate."""
        self.baud = baud

    def limit_baud(self, baud: int) -> None:
        """Agree on no more than this."""
        self.max_baud = baud

    def close(self) -> None:
        """Nothing is held."""


class Nrf52840(Chip):
    """Attributes: ``variant`` of FICR, ``locked`` whether UICR asks for protection of the debug port."""

    cpu = arm_const.UC_CPU_ARM_CORTEX_M4
    flash = (0, 1 << 20)
    ram = (0x20000000, 256 << 10)
    registers = ((0x10000000, 0x2000), (0x40000000, 0x20000), (0x50000000, 0x1000))
    irq = 2
    receiver_bytes = 6
    # The product specification's table of rates.
    rates: ClassVar = {0x01D7E000: 115942.0, 0x03AFB000: 231884.0, 0x075F7000: 470588.0, 0x10000000: 1e6}

    def __init__(self, image: Path, *, variant: bytes = b"AAF0", locked: bool = False) -> None:
        super().__init__(image)
        self._fixed = {0x10000104: int.from_bytes(variant, "big"), 0x10001208: 0xFFFFFFFF if locked else 0x5A}
        self._crystal_polls = -1
        self._transmitting = 0
        self._timer_running = False

    @property
    def uart_hz(self) -> float:
        return self.rates[self.values[0x40002524]]

    def interrupt_pending(self) -> bool:
        return bool(self.received) and bool(self.values.get(0x40002304, 0) & 4)

    def read_register(self, address: int) -> int:
        if address in self._fixed:
            return self._fixed[address]
        if address == 0x40000100:  # HFCLKSTARTED
            self._crystal_polls -= self._crystal_polls > 0
            return int(self._crystal_polls == 0)
        if address == 0x40002108:  # RXDRDY
            return int(bool(self.received))
        if address == 0x40002518:  # RXD
            return self.received.popleft()
        if address == 0x4000211C:  # TXDRDY
            self._transmitting -= self._transmitting > 0
            return int(self._transmitting == 0)
        require(address in self.values, f"{address:#x} was read and never written")
        return self.values[address]

    def write_register(self, address: int, value: int) -> None:
        enabled = self.values.get(0x40002500) == 4
        if address == 0x40000000:  # HFCLKSTART
            self._crystal_polls = 3
        elif address in (0x4000250C, 0x40002514):
            require(not enabled, "the UART's pins may change only while it is off")
        elif address in (0x40002000, 0x40002008):
            require(enabled and value == 1, "a task of a UART that is off")
        elif address == 0x4000251C:  # TXD
            require(self.values.get(0x40002008) == 1, "a byte for a transmitter that was not started")
            require(self._transmitting == 0, "a byte before the one before was sent")
            self._transmitting = 3
            self.put(value)
        elif address == 0x40002308:
            self.values[0x40002304] = self.values.get(0x40002304, 0) & ~value
        elif address in (0x40008508, 0x40008510):
            require(not self._timer_running, "width and prescaler of a running timer")
        elif address == 0x40008000:
            self._timer_running = True
        elif address == 0x40008040:
            require(self.values.get(0x40008508) == 3, "a timer that is not 32 bits wide")
            self.values[0x40008540] = self._timer_ticks()
        self.values[address] = value

    def _timer_ticks(self) -> int:
        """TIMER0 runs at 16 MHz, a quarter of the core's clock."""
        return self.cycles // 4 >> self.values[0x40008510] & 0xFFFFFFFF if self._timer_running else 0

    def _on_read(self, uc: Engine, offset: int, size: int, start: int) -> int:
        if start + offset == 0xE0001004:  # DWT CYCCNT
            self.cycles += CYCLES_PER_ACCESS
            counts = self.values.get(0xE000EDFC, 0) >> 24 & 1 and self.values.get(0xE0001000, 0) & 1
            return self.cycles & 0xFFFFFFFF if counts else 0
        return super()._on_read(uc, offset, size, start)


_RESETS, _CLOCKS, _XOSC, _PLL = 0x4000C000, 0x40008000, 0x40024000, 0x40028000
_UART, _TIMER, _SIO, _SSI, _PADS_QSPI = 0x40034000, 0x40054000, 0xD0000000, 0x18000000, 0x40020000


class Flash:
    """The W25Q16JV behind the RP2040's serial interface: which commands came, and whether it can be read in place.

    Args:
        quad: whether four lines are allowed already, as the part leaves the factory.
    """

    def __init__(self, quad: bool) -> None:
        self.status2 = 2 if quad else 0
        self.continuous = False
        self.commands: list[bytes] = []
        self._write_allowed = False
        self._busy_polls = 0

    def transfer(self, frame: bytes) -> bytes:
        """A transfer on one line, and what comes back at the same time."""
        self.commands.append(frame)
        match frame[0]:
            case 0x05:
                self._busy_polls -= self._busy_polls > 0
                return bytes([0, int(self._busy_polls > 0)])
            case 0x35:
                return bytes([0, self.status2])
            case 0x06:
                self._write_allowed = True
                return b"\0"
            case 0x01:
                require(self._write_allowed, "a status register is written without permission")
                self._write_allowed = False
                self._busy_polls = 4
                self.status2 = frame[2]
                return bytes(len(frame))
            case other:
                raise Forbidden(f"command {other:#x} on one line")

    def quad_read(self, words: list[int]) -> None:
        """A read on four lines with its command byte."""
        require(self.status2 & 2, "four lines are not allowed")
        require(words[0] == 0xEB, f"command {words[0]:#x} on four lines")
        self.continuous = words[1] & 0xFF == 0xA0


class Rp2040(Chip):
    """Attributes: ``flash_chip``; the clock of the core ``core_hz`` as the registers make it."""

    cpu = arm_const.UC_CPU_ARM_CORTEX_M0
    flash = (0x10000000, 2 << 20)
    ram = (0x20000000, 0x42000)
    registers = (
        *((_RESETS, 0x1000), (_CLOCKS, 0x1000), (_XOSC, 0x1000), (_PLL, 0x1000), (_UART, 0x1000), (_TIMER, 0x1000)),
        *((0x40058000, 0x1000), (0x40014000, 0x1000), (0x4001C000, 0x1000), (_PADS_QSPI, 0x1000)),
        *((_SSI, 0x1000), (_SIO, 0x1000)),
    )
    irq = 20
    receiver_bytes = 32
    # Blocks that stay in reset until they are taken out: their bit in RESETS, their registers.
    blocks: ClassVar = {5: 0x40014000, 8: 0x4001C000, 12: _PLL, 21: _TIMER, 22: _UART}

    def __init__(self, image: Path, *, quad: bool = True) -> None:
        super().__init__(image)
        self.flash_chip = Flash(quad)
        self.values |= {_RESETS: 0x01FFFFFF, _CLOCKS + 0x40: 0x100, _CLOCKS + 0x34: 0x100, _PLL + 4: 0x2D}
        self._queue: list[int] = []
        self._answers: deque[int] = deque()
        self._polls: dict[int, int] = {}
        self._held_us = 0

    # ---- clocks ----

    @property
    def crystal_stable(self) -> bool:
        """Whether the crystal oscillator has started."""
        return self.values.get(_XOSC, 0) == 0xFABAA0 and self._polled(_XOSC)

    @property
    def pll_hz(self) -> float:
        """What the PLL gives; 0 while it is not locked or its dividers are off."""
        multiplier, dividers = self.values.get(_PLL + 8, 0), self.values.get(_PLL + 0xC, 0x77000)
        if self.values[_PLL + 4] & 0x29 or not self._polled(_PLL):
            return 0.0
        return 12e6 * multiplier / (dividers >> 16 & 7) / (dividers >> 12 & 7)

    @property
    def core_hz(self) -> float:
        """Clock of core and UART."""
        if self.values.get(_CLOCKS + 0x3C, 0) & 1:
            return self.pll_hz
        return 12e6 if self.values.get(_CLOCKS + 0x30, 0) == 2 else 6.5e6

    def _polled(self, what: int) -> bool:
        """Whether something has been asked for often enough to have become true."""
        return self._polls.get(what, 0) >= 3

    def _poll(self, what: int) -> None:
        self._polls[what] = self._polls.get(what, 0) + 1

    @property
    def us(self) -> int:
        """The timer's microseconds."""
        return self.cycles // 125

    @property
    def uart_hz(self) -> float:
        require(self.values.get(_CLOCKS + 0x48) == 0x800, "the UART's clock is off")
        divider = self.values[_UART + 0x24] * 64 + self.values[_UART + 0x28]
        return self.core_hz * 4 / divider

    def interrupt_pending(self) -> bool:
        return bool(self.received) and self.values.get(_UART + 0x38, 0) & 0x50 == 0x50

    # ---- registers ----

    def _check_reset(self, address: int) -> None:
        for bit, start in self.blocks.items():
            if start <= address < start + 0x1000:
                require(not self.values[_RESETS] >> bit & 1, f"{address:#x} belongs to a block in reset")

    def read_register(self, address: int) -> int:
        self._check_reset(address)
        match address:
            case 0x4000C008:
                return ~self.values[_RESETS] & 0x01FFFFFF
            case 0x40024004:
                self._poll(_XOSC)
                return int(self.crystal_stable) << 31
            case 0x40028000:
                self._poll(_PLL)
                locked = not self.values[_PLL + 4] & 0x21 and self._polled(_PLL)
                return int(locked) << 31 | self.values.get(_PLL, 1)
            case 0x40008038:
                return 1 << self.values.get(_CLOCKS + 0x30, 0)
            case 0x40008044:
                return 1 << (self.values.get(_CLOCKS + 0x3C, 0) & 1)
            case 0x40034018:
                return int(not self.received) << 4
            case 0x40034000:
                return self.received.popleft()
            case 0x4005400C:
                self._held_us = self.us
                return self.us
            case 0x40054008:
                return self._held_us >> 32
            case 0x18000028:
                return self._ssi_status()
            case 0x18000060:
                return self._answers.popleft()
        require(address in self.values, f"{address:#x} was read and never written")
        return self.values[address]

    def write_register(self, address: int, value: int) -> None:
        self._check_reset(address)
        if _SSI <= address < _SSI + 0x1000:
            self._write_ssi(address - _SSI, value)
        elif address == _RESETS:
            for bit in self.blocks:
                if value >> bit & 1 and self.blocks[bit] == _PLL:
                    require(not self.values.get(_CLOCKS + 0x3C, 0) & 1, "the PLL is reset while the core runs from it")
                    self.values[_PLL + 4] = 0x2D
                    self._polls.pop(_PLL, None)
        elif address == _CLOCKS + 0x3C and value & 1:
            require(value == 1 and self.pll_hz > 0, "the core goes to a PLL that does not run")
            require(self.pll_hz <= 133e6, f"{self.pll_hz} Hz are more than the part may have")
        elif address == _CLOCKS + 0x30 and value == 2:
            require(self.crystal_stable, "the reference goes to a crystal that has not started")
        elif address == _XOSC + 0xC:
            require(value * 256 >= 12e6 * 1e-3, "the crystal has less than 1 ms to start")
        elif address == _PLL + 8:
            require(16 <= value <= 320 and 750e6 <= 12e6 * value <= 1600e6, f"the PLL cannot multiply by {value}")
        elif address == _UART:
            require(self.values.get(_UART + 0x30) == 0x301, "a byte for a UART that is off")
            self.put(value)
        elif address in (_UART + 0x24, _UART + 0x28, _UART + 0x2C):
            require(not self.values.get(_UART + 0x30, 0), "the rate of a UART that is on")
        elif address == _SIO + 0x24:
            self.values[_SIO + 0x20] = self.values.get(_SIO + 0x20, 0) | value
        self.values[address] = value

    def _write_ssi(self, register: int, value: int) -> None:
        enabled = self.values.get(_SSI + 8, 0)
        if register in (0x00, 0x04, 0x10, 0x14, 0xF0, 0xF4):
            require(not enabled, f"register {register:#x} of an SSI that is on")
        elif register == 0x60:
            require(enabled and self.values.get(_SSI + 0x10) == 1, "a frame for an SSI that is off or selects no flash")
            self._queue.append(value)

    def _ssi_status(self) -> int:
        self._poll(_SSI)
        if self._polls[_SSI] % 3 or not self._queue:
            return 0x1 if self._queue else 0x4
        control = self.values[_SSI]
        if control == 7 << 16:
            self._answers.extend(self.flash_chip.transfer(bytes(self._queue)))
        else:
            require(control == 2 << 21 | 31 << 16 | 3 << 8, f"frames of {control:#x}")
            first_read = 4 << 11 | 2 << 8 | 8 << 2 | 1
            require(self.values[_SSI + 0xF4] == first_read, "a first read that the flash does not know")
            self.flash_chip.quad_read(self._queue)
        self._queue = []
        return 0x4

    @property
    def readable_in_place(self) -> bool:
        """Whether the serial interface turns reads of memory into what the flash understands."""
        quad = 2 << 21 | 31 << 16 | 3 << 8
        next_read = 0xA0 << 24 | 4 << 11 | 8 << 2 | 2
        registers = [self.values.get(_SSI + offset) for offset in (0, 4, 8, 0xF4)]
        return self.flash_chip.continuous and registers == [quad, 0, 1, next_read]

    def run_boot_block(self) -> None:
        """What the boot ROM does with the first 256 bytes of flash, up to the program's first instruction."""
        at = 0x20041F00
        self._uc.mem_write(at, self.memory(self.flash[0], 256))
        self.jump(at, at)
        reset = int.from_bytes(self.memory(self.flash[0] + 0x104, 4), "little") & ~1
        self._start(at, reset, 5000)
        require(self.pc == reset, f"the boot block ended at {self.pc:#x}")
        require(self.readable_in_place, "the flash cannot be read in place")

    def _on_read(self, uc: Engine, offset: int, size: int, start: int) -> int:
        if start + offset == 0xE000E018:  # SysTick's value counts down
            self.cycles += CYCLES_PER_ACCESS
            counts = self.values.get(0xE000E010, 0) == 5
            return -self.cycles & self.values.get(0xE000E014, 0) if counts else 0
        return super()._on_read(uc, offset, size, start)
