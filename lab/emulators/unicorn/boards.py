"""The boards Unicorn can be, by the name that ``peripherals`` of a board file gives: memories and peripherals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lab.emulators.unicorn import cmsdk, nrf5, rp2040, stm32
from lab.emulators.unicorn.bus import Mapped, Memory, SerialLine, Signals, Storage, require
from lab.emulators.unicorn.core import Core, Cpu

KIBI, MEBI = 1 << 10, 1 << 20
_VIRTUAL_NS = 128  # what QEMU's -icount shift=7 gives an instruction


@dataclass(frozen=True)
class Lines:
    """A board's two UARTs."""

    wire: SerialLine
    marker: SerialLine


@dataclass(frozen=True)
class Wired:
    """A board's peripherals.

    Attributes:
        mapped: all of them.
        arrived: called, by the core's thread, after bytes came in on the wire.
        listens: whether the core wants to hear of them at once.
    """

    mapped: Sequence[Mapped]
    arrived: Callable[[], None]
    listens: Callable[[], bool]


@dataclass(frozen=True)
class UnicornBoard:
    """A board.

    Attributes:
        cpu: the core.
        memories: where code starts first.
        wire: makes its peripherals.
        ns_per_instruction: virtual time of an instruction; 0 where the clock tree decides.
        boot: what a boot ROM does after a reset: gives stack pointer and first instruction. None where the core takes
            them from the vector table at the start of the first memory.
    """

    cpu: Cpu
    memories: tuple[Memory, ...]
    wire: Callable[[Lines, Signals], Wired]
    ns_per_instruction: int = 0
    boot: Callable[[Core], tuple[int, int]] | None = None


@dataclass(frozen=True)
class _Mps2:
    """Addresses of an MPS2 image; the order of the lists is UART 0, UART 1."""

    clock_hz: int
    timer: int
    dual_timer: int
    uarts: tuple[int, int]
    rx_interrupts: tuple[int, int]
    watchdog: int
    fpga_io: int

    def wire(self, lines: Lines, signals: Signals) -> Wired:
        """The peripherals the firmware uses."""
        first = cmsdk.Uart(lines.wire, signals, self.rx_interrupts[0])
        second = cmsdk.Uart(lines.marker, signals, self.rx_interrupts[1])
        peripherals = (
            (self.timer, cmsdk.Timer(signals, self.clock_hz)),
            (self.dual_timer, cmsdk.DualTimer(signals, self.clock_hz)),
            (self.uarts[0], first),
            (self.uarts[1], second),
            (self.watchdog, Storage()),
            (self.fpga_io, Storage()),
        )
        mapped = tuple(Mapped(address, 0x1000, peripheral) for address, peripheral in peripherals)
        return Wired(mapped, first.arrived, lambda: first.listens)


def _mps2(cpu: Cpu, psram: int) -> UnicornBoard:
    """Arm AN385, AN386 and AN500: one memory map but for the PSRAM."""
    io = _Mps2(25_000_000, 0x40000000, 0x40002000, (0x40004000, 0x40005000), (0, 2), 0x40008000, 0x40028000)
    memories = (
        Memory("code", 0x00000000, 4 * MEBI, flash=True),
        Memory("data", 0x20000000, 4 * MEBI),
        Memory("psram", psram, 16 * MEBI, executable=False),
    )
    return UnicornBoard(cpu, memories, io.wire, _VIRTUAL_NS)


def _an505() -> UnicornBoard:
    """Arm AN505: a Cortex-M33 that stays in the Secure state."""
    io = _Mps2(20_000_000, 0x50000000, 0x50002000, (0x50200000, 0x50201000), (32, 34), 0x50081000, 0x50302000)
    memories = (
        Memory("code", 0x10000000, 4 * MEBI, flash=True),
        Memory("data", 0x38000000, 2 * MEBI),
        Memory("psram", 0x80000000, 16 * MEBI, executable=False),
    )
    return UnicornBoard("cortex-m33", memories, io.wire, _VIRTUAL_NS)


