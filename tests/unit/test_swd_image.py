"""Images before a probe sees them: what they ask for, where they lie, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from helpers.probed import small_elf
from helpers.toolchain import needs_qemu
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import ConfigError
from lab.transports.swd_image import (
    Architecture,
    Core,
    FloatUnit,
    Image,
    Range,
    Segment,
    check_core,
    check_place,
    read_image,
)

pytestmark = needs_qemu  # for its compiler

M0 = Core("a Cortex-M0", "v6-M")
M3 = Core("a Cortex-M3", "v7-M")
M4F = Core("a Cortex-M4 (v7E-M, FPv4-SP)", "v7E-M", "FPv4-SP")
M7 = Core("a Cortex-M7 (v7E-M, FPv5-DP)", "v7E-M", "FPv5-DP")
M33 = Core("a Cortex-M33", "v8-M.main", "FPv5-SP")
M55 = Core("a Cortex-M55", "v8.1-M.main", "FPv5-DP", vectors=True)
CORES = (M0, M3, M4F, M7, M33, M55)

BUILDS: dict[str, tuple[tuple[str, ...], Architecture, FloatUnit, bool, tuple[Core, ...]]] = {
    "m0": (("-mcpu=cortex-m0",), "v6-M", "none", False, CORES),
    "m3": (("-mcpu=cortex-m3",), "v7-M", "none", False, (M3, M4F, M7, M33, M55)),
    "m4": (("-mcpu=cortex-m4",), "v7E-M", "none", False, (M4F, M7, M33, M55)),
    "m4f": (
        ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), "v7E-M", "FPv4-SP", False, (M4F, M7, M33, M55),
    ),
    "m7-dp": (("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"), "v7E-M", "FPv5-DP", False, (M7, M55)),
    "m33": (
        ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"), "v8-M.main", "FPv5-SP", False, (M33, M55),
    ),
    "m55": (("-mcpu=cortex-m55", "-mfloat-abi=hard"), "v8.1-M.main", "FPv5-DP", True, (M55,)),
}  # fmt: skip


@pytest.mark.parametrize("name", BUILDS)
def test_what_the_compiler_wrote_decides_which_cores_run_an_image(name: str, tmp_path: Path) -> None:
    flags, architecture, unit, vectors, suitable = BUILDS[name]
    image = read_image(small_elf(tmp_path, *flags))
    assert (image.needs.architecture, image.needs.float_unit, image.needs.vectors) == (architecture, unit, vectors)
    for core in CORES:
        if core in suitable:
            check_core(image, core)
        else:
            with pytest.raises(ConfigError, match=r"nothing was written") as refused:
                check_core(image, core)
            assert core.name in str(refused.value)


def test_the_refusal_says_what_the_core_lacks(tmp_path: Path) -> None:
    for_m7 = read_image(small_elf(tmp_path / "m7", *BUILDS["m7-dp"][0]))
    with pytest.raises(ConfigError, match=r"Cortex-M4 .*: it uses an FPv5-DP floating-point unit; nothing was written"):
        check_core(for_m7, M4F)
    for_m55 = read_image(small_elf(tmp_path / "m55", *BUILDS["m55"][0]))
    with pytest.raises(ConfigError, match=r"v8\.1-M\.main, it uses an FPv5-DP .*, it uses the vector extension"):
        check_core(for_m55, M4F)


def test_risc_v_and_host_programs_are_refused_by_their_machine(tmp_path: Path) -> None:
    patched = bytearray(small_elf(tmp_path, "-mcpu=cortex-m4").read_bytes())
    patched[18:20] = (243).to_bytes(2, "little")  # e_machine: EM_RISCV
    riscv = tmp_path / "riscv.elf"
    riscv.write_bytes(patched)
    with pytest.raises(ConfigError, match="a core of another make \\(RISCV\\)"):
        check_core(read_image(riscv), M4F)
    with pytest.raises(ConfigError, match="a core of another make \\(X86_64\\)"):
        check_core(read_image(Path("/bin/true")), M4F)


def test_segments_and_symbols_are_those_of_the_tools(tmp_path: Path) -> None:
    elf = small_elf(tmp_path, "-mcpu=cortex-m4", address=0x08000000)
    raw = tmp_path / "raw.bin"
    subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", elf, raw], check=True)
    image = read_image(elf)
    assert b"".join(segment.data for segment in image.segments) == raw.read_bytes()
    assert image.segments[0].address == 0x08000000
    assert image.digest == hashlib.sha256(raw.read_bytes()).hexdigest()
    listed = subprocess.run(["arm-none-eabi-nm", elf], check=True, capture_output=True, text=True).stdout
    addresses = {line.split()[2]: int(line.split()[0], 16) & ~1 for line in listed.splitlines()}
    assert {name: image.address_of(name) for name in ("main", "vectors", "counter")} == {
        name: addresses[name] for name in ("main", "vectors", "counter")
    }
    with pytest.raises(ConfigError, match="has no symbol 'absent'"):
        image.address_of("absent")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no ELF at all" * 100], ids=["empty", "cut", "text"])
def test_what_is_no_image_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.elf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"image\.elf is no ELF image"):
        read_image(path)


def test_missing_files_and_object_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.elf cannot be read: No such file"):
        read_image(tmp_path / "none.elf")
    source = tmp_path / "part.c"
    source.write_text("int part = 3;")
    subprocess.run(["arm-none-eabi-gcc", "-c", source, "-o", tmp_path / "part.o"], check=True)
    with pytest.raises(ConfigError, match=r"part\.o holds nothing to load"):
        read_image(tmp_path / "part.o")


def placed(*segments: tuple[int, int]) -> Image:
    parts = tuple(Segment(address, bytes(size)) for address, size in segments)
    return Image(Path("x.elf"), parts, M4F, {})


BANKS = (Range(0x08000000, 0x08010000), Range(0x08010000, 0x08020000))


def test_an_image_may_reach_from_one_bank_of_flash_into_the_next() -> None:
    check_place(placed((0x0800F000, 0x2000)), BANKS, "part")


@pytest.mark.parametrize(
    ("segment", "first"),
    [((0x20000000, 4), 0x20000000), ((0x0801FFFC, 8), 0x08020000), ((0x07FFFFFE, 4), 0x07FFFFFE)],
)
def test_the_first_address_outside_flash_is_named(segment: tuple[int, int], first: int) -> None:
    with pytest.raises(ConfigError, match=rf"first at {first:#010x}; its flash is \[0x08000000, 0x08010000\)"):
        check_place(placed((0x08000000, 16), segment), BANKS, "part")


@given(st.integers(0, 60), st.integers(1, 30))
def test_an_image_passes_just_when_each_of_its_bytes_lies_in_flash(start: int, size: int) -> None:
    ranges = (Range(8, 20), Range(20, 32), Range(40, 50))
    inside = all(any(one.start <= address < one.end for one in ranges) for address in range(start, start + size))
    if inside:
        check_place(placed((start, size)), ranges, "part")
    else:
        with pytest.raises(ConfigError, match="reach outside the flash of part"):
            check_place(placed((start, size)), ranges, "part")


def test_a_target_without_flash_says_what_to_name_instead() -> None:
    with pytest.raises(ConfigError, match="target 'cortex_m' describes no flash") as refused:
        check_place(placed((0, 4)), (), "cortex_m")
    assert "pyocd_target" in refused.value.hint
