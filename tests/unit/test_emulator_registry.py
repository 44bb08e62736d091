"""Emulators in board and bench files, and from there to a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.devices.connect import emulated_target
from lab.emulator_config import QemuEmulator, RenodeEmulator, UnicornEmulator
from lab.emulators.registry import create, version_of
from lab.errors import ConfigError, EmulatorError
from lab.inventory import Board, board_files, load_bench, load_board
from lab.paths import config_dir, project_root

_HEAD = """\
kind: mine
title: A board of the test
device_class: mcu
cpu: cortex-m3
clock_hz: 25 MHz
memory: {flash_bytes: 1 MiB, ram_bytes: 64 KiB, arena_limit_bytes: 32 KiB}
firmware_board: mps2-an385
nominal_voltage_v: 3.3
"""
_QEMU = "{kind: qemu, machine: mps2-an385, icount_shift: 7}"
_UNICORN = "{kind: unicorn, peripherals: mps2-an385}"
_RENODE = "{kind: renode, platform: cpus/stm32f4.repl, uart: usart1, mips: 168}"


def board_of(folder: Path, emulator: str) -> Board:
    path = folder / "boards" / "mine.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{_HEAD}emulator: {emulator}\n" if emulator else _HEAD)
    load_board.cache_clear()
    return load_board(path)


def bench_of(folder: Path, emulator: str, device: str) -> Path:
    board_of(folder, emulator)
    path = folder / "bench.yaml"
    path.write_text(f"devices:\n  d: {{board: mine, {device}}}\n")
    return path


def test_one_emulator_or_several(tmp_path: Path) -> None:
    alone = board_of(tmp_path, _QEMU)
    assert [one.kind for one in alone.emulators] == ["qemu"]
    assert alone.qemu is not None
    assert (alone.qemu.program, alone.qemu.machine) == ("qemu-system-arm", "mps2-an385")
    both = board_of(tmp_path, f"[{_UNICORN}, {_QEMU}]")
    assert [type(one) for one in both.emulators] == [UnicornEmulator, QemuEmulator]
    assert both.qemu == alone.qemu
    assert board_of(tmp_path, "").emulators == ()
    assert board_of(tmp_path, _UNICORN).qemu is None


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("emulated: true", "unicorn"),
        ("emulated: true, emulator: unicorn", "unicorn"),
        ("emulated: true, emulator: qemu", "qemu"),
    ],
)
def test_the_first_emulator_unless_the_bench_names_another(tmp_path: Path, device: str, kind: str) -> None:
    bench = load_bench(bench_of(tmp_path, f"[{_UNICORN}, {_QEMU}]", device))
    section = bench.devices["d"].emulator
    assert section is not None
    assert section.kind == kind


def test_hardware_has_no_emulator(tmp_path: Path) -> None:
    bench = load_bench(bench_of(tmp_path, _QEMU, "serial: {by_id: A50285BI}"))
    assert bench.devices["d"].emulator is None
    with pytest.raises(ConfigError, match="has no emulator"):
        emulated_target(bench.devices["d"], tmp_path)


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("emulated: true, emulator: renode", r"none of kind 'renode'; allowed: unicorn, qemu"),
        ("emulated: true, emulator: qemo", r"found 'qemo'; did you mean 'qemu'\? allowed: qemu, renode, unicorn"),
        ("serial: {by_id: A50285BI}, emulator: qemu", r"'qemu' is named for a device that is not emulated"),
    ],
)
def test_an_emulator_that_cannot_be_meant(tmp_path: Path, device: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"bench\.yaml:2.*devices\.d\.emulator: .*{told}"):
        load_bench(bench_of(tmp_path, f"[{_UNICORN}, {_QEMU}]", device))


@pytest.mark.parametrize(
    ("emulator", "told"),
    [
        ("{kind: qemu, machine: x}", r"mine\.yaml:9:1: emulator\.icount_shift: is missing"),
        ("{kind: qemu, machin: x, icount_shift: 7}", r"unknown key 'machin'; did you mean 'machine'\?"),
        (
            "{kind: qemu, machine: x, icount_shift: 11}",
            r"emulator\.icount_shift: found 11; allowed: less than or equal",
        ),
        (f"[{_QEMU}, {{kind: renod}}]", r"emulator\.1\.kind: found 'renod'; did you mean 'renode'\?"),
        (f"[{_QEMU}, {{kind: unicorn}}]", r"emulator\.1\.peripherals: is missing"),
        ("{machine: x}", r"emulator: kind: is missing"),
        (f"[{_QEMU}, {_QEMU}]", r"a kind of emulator stands twice: qemu, qemu"),
        ("qemu", r"emulator: found 'qemu'"),
        ("{kind: qemu, machine: x, icount_shift: 7, program: arm}", r"found 'arm'; allowed: qemu-system-arm, "),
        (
            "{kind: qemu, machine: x, icount_shift: 7, watchdog: {kind: iwdg, address: 0}}",
            r"emulator\.watchdog\.kind: found 'iwdg'",
        ),
        (
            "{kind: qemu, machine: x, icount_shift: 7, stop_clock: [{address: 0, value: 0x100000000}]}",
            r"emulator\.stop_clock\.0\.value: found 4294967296; allowed: less than",
        ),
    ],
)
def test_sections_are_checked_with_their_place(tmp_path: Path, emulator: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        board_of(tmp_path, emulator)


def test_qemu_is_made_of_its_section(tmp_path: Path) -> None:
    board = board_of(tmp_path, _QEMU)
    made = create(board, board.emulators[0], tmp_path / "firmware.elf")
    assert (made.kind, made.version) == ("qemu", version_of(board.emulators[0]))
    assert made.faults == {"power-cut", "flip-ram", "flip-flash"}, "all that needs no word in the board file"
    made.stop()
    with pytest.raises(EmulatorError):
        made.release()


def test_renode_takes_no_meter(tmp_path: Path) -> None:
    board = board_of(tmp_path, _RENODE)
    assert isinstance(board.emulators[0], RenodeEmulator)
    with pytest.raises(ConfigError, match="no marker line"):
        create(board, board.emulators[0], tmp_path / "firmware.elf", marker_socket=tmp_path / "marker")


def test_the_registry_imports_no_emulator() -> None:
    """A machine without the packages of one emulator still has the others."""
    code = "import sys, lab.emulators.registry; print(*[m for m in sys.modules if m.split('.')[0] == 'unicorn'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project_root())
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "kind", sorted(kind for kind, path in board_files(config_dir()).items() if load_board(path).qemu)
)
def test_what_qemu_is_told_agrees_with_the_firmware(kind: str) -> None:
    """A machine of its own for each board, the same virtual time for all, and faults at even addresses of devices."""
    board = load_board(config_dir() / "boards" / f"{kind}.yaml")
    qemu = board.qemu
    assert qemu is not None
    assert qemu.icount_shift == 7, "the clocks of firmware/boards/common count on it"
    assert (qemu.program == "qemu-system-riscv32") == board.cpu.startswith("rv")
    assert qemu.marker_address is not None
    assert qemu.marker_address % 4 == 0
    assert all(store.address % 4 == 0 for store in qemu.stop_clock)
    assert (project_root() / "firmware" / "boards" / str(board.firmware_board) / "board.h").exists()