def _stm32f4(part: stm32.F4Part, flash_bytes: int, memories: tuple[Memory, ...], *, bypass: bool) -> UnicornBoard:
    """A board with an STM32F4, 8 MHz outside and USART2 on PA2 and PA3."""

    def wire(lines: Lines, signals: Signals) -> Wired:
        clocks = stm32.F4Clocks(part, 8e6, bypass=bypass)
        ports = [stm32.Gpio(f"GPIO{letter}", clocks) for letter in "ABCDE"]
        wiring = stm32.UsartWiring("USART2", 38, ports[0], 2, 3, 7)
        usart = stm32.Usart(stm32.F4_USART, wiring, lines.wire, signals, clocks)
        mapped = (
            *(Mapped(0x40020000 + 0x400 * number, 0x400, port) for number, port in enumerate(ports)),
            Mapped(0x40023800, 0x400, clocks.rcc),
            Mapped(0x40023C00, 0x400, clocks.flash),
            Mapped(0x40007000, 0x400, clocks.power),
            Mapped(0x40004400, 0x400, usart),
            Mapped(0x40000C00, 0x400, stm32.Timer("TIM5", signals, clocks)),
        )
        return Wired(mapped, usart.arrived, lambda: usart.listens)

    # The boot pins put the flash at 0 as well, where the core starts.
    flash = Memory("flash", 0x08000000, flash_bytes, flash=True, aliases=(0,))
    return UnicornBoard("cortex-m4", (flash, *memories), wire)


def _nucleo_h743zi() -> UnicornBoard:
    """ST NUCLEO-H743ZI: USART3 on PD8 and PD9."""

    def wire(lines: Lines, signals: Signals) -> Wired:
        clocks = stm32.H7Clocks(8e6)
        ports = [stm32.Gpio(f"GPIO{letter}", clocks) for letter in "ABCDE"]
        wiring = stm32.UsartWiring("USART3", 39, ports[3], 8, 9, 7)
        usart = stm32.Usart(stm32.H7_USART, wiring, lines.wire, signals, clocks)
        mapped = (
            *(Mapped(0x58020000 + 0x400 * number, 0x400, port) for number, port in enumerate(ports)),
            Mapped(0x58024400, 0x400, clocks.rcc),
            Mapped(0x58024800, 0x400, clocks.power),
            Mapped(0x52002000, 0x400, clocks.flash),
            Mapped(0x40004800, 0x400, usart),
            Mapped(0x40000C00, 0x400, stm32.Timer("TIM5", signals, clocks)),
            Mapped(0x5C001000, 0x400, Storage({0: 0x20036450})),  # DBGMCU: revision V
        )
        return Wired(mapped, usart.arrived, lambda: usart.listens)

    memories = (
        Memory("flash", 0x08000000, 2 * MEBI, flash=True),
        Memory("DTCM", 0x20000000, 128 * KIBI),
        Memory("AXI SRAM", 0x24000000, 512 * KIBI),
    )
    return UnicornBoard("cortex-m7", memories, wire)


def _nrf5(cpu: Cpu, flash_kibi: int, ram_kibi: int, *, timers: int, ports: tuple[int, ...]) -> UnicornBoard:
    """A board with a Nordic part. The nRF51 keeps the time QEMU gives it, the nRF52840 has 64 MHz."""
    virtual = cpu == "cortex-m0"

    def wire(lines: Lines, signals: Signals) -> Wired:
        def ticks() -> int:
            return signals.clock.ticks(16_000_000) if virtual else signals.clock.instructions // 4

        clock = nrf5.Clock()
        uart = nrf5.Uart(lines.wire, signals, 2, clock, needs_crystal=not virtual)
        mapped = (
            Mapped(0x40000000, 0x1000, clock),
            Mapped(0x40002000, 0x1000, uart),
            *(Mapped(0x40008000 + 0x1000 * number, 0x1000, nrf5.Timer(ticks)) for number in range(timers)),
            Mapped(0x4001E000, 0x1000, Storage()),
            Mapped(0x50000000, 0x1000, nrf5.Gpio(ports)),
            Mapped(0x10000000, 0x1000, Storage({0x104: int.from_bytes(b"AAF0", "big")})),
            Mapped(0x10001000, 0x1000, Storage({0x208: 0x5A})),  # UICR: the debug port stays open
        )
        return Wired(mapped, uart.arrived, lambda: uart.listens)

    memories = (Memory("flash", 0, flash_kibi * KIBI, flash=True), Memory("RAM", 0x20000000, ram_kibi * KIBI))
    return UnicornBoard(cpu, memories, wire, _VIRTUAL_NS if virtual else 0)


