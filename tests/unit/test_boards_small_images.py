"""Images of the micro:bit, the nRF52840-DK and the Raspberry Pi Pico: what the parts ask of an image, the limits of
their data sheets, and that board files and firmware say the same. No image of these was ever run on silicon."""

from __future__ import annotations

import binascii
import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from helpers.toolchain import board_kind, tiny_model

from lab.artifact import Artifact
from lab.build import FIRMWARE, build, check_fits, runner_ram_bytes
from lab.errors import CompileError
from lab.paths import cache_dir, project_root

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed (`lab doctor` says how)"
)

BOARDS = ("microbit", "nrf52840-dk", "rpi-pico")
VECTORS_AT = {"microbit": 0, "nrf52840-dk": 0, "rpi-pico": 0x10000100}
FLASH_BYTES = {"microbit": 256 << 10, "nrf52840-dk": 1 << 20, "rpi-pico": 2 << 20}
RAM_BYTES = {"microbit": 16 << 10, "nrf52840-dk": 256 << 10, "rpi-pico": 264 << 10}
RAM_AT = 0x20000000


@pytest.fixture(scope="module", params=BOARDS)
def image(request: pytest.FixtureRequest) -> Artifact:
    return build(tiny_model(), request.param, cache=cache_dir())


@pytest.fixture(scope="module")
def pico() -> Artifact:
    return build(tiny_model(), "rpi-pico", cache=cache_dir())


def header(board: str) -> dict[str, str]:
    """What board.h defines, without casts and suffixes."""
    text = (FIRMWARE / "boards" / board / "board.h").read_text()
    found = re.findall(r"^#define (\w+) \"?([^\"/\n]+?)\"?(?: +/\*.*)?$", text, re.MULTILINE)
    return {name: re.sub(r"\b(\w+?)u\b", r"\1", value).strip() for name, value in found}


def symbols(elf: Path) -> dict[str, int]:
    with elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {symbol.name: int(symbol["st_value"]) for symbol in table.iter_symbols()}


def flash_of(elf: Path, start: int) -> bytes:
    """What a programmer writes, from the start of flash."""
    with elf.open("rb") as stream:
        loaded = [(s["p_paddr"], s.data()) for s in ELFFile(stream).iter_segments("PT_LOAD") if s["p_filesz"]]
    content = bytearray(b"\xff" * (max(at + len(data) for at, data in loaded) - start))
    for at, data in loaded:
        content[at - start : at - start + len(data)] = data
    return bytes(content)


# ---- what a part asks of an image ----


def test_the_vector_table_leads_to_the_program(image: Artifact) -> None:
    start = VECTORS_AT[image.board]
    known = symbols(image.path)
    table = flash_of(image.path, start)[: 4 * (16 + 32)]
    stack, reset, *handlers = (int.from_bytes(table[i : i + 4], "little") for i in range(0, len(table), 4))
    assert stack % 8 == 0
    assert RAM_AT < stack <= RAM_AT + RAM_BYTES[image.board]
    assert reset == known["reset_handler"] | 1
    assert {handler & 1 for handler in handlers} == {1}
    assert set(handlers[14:]) == {known["board_interrupt"] | 1}
    assert known["board_interrupt"] & ~1 != known["fault_handler"] & ~1, "an interrupt would count as a fault"


def test_an_image_lies_inside_its_part(image: Artifact) -> None:
    board = board_kind(image.board)
    assert (board.memory.flash_bytes, board.memory.ram_bytes) == (FLASH_BYTES[image.board], RAM_BYTES[image.board])
    flash_start = VECTORS_AT[image.board] & ~0xFFF
    known = symbols(image.path)
    with image.path.open("rb") as stream:
        for segment in ELFFile(stream).iter_segments("PT_LOAD"):
            if segment["p_filesz"]:
                assert flash_start <= segment["p_paddr"]
                assert segment["p_paddr"] + segment["p_filesz"] <= flash_start + FLASH_BYTES[image.board]
    assert known["lab_stack"] == RAM_AT, "an overflow of the stack leaves RAM only where the stack is lowest"
    blob_end = known["lab_blob_store"] + known["lab_blob_store_bytes"]
    assert RAM_AT + RAM_BYTES[image.board] - 16 < blob_end <= RAM_AT + RAM_BYTES[image.board]
    assert known["lab_blob_store"] % 16 == 0


