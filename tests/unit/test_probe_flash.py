"""Flash behind the virtual probe: the algorithm's bytes, and the controller of STM32F2 and F4."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.emulators.probe.flash_algorithm import ASSEMBLER, MEMORY_FLASH, SECTOR_BYTES, assemble
from lab.emulators.probe.flash_stm32f4 import (
    CR,
    CR_LOCK,
    CR_MER,
    CR_PG,
    CR_SER,
    CR_STRT,
    FLASH_BASE,
    KEYR,
    KEYS,
    SR,
    SR_PGSERR,
    SR_WRPERR,
    Stm32F4Flash,
)
from lab.emulators.probe.flash_stm32f4 import SECTOR_BYTES as STM32_SECTORS


@pytest.mark.skipif(shutil.which(ASSEMBLER) is None, reason=f"{ASSEMBLER} is not installed")
def test_the_committed_bytes_are_those_of_the_source() -> None:
    assert assemble() == MEMORY_FLASH


class _Machine:
    """The algorithm on another emulator's core than the lab's boards have."""

    FLASH, RAM = 0x00000000, 0x20000000
    BUFFER, STACK = RAM + 0x1000, RAM + 0x1000

    def __init__(self) -> None:
        unicorn = pytest.importorskip("unicorn")
        arm = pytest.importorskip("unicorn.arm_const")
        self._arm = arm
        # Armv6-M: what runs there runs on every Cortex-M.
        self._cpu = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self._cpu.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M0)
        self._cpu.mem_map(self.FLASH, 4 * SECTOR_BYTES)
        self._cpu.mem_map(self.RAM, 0x10000)
        self._cpu.mem_write(self.RAM, b"".join(word.to_bytes(4, "little") for word in MEMORY_FLASH.words))

    def call(self, name: str, *arguments: int) -> int:
        arm = self._arm
        for number, value in enumerate(arguments):
            self._cpu.reg_write(arm.UC_ARM_REG_R0 + number, value)
        self._cpu.reg_write(arm.UC_ARM_REG_SP, self.STACK)
        self._cpu.reg_write(arm.UC_ARM_REG_LR, self.RAM + 1)
        self._cpu.emu_start(self.RAM + MEMORY_FLASH.entries[name] + 1, self.RAM, count=1 << 20)
        return int(self._cpu.reg_read(arm.UC_ARM_REG_R0))

    def flash(self, address: int, size: int) -> bytes:
        return bytes(self._cpu.mem_read(address, size))

    def put(self, address: int, data: bytes) -> None:
        self._cpu.mem_write(address, data)


def test_the_algorithm_erases_one_sector() -> None:
    machine = _Machine()
    machine.put(0, bytes(3 * SECTOR_BYTES))
    assert machine.call("Init", 0, 0, 1) == 0
    assert machine.call("EraseSector", SECTOR_BYTES) == 0
    assert machine.flash(0, 3 * SECTOR_BYTES) == bytes(SECTOR_BYTES) + b"\xff" * SECTOR_BYTES + bytes(SECTOR_BYTES)
    assert machine.call("UnInit", 1) == 0


@given(st.binary(min_size=4, max_size=256).map(lambda data: data[: len(data) & ~3]))
def test_the_algorithm_programs_erased_flash(data: bytes) -> None:
    machine = _Machine()
    machine.put(0, b"\xff" * 1024)
    machine.put(machine.BUFFER, data)
    assert machine.call("ProgramPage", 64, len(data), machine.BUFFER) == 0
    assert machine.flash(0, 1024) == b"\xff" * 64 + data + b"\xff" * (1024 - 64 - len(data))


def test_the_algorithm_only_clears_bits_and_says_when_that_is_not_enough() -> None:
    machine = _Machine()
    machine.put(0, bytes.fromhex("0f0f0f0f" "ffffffff"))
    machine.put(machine.BUFFER, bytes.fromhex("ff0f0f0f" "12345678"))
    assert machine.call("ProgramPage", 0, 8, machine.BUFFER) == 1
    assert machine.flash(0, 4) == bytes.fromhex("0f0f0f0f")


class _Memory:
    """The ROM of a board."""

    def __init__(self) -> None:
        self.data = bytearray(b"\xa5" * sum(STM32_SECTORS))

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.data[address - FLASH_BASE : address - FLASH_BASE + size])

    def write(self, address: int, data: bytes) -> None:
        self.data[address - FLASH_BASE : address - FLASH_BASE + len(data)] = data


@pytest.fixture
def memory() -> _Memory:
    return _Memory()


@pytest.fixture
def flash(memory: _Memory) -> Stm32F4Flash:
    return Stm32F4Flash(memory, memory.write)  # type: ignore[arg-type]


def _put(flash: Stm32F4Flash, register: int, value: int) -> None:
    flash.write(register, value.to_bytes(4, "little"))


def _unlock(flash: Stm32F4Flash) -> None:
    for key in KEYS:
        _put(flash, KEYR, key)


def test_it_is_locked_until_both_keys_come_in_order(flash: Stm32F4Flash) -> None:
    assert flash.read(CR) == CR_LOCK
    for keys in (KEYS[:1], KEYS[1:], KEYS[::-1], (KEYS[0], 0, KEYS[1])):
        for key in keys:
            _put(flash, KEYR, key)
        assert flash.read(CR) & CR_LOCK, keys
        _put(flash, KEYR, 0)
    _unlock(flash)
    assert flash.read(CR) == 0
    _put(flash, CR, CR_LOCK)
    assert flash.read(CR) == CR_LOCK


def test_a_locked_controller_changes_nothing(flash: Stm32F4Flash, memory: _Memory) -> None:
    before = bytes(memory.data)
    _put(flash, CR, CR_SER | CR_STRT)
    flash.write(FLASH_BASE, b"\0\0\0\0")
    assert memory.data == before
    assert flash.read(SR) == SR_PGSERR
    _put(flash, SR, SR_PGSERR)
    assert flash.read(SR) == 0


@pytest.mark.parametrize("sector", range(len(STM32_SECTORS)))
def test_a_sector_is_erased_and_no_other(flash: Stm32F4Flash, memory: _Memory, sector: int) -> None:
    # RM0090, table 5: 16 KiB to 0x0800FFFF, then one of 64 KiB, then 128 KiB each.
    start = (0, 0x4000, 0x8000, 0xC000, 0x10000, *range(0x20000, 0x100000, 0x20000))[sector]
    size = STM32_SECTORS[sector]
    _unlock(flash)
    _put(flash, CR, CR_SER | sector << 3 | CR_STRT)
    assert memory.data[start : start + size] == b"\xff" * size
    assert memory.data.count(b"\xff"[0]) == size
    assert flash.read(SR) == 0


def test_mass_erase(flash: Stm32F4Flash, memory: _Memory) -> None:
    _unlock(flash)
    _put(flash, CR, CR_MER | CR_STRT)
    assert memory.data == b"\xff" * (1 << 20)


@given(before=st.binary(min_size=8, max_size=8), after=st.binary(min_size=8, max_size=8))
def test_programming_only_clears_bits(before: bytes, after: bytes) -> None:
    memory = _Memory()
    memory.write(FLASH_BASE, before)
    flash = Stm32F4Flash(memory, memory.write)  # type: ignore[arg-type]
    _unlock(flash)
    _put(flash, CR, CR_PG)
    flash.write(FLASH_BASE, after)
    assert memory.read(FLASH_BASE, 8) == bytes(a & b for a, b in zip(before, after, strict=True))


def test_write_protection_is_reported_and_a_dropped_store_is_not(flash: Stm32F4Flash, memory: _Memory) -> None:
    before = bytes(memory.data)
    _unlock(flash)
    for how, status in (("refuse", SR_WRPERR), ("drop", 0)):
        flash.locked = how
        _put(flash, CR, CR_SER | CR_STRT)
        assert flash.read(SR) == status
        _put(flash, SR, SR_WRPERR)
        _put(flash, CR, CR_PG)
        flash.write(FLASH_BASE, b"\0\0\0\0")
        assert flash.read(SR) == status
        _put(flash, SR, SR_WRPERR)
    assert memory.data == before
