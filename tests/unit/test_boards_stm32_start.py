"""Start-up of the STM32 boards over clock trees written from the reference manuals.

The full clock is reached by the rules, the internal oscillator stays where something does not start, and pins, UART and
timer are as the board files say.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.simulated_registers import BOARDS, Simulated, compiled
from helpers.stm32_models import (
    CCR,
    H7_AXI_TARG7,
    REVISION_V,
    Stm32F4,
    Stm32H743,
    bits,
    stm32f407,
    stm32f446,
)
from hypothesis import given
from hypothesis import strategies as st

from lab.inventory import Pins, load_board
from lab.paths import config_dir

Part = Stm32F4 | Stm32H743


@dataclass(frozen=True)
class Kind:
    """A board and the model of its part."""

    part: Callable[[frozenset[str]], Part]
    family: str
    gpio_base: int
    uart: int
    brr: int
    status: int
    receive: int
    full_hz: int
    internal_hz: int
    interrupt: int


F4_UART = (0x40020000, 0x40004400, 0x08, 0x00, 0x04)
KINDS = {
    "nucleo-f446re": Kind(stm32f446, "stm32f4", *F4_UART, 180_000_000, 16_000_000, 38),
    "stm32f4-discovery": Kind(stm32f407, "stm32f4", *F4_UART, 168_000_000, 16_000_000, 38),
    "nucleo-h743zi": Kind(
        Stm32H743, "stm32h7", 0x58020000, 0x40004800, 0x0C, 0x1C, 0x24, 400_000_000, 64_000_000, 39
    ),
}


@dataclass(frozen=True)
class Board:
    """A board whose code runs here."""

    name: str
    kind: Kind
    library: ctypes.CDLL

    def started(self, part: Part) -> Simulated:
        simulated = Simulated(self.library, part)
        # As start-up code copies it from flash.
        (ctypes.c_uint32 * 4).in_dll(self.library, "stm32_baud_rates")[:] = [115200, 230400, 460800, 921600]
        simulated.call("stm32_start_clock")
        simulated.call("stm32_start_lines")
        return simulated

    @property
    def pins(self) -> Pins:
        pins = load_board(config_dir() / "boards" / f"{self.name}.yaml").pins
        assert pins is not None
        return pins

    def pin(self, part: Part, name: str) -> tuple[int, int, int, int]:
        """Mode, speed, pull and alternate function of a pin."""
        number, port = int(name[2:]), self.kind.gpio_base + 0x400 * (ord(name[1]) - ord("A"))
        mode, speed, pull = (
            bits(part.registers.get(port + at, 0), 2 * number + 1, 2 * number) for at in (0x00, 0x08, 0x0C)
        )
        function = part.registers.get(port + 0x20 + 4 * (number // 8), 0)
        return mode, speed, pull, bits(function, 4 * (number % 8) + 3, 4 * (number % 8))


@pytest.fixture(scope="module", params=sorted(KINDS))
def board(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Board:
    kind = KINDS[request.param]
    sources = ("stm32.c", f"{kind.family}.c", "clock_dwt.c")
    return Board(request.param, kind, compiled(request.param, sources, tmp_path_factory.mktemp("stm32")))


def no_fault(board: Board) -> Part:
    return board.kind.part(frozenset())


def test_the_full_clock_is_reached_by_the_rules_of_the_manual(board: Board) -> None:
    part = no_fault(board)
    simulated = board.started(part)
    assert part.violations == []
    assert part.core_hz == board.kind.full_hz == simulated.variable("stm32_core_hz")
    assert load_board(config_dir() / "boards" / f"{board.name}.yaml").clock_hz == part.core_hz


@pytest.mark.parametrize("broken", ["hse", "pll", "overdrive", "supply", "voltage", "flash", "switch"])
def test_what_does_not_start_leaves_the_internal_oscillator_and_its_true_rate(board: Board, broken: str) -> None:
    part = board.kind.part(frozenset({broken}))
    simulated = board.started(part)
    has_it = {"overdrive": "nucleo-f446re", "supply": "nucleo-h743zi", "voltage": "nucleo-h743zi"}
    falls_back = has_it.get(broken, board.name) == board.name
    assert part.violations == []
    assert simulated.variable("stm32_core_hz") == part.core_hz
    assert part.core_hz == (board.kind.internal_hz if falls_back else board.kind.full_hz)
    baud = part.uart_hz / part.registers[board.kind.uart + board.kind.brr]
    assert baud == pytest.approx(115200, rel=0.01)


@pytest.mark.parametrize(
    ("name", "edit", "violation"),
    [
        ("nucleo-f446re", ("WAIT_STATES 5u", "WAIT_STATES 4u"), "too few wait states"),
        ("nucleo-f446re", ("#define BOARD_OVERDRIVE", "#define NO_OVERDRIVE"), "too fast without over-drive"),
        ("stm32f4-discovery", ("PLL_M 4u", "PLL_M 3u"), "the input of the VCO is not between 1 and 2 MHz"),
        ("stm32f4-discovery", ("APB1_QUARTER (5u", "APB1_QUARTER (4u"), "APB1 is too fast"),
        ("nucleo-h743zi", ("D3CR_SCALE_1 (3u", "D3CR_SCALE_1 (2u"), "the voltage is not scale 1"),
        ("nucleo-h743zi", ("PLL_N 100u", "PLL_N 120u"), "the wide VCO is not between 192 and 836 MHz"),
        ("nucleo-h743zi", ("PROGRAMMING_DELAY 2u", "PROGRAMMING_DELAY 1u"), "too few wait states"),
    ],
)
def test_the_models_find_mistakes(tmp_path: Path, name: str, edit: tuple[str, str], violation: str) -> None:
    kind = KINDS[name]
    library = compiled(name, ("stm32.c", f"{kind.family}.c", "clock_dwt.c"), tmp_path, edit)
    part = kind.part(frozenset())
    Simulated(library, part).call("stm32_start_clock")
    assert violation in part.violations


@pytest.mark.parametrize("broken", ["", "hse"])
def test_every_offered_rate_comes_out_within_a_percent(board: Board, broken: str) -> None:
    part = board.kind.part(frozenset({broken}))
    simulated = board.started(part)
    rates = simulated.array("stm32_baud_rates", 4)
    reachable = [rate for rate in (115200, 230400, 460800, 921600) if reaches(part.uart_hz, rate)]
    assert rates == reachable + [115200] * (4 - len(reachable))
    assert len(reachable) == 4 or broken
    part.registers[board.kind.uart + board.kind.status] = 1 << 6
    for rate in rates:
        simulated.call("stm32_set_baud", rate)
        assert part.uart_hz / part.registers[board.kind.uart + board.kind.brr] == pytest.approx(rate, rel=0.01)


def reaches(uart_hz: int, rate: int) -> bool:
    """With 16 samples a bit the divisor is 16 or more."""
    divisor = round(uart_hz / rate)
    return divisor >= 16 and abs(divisor * rate / uart_hz - 1) <= 0.01


def test_the_uart_receives_by_interrupt(board: Board) -> None:
    part = no_fault(board)
    board.started(part)
    control = part.registers[board.kind.uart + {"stm32f4": 0x0C, "stm32h7": 0x00}[board.kind.family]]
    enable = {"stm32f4": 1 << 13, "stm32h7": 1}[board.kind.family]
    assert control == enable | 1 << 2 | 1 << 3 | 1 << 5  # UE, RE, TE, RXNEIE
    assert part.registers[0xE000E100 + 4 * (board.kind.interrupt // 32)] == 1 << board.kind.interrupt % 32


def test_the_pins_are_those_of_the_board_file(board: Board) -> None:
    part = no_fault(board)
    board.started(part)
    for name in (board.pins.uart_tx, board.pins.uart_rx):
        assert board.pin(part, name) == (2, 0, 1, 7)  # alternate function 7, pulled up
    for marker in (board.pins.marker, board.pins.layer_marker):
        assert marker is not None
        assert board.pin(part, marker) == (1, 2, 0, 0)  # output, high speed


def test_a_mark_sets_and_clears_the_pins_of_the_board_file(board: Board) -> None:
    """As region.c stores it: PORT_MARKER_WORD() of port.h with the shifts of board.cmake, into BSRR."""
    text = (BOARDS / board.name / "board.cmake").read_text()
    shift, clear = (int(found) for found in re.findall(r"SHIFT=(\d+)u", text))
    marker, layer = int(board.pins.marker[2:]), int((board.pins.layer_marker or "")[2:])
    expected = {0: (0, {marker, layer}), 1: (1 << marker, {layer}), 2: (1 << layer, {marker})}
    for mark, (high, low) in expected.items():
        word = mark << shift | (3 & ~mark) << clear
        assert (word & 0xFFFF, word >> 16) == (high, sum(1 << pin for pin in low))


def test_the_coarse_timer_counts_once_in_two_to_the_seventeen_cycles(board: Board) -> None:
    for broken in (frozenset[str](), frozenset({"hse"})):
        part = board.kind.part(broken)
        board.started(part)
        prescaler = part.registers[0x40000C28] + 1
        assert part.core_hz * prescaler == 2**17 * part.timer_hz
        assert part.registers[0x40000C2C] == 0xFFFFFFFF
        assert part.registers[0x40000C00] == 1


def test_the_vector_table_is_that_in_flash(board: Board) -> None:
    part = no_fault(board)
    board.started(part)
    assert part.registers[0xE000ED08] == 0x08000000


def test_caches_and_memory_protection_of_the_h743(tmp_path: Path) -> None:
    library = compiled("nucleo-h743zi", ("stm32.c", "stm32h7.c", "clock_dwt.c"), tmp_path)
    part = Stm32H743(revision=REVISION_V)
    Simulated(library, part).call("stm32_start_clock")
    assert part.registers[CCR] == 1 << 16 | 1 << 17
    assert H7_AXI_TARG7 not in part.registers  # only revision Y needs it
    attributes = part.registers[0xE000EDA0]
    assert bits(attributes, 5, 1) == 31  # all 4 GB
    assert bits(attributes, 26, 24) == 0  # no access
    off = bits(attributes, 15, 8)
    forbidden = [eighth for eighth in range(8) if not off >> eighth & 1]
    assert forbidden == [3, 4, 5, 6]  # 0x60000000 to 0xDFFFFFFF
    assert part.registers[0xE000ED94] == 5  # on, over the default map


# ---- the ring ----------------------------------------------------------------------------------------------------


class Line:
    """A UART whose receiver has one byte or none."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.waiting: int | None = None
        self.overrun = False

    def read(self, address: int) -> int:
        if address == self.kind.uart + self.kind.status:
            return (self.waiting is not None) << 5 | self.overrun << 3
        if address == self.kind.uart + self.kind.receive:
            value = self.waiting or 0
            self.waiting, self.overrun = None, False
            return value
        return 0

    def write(self, address: int, value: int) -> None:
        pass