def test_the_check_before_a_build_knows_the_stacks_of_each_board(image: Artifact) -> None:
    memory = image.memory
    needed = runner_ram_bytes(image.board)
    assert needed <= memory.static_ram_bytes + memory.stack_bytes
    assert needed < 16 << 10 if image.board == "microbit" else needed == runner_ram_bytes("mps2-an386")
    ram = board_kind(image.board).memory.ram_bytes
    check_fits(tiny_model(), 1 << 20, ram, ram, image.board)
    with pytest.raises(CompileError, match="RAM is"):
        check_fits(tiny_model(), 1 << 20, needed + tiny_model().arena_bytes - 1, ram, image.board)


def test_a_model_as_large_as_the_board_file_allows_links(image: Artifact) -> None:
    """The limit leaves room for what the linker cannot do without."""
    spare = symbols(image.path)["lab_blob_store_bytes"]
    least = re.search(r"lab_blob_store_least = (\d+)(K?);", (FIRMWARE / "boards" / image.board / "link.ld").read_text())
    assert least is not None
    least_bytes = int(least[1]) * (1024 if least[2] else 1)
    limit = board_kind(image.board).memory.arena_limit_bytes
    assert limit - tiny_model().arena_bytes + least_bytes <= spare


# ---- the RP2040's boot block ----


