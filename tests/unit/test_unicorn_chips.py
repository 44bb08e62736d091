"""Models of chips on Unicorn: what a data sheet asks for is held, and what it allows works.

Registers are written as firmware would; the numbers are those of the reference manuals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from lab.emulators.unicorn import cmsdk, nrf5, rp2040, stm32
from lab.emulators.unicorn.boards import BOARDS, Lines
from lab.emulators.unicorn.bus import Clock, SerialLine, Signals
from lab.errors import EmulatorError


@dataclass
class Wires:
    """A core that only keeps time."""

    cycles: int = 0
    levels: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = Clock(lambda: self.cycles, 128)

    def set_interrupt(self, number: int, level: bool) -> None:
        self.levels[number] = level

    def request_reset(self) -> None:
        raise AssertionError("no peripheral here asks for it")

    def pend_nmi(self) -> None:
        raise AssertionError("no peripheral here raises it")


def until(read: object, mask: int) -> int:
    """How many reads it takes until a bit is set."""
    assert callable(read)
    for count in range(1, 10):
        if read() & mask:
            return count
    raise AssertionError("never set")


# ---- STM32F4 -------------------------------------------------------------------------------------------------------

CR, PLLCFGR, CFGR, AHB1, APB1 = 0x00, 0x04, 0x08, 0x30, 0x40
FULL_SPEED = 4 | 180 << 6 | 1 << 22 | 8 << 24 | 2 << 28


def f446(**left_out: bool) -> stm32.F4Clocks:
    """An STM32F446 right before its core is switched to 180 MHz; one step of the way can be left out."""
    clocks = stm32.F4Clocks(stm32.F446, 8e6, bypass=True)
    clocks.rcc.write(APB1, 4, 1 << 28)
    clocks.power.write(0x0, 4, (0 if left_out.get("scale") else 3) << 14)
    clocks.rcc.write(CFGR, 4, (0 if left_out.get("buses") else 5 << 10 | 4 << 13))
    clocks.rcc.write(CR, 4, 1 << 16 | 1 << 18 | 1)
    if not left_out.get("hse"):
        assert until(lambda: clocks.rcc.read(CR, 4), 1 << 17) > 1, "an oscillator takes its time"
    clocks.rcc.write(PLLCFGR, 4, FULL_SPEED)
    clocks.rcc.write(CR, 4, clocks.rcc.read(CR, 4) | 1 << 24)
    if not left_out.get("overdrive"):
        clocks.power.write(0x0, 4, clocks.power.read(0x0, 4) | 3 << 16)
        until(lambda: clocks.power.read(0x4, 4), 1 << 17)
    if not left_out.get("lock"):
        until(lambda: clocks.rcc.read(CR, 4), 1 << 25)
    clocks.flash.write(0x0, 4, 0 if left_out.get("waits") else 5)
    return clocks


def test_the_whole_way_to_180_mhz() -> None:
    clocks = f446()
    assert (clocks.core_hz, clocks.pll_hz) == (16e6, 180e6)
    clocks.rcc.write(CFGR, 4, 5 << 10 | 4 << 13 | 2)
    assert clocks.rcc.read(CFGR, 4) >> 2 & 3 == 2
    assert (clocks.core_hz, clocks.bus_hz, clocks.timer_hz) == (180e6, 45e6, 90e6)
    clocks.rcc.reset()
    assert clocks.core_hz == 16e6


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("waits", "180 MHz with 0 wait states"),
        ("overdrive", "180 MHz without over-drive"),
        ("scale", "180 MHz at voltage scale 0"),
        ("lock", "a PLL that has not locked"),
        ("buses", "APB1 at 180 MHz"),
    ],
)
def test_a_step_left_out_is_found_when_the_core_is_switched(step: str, says: str) -> None:
    clocks = f446(**{step: True})
    buses = 0 if step == "buses" else 5 << 10 | 4 << 13
    with pytest.raises(EmulatorError, match=says) as error:
        clocks.rcc.write(CFGR, 4, buses | 2)
    assert "on silicon" in error.value.hint


def test_wait_states_may_not_go_back_under_the_core() -> None:
    clocks = f446()
    clocks.rcc.write(CFGR, 4, 5 << 10 | 4 << 13 | 2)
    with pytest.raises(EmulatorError, match="180 MHz with 4 wait states"):
        clocks.flash.write(0x0, 4, 4)


def test_a_pll_starts_from_an_oscillator_that_runs() -> None:
    with pytest.raises(EmulatorError, match="from an HSE that is not ready"):
        f446(hse=True)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (8 | 432 << 6 | 1 << 22, None),  # 1 MHz to 432 MHz: the edges are allowed
        (2 | 60 << 6 | 1 << 22, "input is not 1 to 2 MHz"),
        (8 | 99 << 6 | 1 << 22, "oscillator is not 100 to 432 MHz"),
        (4 | 217 << 6 | 1 << 22, "oscillator is not 100 to 432 MHz"),
        (4 | 49 << 6 | 1 << 22, "oscillator is not 100 to 432 MHz"),
    ],
)
def test_the_plls_limits(value: int, says: str | None) -> None:
    clocks = stm32.F4Clocks(stm32.F446, 8e6, bypass=True)
    clocks.rcc.write(CR, 4, 1 << 16 | 1 << 18)
    until(lambda: clocks.rcc.read(CR, 4), 1 << 17)
    clocks.rcc.write(PLLCFGR, 4, value)
    if says is None:
        clocks.rcc.write(CR, 4, clocks.rcc.read(CR, 4) | 1 << 24)
        with pytest.raises(EmulatorError, match="PLLCFGR is written while the PLL runs"):
            clocks.rcc.write(PLLCFGR, 4, value)
    else:
        with pytest.raises(EmulatorError, match=says):
            clocks.rcc.write(CR, 4, clocks.rcc.read(CR, 4) | 1 << 24)


def test_a_crystal_where_a_clock_signal_is() -> None:
    clocks = stm32.F4Clocks(stm32.F446, 8e6, bypass=True)
    with pytest.raises(EmulatorError, match="HSEBYP does not fit the board's oscillator"):
        clocks.rcc.write(CR, 4, 1 << 16)


def test_peripherals_need_their_clocks() -> None:
    clocks = stm32.F4Clocks(stm32.F446, 8e6, bypass=True)
    port = stm32.Gpio("GPIOA", clocks)
    timer = stm32.Timer("TIM5", Wires(), clocks)
    for use, name in (
        (lambda: port.write(0x00, 4, 1), "GPIOA"),
        (lambda: timer.write(0x00, 4, 1), "TIM5"),
        (lambda: clocks.power.write(0x0, 4, 0), "PWR"),
    ):
        with pytest.raises(EmulatorError, match=f"{name} is used without its clock"):
            use()
    clocks.rcc.write(AHB1, 4, 1)
    port.write(0x18, 4, 1 << 8 | 1 << 9)
    port.write(0x18, 4, 1 << 24)
    assert port.read(0x14, 4) == 1 << 9


def usart(clocks: stm32.F4Clocks, line: SerialLine, wires: Wires) -> tuple[stm32.Usart, stm32.Gpio]:
    clocks.rcc.write(AHB1, 4, 1)
    clocks.rcc.write(APB1, 4, 1 << 17 | 1 << 3)
    port = stm32.Gpio("GPIOA", clocks)
    wiring = stm32.UsartWiring("USART2", 38, port, 2, 3, 7)
    return stm32.Usart(stm32.F4_USART, wiring, line, wires, clocks), port


def test_a_usart_sends_at_the_hosts_rate_over_its_pins() -> None:
    sent = bytearray()
    line, wires = SerialLine(sent=sent.extend), Wires()
    clocks = stm32.F4Clocks(stm32.F446, 8e6, bypass=True)
    one, port = usart(clocks, line, wires)
    with pytest.raises(EmulatorError, match="a transmitter that is off"):
        one.write(0x04, 4, 65)
    one.write(0x0C, 4, 1 << 13 | 1 << 3 | 1 << 2 | 1 << 5)
    one.write(0x08, 4, 139)  # 16 MHz / 115200
    with pytest.raises(EmulatorError, match="pin 2 of GPIOA is not connected"):
        one.write(0x04, 4, 65)
    port.write(0x00, 4, 2 << 4 | 2 << 6)
    port.write(0x20, 4, 7 << 8 | 7 << 12)
    one.write(0x04, 4, 65)
    one.write(0x08, 4, 130)
    with pytest.raises(EmulatorError, match="123077 bits per second where the host has 115200"):
        one.write(0x04, 4, 66)
    one.write(0x08, 4, 139)
    assert sent == b"A"
    line.arrive(b"xy")
    one.arrived()
    assert wires.levels[38]
    assert [one.read(0x04, 4), one.read(0x04, 4)] == [ord("x"), ord("y")]
    assert not wires.levels[38]
    assert one.read(0x00, 4) == 0xC0


def test_tim5_counts_half_the_cores_cycles_behind_its_prescaler() -> None:
    wires = Wires()
    clocks = stm32.F4Clocks(stm32.F446, 8e6, bypass=True)
    clocks.rcc.write(APB1, 4, 1 << 3)
    clocks.rcc.write(CFGR, 4, 5 << 10)
    timer = stm32.Timer("TIM5", wires, clocks)
    timer.write(0x28, 4, 15)
    timer.write(0x14, 4, 1)
    timer.write(0x00, 4, 1)
    wires.cycles += 3200
    assert timer.read(0x24, 4) == 100


# ---- STM32H743 -----------------------------------------------------------------------------------------------------


def h743(**left_out: bool) -> stm32.H7Clocks:
    clocks = stm32.H7Clocks(8e6)
    clocks.rcc.write(0x18, 4, 8)
    clocks.rcc.write(0x1C, 4, 4 << 4 | 4 << 8)
    if not left_out.get("scale"):
        clocks.power.write(0x18, 4, 3 << 14)
        until(lambda: clocks.power.read(0x18, 4), 1 << 13)
    clocks.rcc.write(0x00, 4, 1 << 16 | 1 << 18)
    until(lambda: clocks.rcc.read(0x00, 4), 1 << 17)
    clocks.rcc.write(0x28, 4, 2 | 1 << 4)
    clocks.rcc.write(0x2C, 4, (1 if left_out.get("range") else 3) << 2 | (0 if left_out.get("output") else 1 << 16))
    clocks.rcc.write(0x30, 4, 99 | 1 << 9)
    clocks.rcc.write(0x00, 4, clocks.rcc.read(0x00, 4) | 1 << 24)
    if not left_out.get("lock"):
        until(lambda: clocks.rcc.read(0x00, 4), 1 << 25)
    clocks.flash.write(0x0, 4, (1 if left_out.get("waits") else 2) | (1 if left_out.get("delay") else 2) << 4)
    clocks.rcc.write(0x10, 4, 3)
    return clocks


def test_400_mhz() -> None:
    clocks = h743()
    assert (clocks.core_hz, clocks.bus_hz, clocks.timer_hz) == (400e6, 100e6, 200e6)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("scale", "400 MHz below voltage scale 1"),
        ("range", "input of 8 MHz is not in its range"),
        ("output", "output P is off"),
        ("lock", "a PLL that has not locked"),
        ("waits", "AXI at 200 MHz with 1 wait states and a delay of 2"),
        ("delay", "AXI at 200 MHz with 2 wait states and a delay of 1"),
    ],
)
def test_what_the_h743_does_not_forgive(step: str, says: str) -> None:
    with pytest.raises(EmulatorError, match=says):
        h743(**{step: True})


# ---- Nordic --------------------------------------------------------------------------------------------------------


def test_the_nrf_uart_and_its_rules() -> None:
    sent = bytearray()
    line, wires, clock = SerialLine(sent=sent.extend), Wires(), nrf5.Clock()
    uart = nrf5.Uart(line, wires, 2, clock, needs_crystal=True)
    with pytest.raises(EmulatorError, match="a task of a UART that is off"):
        uart.write(0x008, 4, 1)
    uart.write(0x524, 4, 0x01D7E000)
    uart.write(0x500, 4, 4)
    with pytest.raises(EmulatorError, match="pins may change only while it is off"):
        uart.write(0x50C, 4, 6)
    with pytest.raises(EmulatorError, match="a transmitter that was not started"):
        uart.write(0x51C, 4, 65)
    uart.write(0x008, 4, 1)
    uart.write(0x000, 4, 1)
    with pytest.raises(EmulatorError, match="without the crystal"):
        uart.write(0x51C, 4, 65)
    clock.write(0x000, 4, 1)
    assert until(lambda: clock.read(0x100, 4), 1) > 1
    uart.write(0x51C, 4, 65)
    assert (sent, uart.read(0x11C, 4)) == (b"A", 1)
    uart.write(0x304, 4, 4)
    line.arrive(b"ab")
    uart.arrived()
    for byte in b"ab":
        assert wires.levels[2]
        assert uart.read(0x108, 4) == 1
        uart.write(0x108, 4, 0)
        assert uart.read(0x518, 4) == byte
    assert not wires.levels[2]
    uart.write(0x524, 4, 0x10000000)
    with pytest.raises(EmulatorError, match="BAUDRATE 0x10000000"):
        uart.write(0x51C, 4, 65)


def test_the_nrf_timer_is_captured() -> None:
    ticks = 100
    timer = nrf5.Timer(lambda: ticks)
    timer.write(0x508, 4, 3)
    timer.write(0x510, 4, 4)
    timer.write(0x000, 4, 1)
    ticks += 33
    timer.write(0x040, 4, 1)
    assert timer.read(0x540, 4) == 2
    timer.write(0x004, 4, 1)
    ticks += 1000
    timer.write(0x044, 4, 1)
    assert timer.read(0x544, 4) == 2
    timer.write(0x000, 4, 1)
    with pytest.raises(EmulatorError, match="a timer that runs"):
        timer.write(0x510, 4, 0)


# ---- RP2040 --------------------------------------------------------------------------------------------------------


def pico() -> tuple[rp2040.Resets, rp2040.Crystal, rp2040.Pll, rp2040.Clocks]:
    resets, crystal = rp2040.Resets(), rp2040.Crystal()
    pll = rp2040.Pll(resets, crystal)
    return resets, crystal, pll, rp2040.Clocks(crystal, pll)


def test_the_rp2040_gets_to_125_mhz_step_by_step() -> None:
    resets, crystal, pll, clocks = pico()
    with pytest.raises(EmulatorError, match="pll is used while it is in reset"):
        pll.read(0x0, 4)
    resets.write(0x0, 4, 0x01FFFFFF & ~(1 << 12))
    assert resets.read(0x8, 4) == 1 << 12
    with pytest.raises(EmulatorError, match="a crystal that is not stable"):
        clocks.write(0x30, 4, 2)
    with pytest.raises(EmulatorError, match="less than 1 ms"):
        crystal.write(0xC, 4, 46)
    crystal.write(0xC, 4, 47)
    with pytest.raises(EmulatorError, match="starts from a crystal"):
        pll.write(0x4, 4, 0xC)
    crystal.write(0x0, 4, 0xFABAA0)
    until(lambda: crystal.read(0x4, 4), 1 << 31)
    for factor in (62, 134, 15):
        with pytest.raises(EmulatorError, match=f"cannot multiply 12 MHz by {factor}"):
            pll.write(0x8, 4, factor)
    pll.write(0x8, 4, 125)
    pll.write(0x4, 4, 0xC)
    with pytest.raises(EmulatorError, match="a PLL at 0 MHz"):
        clocks.write(0x3C, 4, 1)
    until(lambda: pll.read(0x0, 4), 1 << 31)
    pll.write(0xC, 4, 5 << 16 | 2 << 12)
    pll.write(0x4, 4, 0x4)
    with pytest.raises(EmulatorError, match="a PLL at 150 MHz"):
        clocks.write(0x3C, 4, 1)
    pll.write(0xC, 4, 6 << 16 | 2 << 12)
    clocks.write(0x3C, 4, 1)
    assert (clocks.core_hz, clocks.read(0x44, 4)) == (125e6, 2)


def test_the_rp2040s_uart_and_timer() -> None:
    resets, _, _, clocks = pico()
    wires, sent = Wires(), bytearray()
    line, watchdog = SerialLine(sent=sent.extend), rp2040.Watchdog()
    resets.write(0x0, 4, 0)
    uart = rp2040.Uart(line, wires, clocks, resets)
    timer = rp2040.Timer(wires, clocks, resets, watchdog)
    with pytest.raises(EmulatorError, match="without the watchdog's tick"):
        timer.read(0x0C, 4)
    watchdog.write(0x2C, 4, 1 << 9 | 12)
    clocks._values[0x30] = 2
    wires.cycles = (5 << 32) * 12 + 24
    assert (timer.read(0x0C, 4), timer.read(0x08, 4)) == (2, 5)
    uart.write(0x24, 4, 6)
    uart.write(0x28, 4, 33)
    uart.write(0x30, 4, 0x301)
    with pytest.raises(EmulatorError, match="0 bits per second"):
        uart.write(0x00, 4, 65)
    clocks.write(0x48, 4, 1 << 11)
    uart.write(0x00, 4, 65)
    assert sent == b"A"
    with pytest.raises(EmulatorError, match="the rate of a UART that is on"):
        uart.write(0x24, 4, 7)
    uart.write(0x38, 4, 0x50)
    line.arrive(b"z")
    uart.arrived()
    assert wires.levels[20]
    assert (uart.read(0x18, 4) & 0x10, uart.read(0x00, 4), uart.read(0x18, 4) & 0x10) == (0, ord("z"), 0x10)
    assert not wires.levels[20]


def test_the_boot_blocks_checksum_is_that_of_the_data_sheet() -> None:
    """CRC-32/MPEG-2: its published check value, over the digits 1 to 9."""
    assert rp2040.boot_crc(b"123456789") == 0x0376E6E7


# ---- CMSDK ---------------------------------------------------------------------------------------------------------


def test_cmsdk_timers_count_virtual_time() -> None:
    """128 ns an instruction, 25 MHz: 3.2 ticks; the dual timer divides by 256; both wrap."""
    wires = Wires(cycles=1000)
    fine, coarse = cmsdk.Timer(wires, 25_000_000), cmsdk.DualTimer(wires, 25_000_000)
    fine.write(0x8, 4, 999)
    fine.write(0x4, 4, 999)
    fine.write(0x0, 4, 1)
    coarse.write(0x8, 4, 0x80 | 2 | 2 << 2)
    wires.cycles += 10
    assert fine.read(0x4, 4) == 999 - 32
    wires.cycles += 990
    assert fine.read(0x4, 4) == 999 - 3200 % 1000
    before = coarse.read(0x4, 4)
    wires.cycles += 80 * 1000
    assert before - coarse.read(0x4, 4) == 1000
    wires.clock.freeze()
    wires.cycles += 1000
    assert before - coarse.read(0x4, 4) == 1000


def test_a_cmsdk_uart_needs_a_divider_and_interrupts_once_per_byte() -> None:
    sent = bytearray()
    line, wires = SerialLine(sent=sent.extend), Wires()
    uart = cmsdk.Uart(line, wires, 0)
    uart.write(0x8, 4, 1)
    uart.write(0x0, 4, 65)
    assert not sent, "no divider, no bits"
    uart.write(0x10, 4, 16)
    uart.write(0x8, 4, 1 | 2 | 8)
    uart.write(0x0, 4, 66)
    assert sent == b"B"
    line.arrive(b"xy")
    uart.arrived()
    assert wires.levels[0]
    uart.write(0xC, 4, 2)
    assert not wires.levels[0]
    assert (uart.read(0x4, 4), uart.read(0x0, 4)) == (2, ord("x"))
    assert wires.levels[0], "the next byte"


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_no_two_things_lie_at_one_address(name: str) -> None:
    board = BOARDS[name]()
    signals: Signals = Wires()
    wired = board.wire(Lines(SerialLine(), SerialLine()), signals)
    ranges = [(one.address, one.address + one.bytes) for one in wired.mapped]
    for memory in board.memories:
        ranges += [(start, start + memory.bytes) for start in (memory.address, *memory.aliases)]
    ordered = sorted(ranges)
    assert all(end <= start for (_, end), (start, _) in pairwise(ordered))
