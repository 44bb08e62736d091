"""What is read of a core and what is left out, on a core that is made up. Real ones: tests/emulated."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from helpers.fault_program import M4F, M33, build_faults
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import ConfigError, CrashReport, EmulatorError
from lab.postmortem.capture import examine_core, explain_report
from lab.postmortem.image import Image
from lab.postmortem.stack import PAINT

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="not installed: arm-none-eabi-gcc (`lab doctor` says how)"
)
CFSR, HFSR, DFSR, MMFAR, BFAR, AFSR = range(0xE000ED28, 0xE000ED40, 4)
SFSR, SFAR = 0xE000EDE4, 0xE000EDE8
RAM, RAM_BYTES = 0x20000000, 16384


@dataclass
class MadeUpCore:
    """A core with RAM, some system registers, and a record of what was done to it."""

    values: dict[str, int]
    system: dict[int, int] = field(default_factory=dict)
    ram: bytearray = field(default_factory=lambda: bytearray(RAM_BYTES))
    reads: list[tuple[int, int]] = field(default_factory=list)
    is_halted: bool = False
    times_halted: int = 0

    @contextmanager
    def halted(self) -> Iterator[None]:
        self.is_halted = True
        self.times_halted += 1
        yield
        self.is_halted = False

    def registers(self) -> Mapping[str, int]:
        assert self.is_halted
        return self.values

    def read_memory(self, address: int, size: int) -> bytes:
        assert self.is_halted
        self.reads.append((address, size))
        if address in self.system and size == 4:
            return self.system[address].to_bytes(4, "little")
        if address >= RAM and address + size <= RAM + RAM_BYTES:
            return bytes(self.ram[address - RAM : address - RAM + size])
        raise EmulatorError(f"nothing at {address:#x}")


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_faults(M4F, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def secure_elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_faults(replace(M33, ram=RAM), tmp_path_factory.mktemp("faults"))


def core_at(elf: Path, **system: int) -> MadeUpCore:
    """A core in the first instruction of settled(), called by nobody."""
    image = Image(elf)
    pc = next(one.address for one in image.functions if one.name == "settled")
    places = {"cfsr": CFSR, "hfsr": HFSR, "dfsr": DFSR, "mmfar": MMFAR, "bfar": BFAR, "afsr": AFSR, "sfsr": SFSR,
              "sfar": SFAR}  # fmt: skip
    registers = {f"r{number}": number for number in range(13)} | {"pc": pc, "lr": 0xFFFFFFFF, "sp": RAM + 1024}
    return MadeUpCore(registers, {address: system.get(name, 0) for name, address in places.items()})


def told(report: CrashReport) -> set[str]:
    return {name for name in report.registers if name[0] in "chdmabs" and name != "sp"}


def test_a_healthy_core_has_no_faults(elf: Path) -> None:
    core = core_at(elf)
    report = examine_core(core, elf)
    assert report.faults == ()
    assert told(report) == {"cfsr", "hfsr"}
    assert [frame.function for frame in report.backtrace] == ["settled"]
    assert report.location.startswith("settled at faults.c:")
    assert report.ended == ""
    assert (core.times_halted, core.is_halted) == (1, False)


@pytest.mark.parametrize(
    ("system", "shown"),
    [
        ({"cfsr": 0x200, "bfar": 0x1234, "mmfar": 0x1234}, {"cfsr", "hfsr"}),
        ({"cfsr": 0x8200, "bfar": 0x1234, "mmfar": 0x1234}, {"cfsr", "hfsr", "bfar"}),
        ({"cfsr": 0x8200, "bfar": 0}, {"cfsr", "hfsr", "bfar"}),
        ({"cfsr": 0x82, "mmfar": 0x1234}, {"cfsr", "hfsr", "mmfar"}),
        ({"dfsr": 1}, {"cfsr", "hfsr"}),
        ({"dfsr": 3}, {"cfsr", "hfsr", "dfsr"}),
        ({"afsr": 4}, {"cfsr", "hfsr", "afsr"}),
    ],
)
def test_only_what_means_something_is_shown(elf: Path, system: dict[str, int], shown: set[str]) -> None:
    report = examine_core(core_at(elf, **system), elf)
    assert told(report) == shown
    assert "HALTED" not in {fault.name for fault in report.faults}, "the core was halted to look at it"


def test_armv8m_has_secure_fault_status(elf: Path, secure_elf: Path) -> None:
    status = {"sfsr": 0x48, "sfar": 0x10}
    report = examine_core(core_at(secure_elf, **status), secure_elf)
    assert [(fault.register, fault.name) for fault in report.faults] == [("SFSR", "AUVIOL"), ("SFAR", "0x00000010")]
    other = core_at(elf, **status)
    assert examine_core(other, elf).faults == ()
    assert not {SFSR, SFAR} & {address for address, _ in other.reads}, "they are not there before Armv8-M"


def test_a_core_without_system_registers(elf: Path) -> None:
    core = core_at(elf)
    core.system.clear()
    report = examine_core(core, elf)
    assert report.faults == ()
    assert [frame.function for frame in report.backtrace] == ["settled"]


def test_stacks_are_read_once_and_whole(elf: Path) -> None:
    core = core_at(elf)
    stack = Image(elf).variable("lab_stack")
    assert stack is not None
    core.ram[: stack.size] = PAINT.to_bytes(4, "little") * ((stack.size - 512) // 4) + bytes(512)
    report = examine_core(core, elf)
    assert report.stacks[0].high_water_bytes == 512
    within = [read for read in core.reads if stack.address <= read[0] < stack.end]
    assert within == [(stack.address, stack.size)]


def test_no_region_where_the_firmware_has_none(elf: Path) -> None:
    assert examine_core(core_at(elf), elf).region == ""


def test_an_image_that_is_missing_is_said_before_the_core_is_touched(elf: Path, tmp_path: Path) -> None:
    core = core_at(elf)
    with pytest.raises(ConfigError, match=r"gone\.elf cannot be read"):
        examine_core(core, tmp_path / "gone.elf")
    assert core.times_halted == 0


@given(registers=st.dictionaries(st.sampled_from(["pc", "lr", "sp", "psp", "cfsr", "exc_return", "signal", "x"]),
                                 st.integers(0, 0xFFFFFFFF)),
       pieces=st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.binary(max_size=64)), max_size=4))  # fmt: skip
def test_whatever_a_device_tells_is_explained(
    elf: Path, registers: dict[str, int], pieces: list[tuple[int, bytes]]
) -> None:
    given_report = CrashReport(registers, region="r", memory=tuple(pieces), stack_high_water_bytes=4)
    report = explain_report(given_report, elf)
    assert (report.registers, report.region, report.memory) == (registers, "r", tuple(pieces))
    if "pc" in registers:
        assert report.backtrace[0].address == registers["pc"]
        assert report.location
    assert report.stacks[0].high_water_bytes == 4


def test_after_an_overflow_the_calls_lie_from_the_lowest_piece_on(elf: Path) -> None:
    image = Image(elf)
    start = next(one for one in image.functions if one.name == "begin")
    call = next(at for at in range(start.address + 4, start.end, 2) if image.follows_call(at)) | 1
    words = [0, 0, call, 0]
    piece = (RAM, b"".join(word.to_bytes(4, "little") for word in words))
    report = explain_report(CrashReport({"sp": RAM - 0x1000}, memory=(piece,)), elf)
    assert [(frame.function, frame.found) for frame in report.backtrace] == [("begin", "scan")]
    assert report.location == ""
    assert report.stacks[0].overflowed
