"""Images of the STM32 boards: what the parts ask of an image, and that board files and firmware say the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from helpers.toolchain import board_kind, built

from lab.artifact import Artifact
from lab.build import ARENA_GUARD_BYTES, FIRMWARE
from lab.inventory import Board, load_bench
from lab.paths import config_dir
from lab.units import parse_bytes

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed (`lab doctor` says how)"
)

# Data sheets: flash, RAM of the program, room for blobs; interrupts of the UART; more RAM of the H743, for the arena.
FLASH = 0x08000000
KIB = 1 << 10
PARTS = {
    "nucleo-f446re": (512 * KIB, (0x20000000, 128 * KIB), (0x20000000, 128 * KIB), 38),
    "stm32f4-discovery": (1024 * KIB, (0x20000000, 128 * KIB), (0x10000000, 64 * KIB), 38),
    "nucleo-h743zi": (2048 * KIB, (0x20000000, 128 * KIB), (0x20000000, 128 * KIB), 39),
    "netduinoplus2": (1024 * KIB, (0x20000000, 192 * KIB), (0x20000000, 192 * KIB), 37),
}
AXI_SRAM = {"nucleo-h743zi": (0x24000000, 512 * KIB)}
REAL = [name for name in PARTS if name != "netduinoplus2"]
# Sectors of the flash by the reference manuals: 4 of 16 KiB, one of 64 KiB, the rest of 128 KiB.
F4_SECTORS = [16 * KIB] * 4 + [64 * KIB]


@pytest.fixture(scope="module", params=sorted(PARTS))
def image(request: pytest.FixtureRequest) -> Artifact:
    return built(request.param)


def symbols(elf: Path) -> dict[str, int]:
    with elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {symbol.name: int(symbol["st_value"]) for symbol in table.iter_symbols()}


def test_the_vector_table_is_where_the_part_boots(image: Artifact) -> None:
    _, ram, _, irq = PARTS[image.board]
    known = symbols(image.path)
    with image.path.open("rb") as stream:
        elf = ELFFile(stream)
        text = elf.get_section_by_name(".text")
        assert text is not None
        assert (text["sh_addr"], known["vectors"]) == (FLASH, FLASH)
        table = [int.from_bytes(text.data()[at : at + 4], "little") for at in range(0, 4 * (16 + 96), 4)]
        assert elf["e_entry"] & ~1 == known["reset_handler"] & ~1
    assert table[0] % 8 == 0
    assert ram[0] < table[0] <= ram[0] + ram[1]
    assert table[1] == known["reset_handler"] | 1
    assert table[16 + irq] == known["board_interrupt"] | 1
    assert table[3] == known["fault_handler"] | 1 != table[16 + irq]


def test_the_image_fits_its_memories(image: Artifact) -> None:
    flash_bytes, ram, _, _ = PARTS[image.board]
    with image.path.open("rb") as stream:
        elf = ELFFile(stream)
        for segment in elf.iter_segments("PT_LOAD"):
            if segment["p_filesz"]:
                assert segment["p_paddr"] >= FLASH
                assert segment["p_paddr"] + segment["p_filesz"] <= FLASH + flash_bytes
            if segment["p_vaddr"] >= ram[0]:
                start, size = AXI_SRAM[image.board] if segment["p_vaddr"] >= ram[0] + ram[1] else ram
                assert start <= segment["p_vaddr"]
                assert segment["p_vaddr"] + segment["p_memsz"] <= start + size
    assert symbols(image.path)["lab_stack"] == ram[0], "what overflows the lowest stack leaves the RAM and faults"


def test_board_file_linker_script_and_data_sheet_agree(image: Artifact) -> None:
    flash_bytes, ram, _, _ = PARTS[image.board]
    board = board_kind(image.board)
    text = (FIRMWARE / "boards" / image.board / "link.ld").read_text()
    found = re.findall(r"(\w+) \(\w+\) : ORIGIN = (0x\w+), LENGTH = (\d+)([KM])", text)
    linked = {name: (int(at, 16), int(parse_bytes(f"{size} {unit}iB"))) for name, at, size, unit in found}
    more = AXI_SRAM.get(image.board)
    assert linked == {"FLASH": (FLASH, flash_bytes), "RAM": ram} | ({"AXI_SRAM": more} if more else {})
    assert board.memory.flash_bytes == flash_bytes
    assert board.memory.ram_bytes == ram[1] + (more[1] if more else 0)
    assert board.firmware_board == image.board


def test_the_largest_arena_of_the_board_file_leaves_room_for_the_runner(image: Artifact) -> None:
    """A model with some state of its own still links: 2 KiB beside the arena."""
    _, ram, _, _ = PARTS[image.board]
    memory = image.memory
    least = re.search(r"lab_blob_store_least = (\d+)K", (FIRMWARE / "boards" / image.board / "link.ld").read_text())
    runner = memory.static_ram_bytes + memory.stack_bytes + (int(least[1]) * KIB if least else 0)
    limit = board_kind(image.board).memory.arena_limit_bytes
    if image.board in AXI_SRAM:
        assert limit + ARENA_GUARD_BYTES <= AXI_SRAM[image.board][1]
        assert runner + 64 * KIB <= ram[1]
    else:
        assert limit + runner + 2 * KIB <= ram[1]


def test_the_arena_of_the_h743_lies_behind_its_cache_and_nothing_else_does() -> None:
    known = symbols(built("nucleo-h743zi").path)
    start, size = AXI_SRAM["nucleo-h743zi"]
    assert (known["board_axi_sram"], known["board_axi_sram_end"]) == (start, start + size)
    inside = {name for name, address in known.items() if start <= address < start + size}
    assert inside == {"board_axi_sram", "lab_arena"}


def test_blobs_lie_in_memory_that_nothing_else_uses(image: Artifact) -> None:
    _, ram, room, _ = PARTS[image.board]
    known = symbols(image.path)
    if "lab_blob_store" in known:
        start, size = known["lab_blob_store"], known["lab_blob_store_bytes"]
        assert image.board in AXI_SRAM or start >= known["lab_arena"] + image.memory.arena_bytes
        assert ram[0] + ram[1] - 16 < start + size <= ram[0] + ram[1]
    else:
        header = (FIRMWARE / "boards" / image.board / "board.h").read_text()
        start, size = (int(re.findall(rf"BOARD_BLOB_{name} (0x\w+)u", header)[0], 16) for name in ("ADDRESS", "BYTES"))
        assert (start, size) == room
        assert not (ram[0] <= start < ram[0] + ram[1])
    assert start % 16 == 0
    assert size >= 8 * KIB


# ---- board files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REAL, "netduinoplus2"])
def test_the_uart_pins_of_the_board_file_are_those_of_the_firmware(name: str) -> None:
    header = (FIRMWARE / "boards" / name / "board.h").read_text()
    found = re.findall(r"#define BOARD_(UART_TX|UART_RX|MARKER|LAYER_MARKER) STM32_PIN\('(\w)', (\d+)\)", header)
    in_firmware = {role.lower(): f"P{port}{number}" for role, port, number in found}
    pins = board_kind(name).pins
    assert name == "netduinoplus2" or pins is not None
    assert pins is None or pins.model_dump() == in_firmware


@pytest.mark.parametrize(
    ("name", "target", "part_bytes"),
    [("nucleo-f446re", "stm32f412xe", 512 * KIB), ("stm32f4-discovery", "stm32f412xg", 1024 * KIB)],
)
def test_the_stand_in_target_has_the_sectors_of_the_part(name: str, target: str, part_bytes: int) -> None:
    assert board_kind(name).pyocd_target == target
    pytest.importorskip("pyocd", reason="pyOCD is not installed (extra swd)")
    from pyocd.core.memory_map import MemoryType
    from pyocd.target import TARGET

    sectors = []
    for region in TARGET[target].MEMORY_MAP.iter_matching_regions(type=MemoryType.FLASH):
        assert region.start == FLASH + sum(sectors)
        sectors += [region.blocksize] * (region.length // region.blocksize)
    assert sectors == F4_SECTORS + [128 * KIB] * ((part_bytes - 128 * KIB) // (128 * KIB))


def test_pyocd_has_the_h743() -> None:
    pytest.importorskip("pyocd", reason="pyOCD is not installed (extra swd)")
    from pyocd.core.memory_map import MemoryType
    from pyocd.target import TARGET

    target = board_kind("nucleo-h743zi").pyocd_target
    regions = list(TARGET[target].MEMORY_MAP.iter_matching_regions(type=MemoryType.FLASH))
    assert (regions[0].start, sum(region.length for region in regions)) == (FLASH, 2048 * KIB)


@pytest.mark.parametrize("name", REAL)
def test_a_real_board_says_where_its_meter_goes(name: str) -> None:
    board: Board = board_kind(name)
    assert board.meter_hookup is not None
    assert board.pins is not None
    assert board.pins.marker != board.pins.layer_marker
    assert 2.7 <= board.nominal_voltage_v <= 3.6  # the wait states are those of this range


def test_the_bench_of_the_emulated_part_is_valid() -> None:
    device = load_bench(config_dir() / "emulators.yaml").devices["netduinoplus2"]
    assert device.emulated
    assert device.board.kind == "netduinoplus2"