def boot_tool() -> ModuleType:
    path = project_root() / "scripts" / "rp2040_boot.py"
    spec = importlib.util.spec_from_file_location("rp2040_boot", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mirrored(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


def boot_rom_crc(data: bytes) -> int:
    """CRC-32 with the highest bit first, by way of zlib's, which goes the other way round and inverts at the end."""
    reflected = binascii.crc32(bytes(mirrored(byte, 8) for byte in data)) ^ 0xFFFFFFFF
    return mirrored(reflected, 32)


def test_the_boot_rom_would_accept_the_boot_block(pico: Artifact) -> None:
    block = flash_of(pico.path, 0x10000000)[:256]
    assert len(block) == 256
    assert int.from_bytes(block[252:], "little") == boot_rom_crc(block[:252])


def test_the_boot_block_is_that_of_its_source() -> None:
    tool = boot_tool()
    code = tool.assembled(FIRMWARE / "boards" / "rpi-pico" / "boot.S")
    assert tool.header(code) == (FIRMWARE / "boards" / "rpi-pico" / "boot.h").read_text()
    assert len(code) <= 252


def test_a_boot_block_that_is_too_long_is_refused() -> None:
    tool = boot_tool()
    assert tool.header(bytes(252)).count("0x") == 64 + 1
    with pytest.raises(ValueError, match="253 bytes of code; the boot ROM takes 252"):
        tool.header(bytes(253))


# ---- limits of the data sheets ----


def test_the_picos_clock_is_what_its_pll_may_give() -> None:
    """RP2040 data sheet 2.18: oscillator 750 to 1600 MHz, multiplier 16 to 320, dividers 1 to 7; core up to 133 MHz."""
    board = {name: int(value, 0) for name, value in header("rpi-pico").items() if value.isdigit()}
    oscillator = board["BOARD_CRYSTAL_HZ"] * board["BOARD_PLL_MULTIPLIER"]
    assert 750_000_000 <= oscillator <= 1_600_000_000
    assert 16 <= board["BOARD_PLL_MULTIPLIER"] <= 320
    assert 1 <= board["BOARD_PLL_DIVIDER2"] <= board["BOARD_PLL_DIVIDER1"] <= 7
    core_hz = oscillator // board["BOARD_PLL_DIVIDER1"] // board["BOARD_PLL_DIVIDER2"]
    assert core_hz == board["BOARD_CLOCK_HZ"] == board_kind("rpi-pico").clock_hz <= 133_000_000


def rates(board: str) -> list[int]:
    text = (FIRMWARE / "boards" / "common" / ("rp2040.c" if board == "rpi-pico" else "nrf5.c")).read_text()
    found = re.search(r"baud_rates\[\w+\] = \{([\d, ]+)\}", text)
    assert found is not None
    return [int(rate) for rate in found[1].split(",")]


def test_every_rate_is_within_one_percent() -> None:
    """The PL011 divides by 64ths; the nRF's rates are those of the product specification's table."""
    for baud in rates("rpi-pico"):
        divider = round(125_000_000 * 4 / baud)
        assert 64 <= divider < 65536 * 64
        assert abs(125_000_000 * 4 / divider / baud - 1) < 0.001
    actual = {115200: (0x01D7E000, 115942), 230400: (0x03AFB000, 231884), 1_000_000: (0x10000000, 1_000_000)}
    text = (FIRMWARE / "boards" / "common" / "nrf5.c").read_text()
    words = re.search(r"baud_rate_words\[\w+\] = \{([\w, ]+)\}", text)
    assert words is not None
    for baud, word in zip(rates("nrf52840-dk"), words[1].split(","), strict=True):
        assert int(word, 16) == actual[baud][0]
        assert abs(actual[baud][1] / baud - 1) < 0.01


# ---- board files ----


@pytest.mark.parametrize("name", BOARDS)
def test_board_file_and_firmware_say_the_same(name: str) -> None:
    board, define = board_kind(name), header(name)
    assert board.firmware_board == name == define["BOARD_NAME"]
    assert board.clock_hz == int(define["BOARD_CLOCK_HZ"])
    cmake = (FIRMWARE / "boards" / name / "board.cmake").read_text()
    assert f"-mcpu={board.cpu.removesuffix('f')} " in cmake
    assert ("fpu" in board.features) == ("-mfpu=" in cmake)
    assert board.pyocd_target == {"microbit": "nrf51", "nrf52840-dk": "nrf52840", "rpi-pico": "rp2040"}[name]


def driven_pins(name: str) -> tuple[str, ...]:
    """UART out and in, marker and layer marker, as the firmware has them."""
    define = header(name)
    shift = re.search(r"LAB_MARKER_SHIFT=(\d+)", (FIRMWARE / "boards" / name / "board.cmake").read_text())
    assert shift is not None
    uart = [int(define[f"BOARD_UART_{way}_PIN"]) for way in ("TX", "RX")]
    marker = [int(shift[1]), int(shift[1]) + 1]
    if name == "rpi-pico":
        return tuple(f"GP{pin}" for pin in (*uart, *marker))
    gpio = int(define["BOARD_GPIO"], 0)
    port = (int(define.get("BOARD_MARKER_GPIO", define["BOARD_GPIO"]).split()[0], 0) - gpio) // 0x300
    return (*(f"P0.{pin:02}" for pin in uart), *(f"P{port}.{pin:02}" for pin in marker))


@pytest.mark.parametrize("name", BOARDS)
def test_the_board_file_names_the_pins_that_the_firmware_drives(name: str) -> None:
    pins = board_kind(name).pins
    assert pins is not None
    assert (pins.uart_tx, pins.uart_rx, pins.marker, pins.layer_marker) == driven_pins(name)


@pytest.mark.parametrize("name", ["nrf52840-dk", "rpi-pico"])
def test_the_wiring_note_says_what_the_board_file_says(name: str) -> None:
    """And that nobody has seen this firmware on the board."""
    board = board_kind(name)
    assert board.pins is not None
    assert board.meter_hookup is not None
    note = (project_root() / "docs" / "boards" / f"{name}.md").read_text()
    drawing = (project_root() / "docs" / "boards" / f"{name}.svg").read_text()
    assert "never run on silicon" in " ".join(note.split())
    assert f"{name}.svg" in note
    for pin in (board.pins.uart_tx, board.pins.uart_rx, board.pins.marker, board.pins.layer_marker):
        assert pin is not None
        assert pin in note
    for pin in (board.pins.uart_tx, board.pins.uart_rx, board.pins.marker):
        assert pin in drawing
    assert str(board.pyocd_target) in note


def test_the_emulated_microbit_has_no_meter_and_says_why() -> None:
    board = board_kind("microbit")
    assert board.energy_model is None
    assert board.meter_hookup is None
    note = (project_root() / "docs" / "boards" / "microbit.md").read_text()
    assert "one UART" in note
    assert "no meter" in note