_BOOT_BLOCK_RAM = 0x20041F00


def _rp2040_boot(core: Core) -> tuple[int, int]:
    """RP2040 data sheet 2.8.1.3: 256 bytes go to RAM and are called if their checksum is right."""
    block = core.read(0x10000000, 256)
    right = rp2040.boot_crc(block[:252]) == int.from_bytes(block[252:], "little")
    require(right, "RP2040: the boot block's checksum is wrong: the boot ROM would wait for USB")
    core.write(_BOOT_BLOCK_RAM, block)
    return _BOOT_BLOCK_RAM, _BOOT_BLOCK_RAM


def _rpi_pico() -> UnicornBoard:
    """Raspberry Pi Pico: the first of two cores."""

    def wire(lines: Lines, signals: Signals) -> Wired:
        resets, crystal, watchdog = rp2040.Resets(), rp2040.Crystal(), rp2040.Watchdog()
        pll = rp2040.Pll(resets, crystal)
        clocks = rp2040.Clocks(crystal, pll)
        uart = rp2040.Uart(lines.wire, signals, clocks, resets)
        peripherals = (
            (0x4000C000, resets),
            (0x40008000, clocks),
            (0x40024000, crystal),
            (0x40028000, pll),
            (0x40058000, watchdog),
            (0x40034000, uart),
            (0x40054000, rp2040.Timer(signals, clocks, resets, watchdog)),
            (0x40014000, Storage()),
            (0x4001C000, Storage()),
            (0x40020000, Storage()),
            (0x18000000, rp2040.FlashInterface()),
            (0xD0000000, rp2040.Sio()),
        )
        mapped = tuple(Mapped(address, 0x1000, peripheral) for address, peripheral in peripherals)
        return Wired(mapped, uart.arrived, lambda: uart.listens)

    memories = (Memory("flash", 0x10000000, 2 * MEBI, flash=True), Memory("SRAM", 0x20000000, 264 * KIBI))
    return UnicornBoard("cortex-m0+", memories, wire, boot=_rp2040_boot)


BOARDS: Mapping[str, Callable[[], UnicornBoard]] = {
    "mps2-an385": lambda: _mps2("cortex-m3", 0x21000000),
    "mps2-an386": lambda: _mps2("cortex-m4", 0x21000000),
    "mps2-an500": lambda: _mps2("cortex-m7", 0x60000000),
    "mps2-an505": _an505,
    "nucleo-f446re": lambda: _stm32f4(
        stm32.F446, 512 * KIBI, (Memory("SRAM", 0x20000000, 128 * KIBI),), bypass=True
    ),
    "stm32f4-discovery": lambda: _stm32f4(
        stm32.F407,
        MEBI,
        (Memory("SRAM", 0x20000000, 128 * KIBI), Memory("CCM", 0x10000000, 64 * KIBI, executable=False)),
        bypass=False,
    ),
    "nucleo-h743zi": _nucleo_h743zi,
    "microbit": lambda: _nrf5("cortex-m0", 256, 16, timers=2, ports=(0,)),
    "nrf52840-dk": lambda: _nrf5("cortex-m4", 1024, 256, timers=1, ports=(0, 0x300)),
    "rpi-pico": _rpi_pico,
}
