"""What a debugger finds when it explores a core: CoreSight identification of its debug components, by processor.

Part numbers, comparator counts and register layout are those of the Technical Reference Manuals of the processors and
of the Armv7-M and Armv8-M Architecture Reference Manuals (component and peripheral identification registers).
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.emulators.probe.signals import BusFault

ROM_TABLE = 0xE00FF000
SCS, DWT, FPB = 0xE000E000, 0xE0001000, 0xE0002000

_GENERIC, _CORESIGHT, _ROM = 0xE, 0x9, 0x1


@dataclass(frozen=True)
class Processor:
    """The debug units of a processor.

    Attributes:
        name: as Arm writes it.
        part: part number in CPUID.
        ap_idr: identification of its memory access port.
        page_bytes: block transfers wrap within so many bytes.
        breakpoints: code comparators of the FPB (or BPU).
        literals: literal comparators of it.
        fpb_revision: 1 compares addresses of the code region only.
        watchpoints: comparators of the DWT.
        components: part numbers of SCS, DWT and FPB in the ROM table.
        v8: whether it is of Armv8-M, where the components are told apart by DEVARCH and the DWT is of version 2.
        base_priority: whether it has BASEPRI and FAULTMASK.
    """

    name: str
    part: int
    ap_idr: int
    page_bytes: int
    breakpoints: int
    literals: int
    fpb_revision: int
    watchpoints: int
    components: tuple[int, int, int]
    v8: bool = False
    base_priority: bool = True


PROCESSORS = {
    one.part: one
    for one in (
        Processor("Cortex-M0", 0xC20, 0x04770021, 0x400, 4, 0, 1, 2, (0x008, 0x00A, 0x00B), base_priority=False),
        Processor("Cortex-M3", 0xC23, 0x24770011, 0x1000, 6, 2, 1, 4, (0x000, 0x002, 0x003)),
        Processor("Cortex-M4", 0xC24, 0x24770011, 0x1000, 6, 2, 1, 4, (0x00C, 0x002, 0x003)),
        Processor("Cortex-M7", 0xC27, 0x04770041, 0x400, 8, 0, 2, 4, (0x00C, 0x002, 0x00E)),
        Processor("Cortex-M33", 0xD21, 0x14770015, 0x400, 8, 0, 2, 4, (0xD21, 0xD21, 0xD21), v8=True),
        Processor("Cortex-M55", 0xD22, 0x14770015, 0x400, 8, 0, 2, 4, (0xD22, 0xD22, 0xD22), v8=True),
    )
}
# Architecture identifiers in DEVARCH, of SCS, DWT and FPB.
_ARCHITECTURE = (0x2A04, 0x1A02, 0x1A03)


def processor(cpuid: int) -> Processor:
    """The processor that calls itself ``cpuid``.

    Raises:
        BusFault: the model does not know it.
    """
    part = cpuid >> 4 & 0xFFF
    if part not in PROCESSORS:
        known = ", ".join(one.name for one in PROCESSORS.values())
        raise BusFault(f"CPUID {cpuid:#010x} is of no core that the virtual probe knows; known: {known}")
    return PROCESSORS[part]


def identification(kind: Processor) -> dict[int, int]:
    """Read-only registers by address: the ROM table and the identification of what it lists."""
    words: dict[int, int] = {}
    for index, base in enumerate((SCS, DWT, FPB)):
        words[ROM_TABLE + 4 * index] = (base - ROM_TABLE) & 0xFFFFF000 | 3
        words.update(_identity(base, kind.components[index], _CORESIGHT if kind.v8 else _GENERIC))
        if kind.v8:
            words[base + 0xFBC] = 0x23B << 21 | 1 << 20 | _ARCHITECTURE[index]
    words[ROM_TABLE + 12] = 0
    words[ROM_TABLE + 0xFCC] = 1
    words.update(_identity(ROM_TABLE, 0x4C0 + (kind.part & 0xF), _ROM))
    return words


def _identity(base: int, part: int, component_class: int) -> dict[int, int]:
    # PIDR4–7, PIDR0–3, CIDR0–3; designer 0x23B is Arm.
    registers = [4, 0, 0, 0, part & 0xFF, 0xB0 | part >> 8, 0x0B, 0, 0x0D, component_class << 4, 0x05, 0xB1]
    return {base + 0xFD0 + 4 * index: value for index, value in enumerate(registers)}