def arrive(simulated: Simulated, line: Line, data: bytes) -> None:
    for byte in data:
        line.waiting = byte
        simulated.call("board_interrupt")
        assert line.waiting is None


@given(pieces=st.lists(st.tuples(st.binary(max_size=700), st.integers(0, 900)), max_size=8))
def test_bytes_come_out_in_the_order_in_which_they_arrived(board: Board, pieces: list[tuple[bytes, int]]) -> None:
    line = Line(board.kind)
    simulated = Simulated(board.library, line)
    simulated.read_line(4096)
    sent, received = b"", b""
    for arrived, asked in pieces:
        if len(sent) - len(received) + len(arrived) > 2048:
            received += simulated.read_line(4096)
        arrive(simulated, line, arrived)
        sent += arrived
        received += simulated.read_line(asked)
    received += simulated.read_line(4096)
    assert received == sent


def test_a_frame_and_most_of_another_wait_while_a_job_runs_and_more_is_dropped_whole(board: Board) -> None:
    line = Line(board.kind)
    simulated = Simulated(board.library, line)
    simulated.read_line(4096)
    data = bytes(i % 251 for i in range(2100))
    arrive(simulated, line, data)
    assert simulated.read_line(4096) == data[:2048]
    arrive(simulated, line, b"again")
    assert simulated.read_line(4096) == b"again"


def test_an_overrun_is_cleared_and_adds_no_byte(board: Board) -> None:
    line = Line(board.kind)
    simulated = Simulated(board.library, line)
    simulated.read_line(4096)
    line.overrun = True
    simulated.call("board_interrupt")
    assert not line.overrun
    assert simulated.read_line(10) == b""
