"""What an ELF image tells of an address: function, line, inlined calls, and how to unwind from there.

DWARF 5 (and 4, which older compilers write): sections 2.17 (addresses of an entry), 3.3.8 (inlined calls), 6.2 (lines),
6.4 (call frames). Numbers of registers: AADWARF32 (Arm) and the RISC-V psABI.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.dwarf.callframe import FDE
from elftools.dwarf.ranges import BaseAddressEntry
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import ARMAttributesSection, SymbolTableSection

from lab.errors import ConfigError

if TYPE_CHECKING:
    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE
    from elftools.dwarf.lineprogram import LineState

_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR = 1, 2, 4
# Tag_CPU_arch of Armv8-M baseline, mainline, and Armv8.1-M mainline (Arm ABI, "Addenda", 3.3.5.2).
_ARMV8M = (16, 17, 21)
_ARM_REGISTERS = (*(f"r{number}" for number in range(13)), "sp", "lr", "pc")
_RISCV_REGISTERS = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{number}" for number in range(8)), *(f"s{number}" for number in range(2, 12)), "t3", "t4", "t5", "t6",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What unwinding needs to know of a processor.

    Attributes:
        name: ``arm`` or ``riscv``.
        registers: names by DWARF number.
        sp, ra: DWARF numbers of the stack pointer and of the register a call leaves its return address in.
    """

    name: str
    registers: tuple[str, ...]
    sp: int
    ra: int


ARM = Machine("arm", _ARM_REGISTERS, 13, 14)
RISCV = Machine("riscv", _RISCV_REGISTERS, 2, 1)


@dataclass(frozen=True)
class Symbol:
    """A symbol: ``size`` bytes from ``address`` on; the Thumb bit is taken off."""

    name: str
    address: int
    size: int

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.address + self.size


@dataclass(frozen=True)
class Place:
    """A place in the sources: ``line`` is ``file:line``, empty where not known."""

    function: str
    line: str

    def __str__(self) -> str:
        return f"{self.function} at {self.line}" if self.line else self.function


@dataclass(frozen=True)
class FrameRules:
    """How to get from a frame to its caller at one address.

    Attributes:
        cfa_register, cfa_offset: the stack pointer of the caller is this register plus this.
        saved: registers (DWARF number) that lie at an offset from there.
        kept: registers that another register holds.
    """

    cfa_register: int
    cfa_offset: int
    saved: Mapping[int, int]
    kept: Mapping[int, int]


@dataclass(frozen=True)
class _Section:
    address: int
    data: bytes
    executable: bool


class Image:
    """An ELF image, read once.

    Args:
        path: the file.

    Raises:
        ConfigError: no such file, or no ELF image of a processor of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._elf = ELFFile(BytesIO(path.read_bytes()))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name the image with --elf") from error
        except ELFError as error:
            raise ConfigError(f"{path} is no ELF image: {error}", hint="name the image with --elf") from error
        machines = {"EM_ARM": ARM, "EM_RISCV": RISCV}
        if self._elf["e_machine"] not in machines:
            raise ConfigError(
                f"{path} is for {self._elf['e_machine']}, not for a microcontroller",
                hint="images for Arm (EM_ARM) and RISC-V (EM_RISCV) can be unwound",
            )
        self.machine = machines[self._elf["e_machine"]]
        self._dwarf = self._elf.get_dwarf_info() if self._elf.has_dwarf_info() else None
        self.entry = self._elf["e_entry"] & ~1

    @cached_property
    def has_security(self) -> bool:
        """Whether it is built for Armv8-M, which has the security extension or leaves its registers 0."""
        attributes = self._elf.get_section_by_name(".ARM.attributes")
        if not isinstance(attributes, ARMAttributesSection):
            return False
        tags = (one for section in attributes.iter_subsections() for sub in section.iter_subsubsections()
                for one in sub.iter_attributes("TAG_CPU_ARCH"))  # fmt: skip
        return any(one.value in _ARMV8M for one in tags)

    # ---- symbols and content ---------------------------------------------------------------------------------

    @cached_property
    def _symbols(self) -> tuple[tuple[str, str, bool, Symbol], ...]:
        """(source file of a local symbol, type, whether it may be overridden, symbol); in the order of the table."""
        table = self._elf.get_section_by_name(".symtab")
        thumb = 1 if self.machine is ARM else 0
        found, source = [], ""
        for one in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
            kind = one["st_info"]["type"]
            if kind == "STT_FILE":
                source = one.name
            elif one["st_shndx"] != "SHN_UNDEF":
                address = one["st_value"] & ~thumb if kind == "STT_FUNC" else one["st_value"]
                bind = one["st_info"]["bind"]
                file = source if bind == "STB_LOCAL" else ""
                found.append((file, kind, bind == "STB_WEAK", Symbol(one.name, address, one["st_size"])))
        return tuple(found)

    @cached_property
    def functions(self) -> tuple[Symbol, ...]:
        """Its functions, by address; of several names for one the last is the strongest."""
        found = [(one.address, not weak, one) for _, kind, weak, one in self._symbols if kind == "STT_FUNC"]
        return tuple(one for *_, one in sorted(found, key=lambda entry: entry[:2]))

    @cached_property
    def _sections(self) -> tuple[_Section, ...]:
        return tuple(
            _Section(one["sh_addr"], one.data(), bool(one["sh_flags"] & _SHF_EXECINSTR))
            for one in self._elf.iter_sections()
            if one["sh_flags"] & _SHF_ALLOC and not one["sh_flags"] & _SHF_WRITE and one["sh_type"] != "SHT_NOBITS"
        )

    def variable(self, name: str, source: str = "") -> Symbol | None:
        """A variable; a static one by the file that defines it, such as ``region.c``."""
        for file, kind, _, symbol in self._symbols:
            if kind == "STT_OBJECT" and symbol.name == name and (not source or Path(file).name == source):
                return symbol
        return None

    def function_at(self, address: int) -> Symbol | None:
        """The function an address lies in."""
        index = bisect_right(self.functions, address, key=lambda one: one.address)
        for symbol in reversed(self.functions[:index]):
            if symbol.address <= address < symbol.end:
                return symbol
            if address - symbol.address > 1 << 20:
                break
        return None

    def read(self, address: int, size: int) -> bytes | None:
        """What the image says lies there for good: code and constants; None elsewhere."""
        for section in self._sections:
            offset = address - section.address
            if offset >= 0 and offset + size <= len(section.data):
                return section.data[offset : offset + size]
        return None

    def is_code(self, address: int) -> bool:
        """Whether an instruction of the image may lie there."""
        return any(
            section.executable and 0 <= address - section.address < len(section.data) for section in self._sections
        )

    def follows_call(self, address: int) -> bool:
        """Whether a call ends right before an address, so that it may be one to return to.

        Arm: BL (encoding T1) and BLX, BLXNS by register. Of RISC-V, whose calls have many forms, any code will do.
        """
        if not self.is_code(address):
            return False
        if self.machine is not ARM:
            return True
        before = self.read(address - 4, 4) if self.is_code(address - 4) else None
        if before is None:
            return False
        first, second = (int.from_bytes(before[at : at + 2], "little") for at in (0, 2))
        return (first & 0xF800 == 0xF000 and second & 0xD000 == 0xD000) or second & 0xFF83 == 0x4780

    # ---- places ----------------------------------------------------------------------------------------------

    def places(self, address: int) -> tuple[Place, ...]:
        """Where an address is in the sources: the innermost inlined function first, the real one last.

        Empty where the address lies in no function.
        """
        function = self.function_at(address)
        if function is None:
            return ()
        unit = self._unit_at(address)
        if unit is None:
            return (Place(function.name, ""),)
        places, line = [], self._line_at(unit, address)
        for die in self._inlined(unit, function, address):
            places.append(Place(_name(die), line))
            line = self._call_line(unit, die)
        return (*places, Place(function.name, line))

    def where(self, address: int) -> str:
        """``function at file:line`` of an address, as much of that as is known; at least the address itself."""
        places = self.places(address)
        return str(places[0]) if places else f"{address:#010x}"

    def _unit_at(self, address: int) -> CompileUnit | None:
        if self._dwarf is None:
            return None
        best, found = -1, None
        for unit in self._dwarf.iter_CUs():
            for low, high in self._ranges(unit, unit.get_top_DIE()):
                # What the linker dropped lies at address 0, and may seem to reach over real code.
                if low <= address < high and low > best:
                    best, found = low, unit
        return found

    def _ranges(self, unit: CompileUnit, die: DIE) -> Iterator[tuple[int, int]]:
        attributes = die.attributes
        if "DW_AT_ranges" in attributes and self._dwarf is not None:
            lists = self._dwarf.range_lists()
            base = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
            start = 0 if base is None else base.value
            for entry in lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, unit) if lists else ():
                if isinstance(entry, BaseAddressEntry):
                    start = entry.base_address
                else:
                    offset = 0 if entry.is_absolute else start
                    yield entry.begin_offset + offset, entry.end_offset + offset
        elif "DW_AT_low_pc" in attributes and "DW_AT_high_pc" in attributes:
            low, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
            yield low, high.value if high.form == "DW_FORM_addr" else low + high.value

    def _inlined(self, unit: CompileUnit, function: Symbol, address: int) -> list[DIE]:
        """Inlined calls that cover an address, innermost first."""
        for die in unit.iter_DIEs():
            if die.tag != "DW_TAG_subprogram":
                continue
            if any(low == function.address for low, _ in self._ranges(unit, die)):
                return self._inlined_below(unit, die, address)
        return []

    def _inlined_below(self, unit: CompileUnit, die: DIE, address: int) -> list[DIE]:
        for child in die.iter_children():
            if child.tag not in ("DW_TAG_inlined_subroutine", "DW_TAG_lexical_block"):
                continue
            if any(low <= address < high for low, high in self._ranges(unit, child)):
                below = self._inlined_below(unit, child, address)
                return [*below, child] if child.tag == "DW_TAG_inlined_subroutine" else below
        return []

    def _line_at(self, unit: CompileUnit, address: int) -> str:
        program = self._dwarf.line_program_for_CU(unit) if self._dwarf is not None else None
        # The rows of one address, in the sequence at hand.
        rows: list[LineState] = []
        dropped = False
        for state in (entry.state for entry in program.get_entries() if entry.state is not None) if program else ():
            if not rows:
                # What the linker dropped lies at address 0, and may seem to reach over real code.
                dropped = state.address == 0
            elif rows[0].address <= address < state.address and not dropped:
                # Of several lines of one instruction the last counts that is meant for a breakpoint (is_stmt).
                row = next((one for one in reversed(rows) if one.is_stmt), rows[-1])
                return f"{self._file(unit, row.file)}:{row.line}" if row.line else ""
            if state.end_sequence:
                rows = []
            # A row without a line belongs to what came before.
            elif state.line or not rows:
                rows = [*rows, state] if rows and rows[0].address == state.address else [state]
        return ""

    def _call_line(self, unit: CompileUnit, die: DIE) -> str:
        file, line = die.attributes.get("DW_AT_call_file"), die.attributes.get("DW_AT_call_line")
        return "" if file is None or line is None else f"{self._file(unit, file.value)}:{line.value}"

    def _file(self, unit: CompileUnit, number: int) -> str:
        program = self._dwarf.line_program_for_CU(unit) if self._dwarf is not None else None
        if program is None:
            return "?"
        # Files count from 0 since DWARF 5, from 1 before.
        index = number if program.header.version >= 5 else number - 1
        entries = program.header.file_entry
        return Path(entries[index].name.decode(errors="replace")).name if 0 <= index < len(entries) else "?"

    # ---- call frames -----------------------------------------------------------------------------------------

    @cached_property
    def _frame_entries(self) -> tuple[FDE, ...]:
        dwarf = self._dwarf
        if dwarf is None:
            return ()
        entries = [*(dwarf.CFI_entries() if dwarf.has_CFI() else ())]
        entries += dwarf.EH_CFI_entries() if dwarf.has_EH_CFI() else ()
        return tuple(sorted((one for one in entries if isinstance(one, FDE)), key=_start))

    def frame_rules(self, address: int) -> FrameRules | None:
        """How to unwind from an address; None where the image does not say."""
        index = bisect_right(self._frame_entries, address, key=_start)
        for entry in reversed(self._frame_entries[:index]):
            if address < _start(entry) + entry["address_range"]:
                return _rules(entry, address)
        return None


def _start(entry: FDE) -> int:
    return int(entry["initial_location"])


def _rules(entry: FDE, address: int) -> FrameRules | None:
    rows = [row for row in entry.get_decoded().table if row["pc"] <= address]
    if not rows or "cfa" not in rows[-1]:
        return None
    row = rows[-1]
    cfa = row["cfa"]
    # A frame address that is computed (DW_CFA_def_cfa_expression) is not written by compilers for these processors.
    if cfa.reg is None:
        return None
    rules = {number: rule for number, rule in row.items() if isinstance(number, int)}
    return FrameRules(
        cfa.reg,
        cfa.offset,
        saved={number: rule.arg for number, rule in rules.items() if rule.type == "OFFSET"},
        kept={number: rule.arg for number, rule in rules.items() if rule.type == "REGISTER"},
    )


def _name(die: DIE) -> str:
    """The name of an inlined call, from the function it is an instance of."""
    while "DW_AT_name" not in die.attributes:
        for link in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if link in die.attributes:
                die = die.get_DIE_from_attribute(link)
                break
        else:
            return "?"
    return str(die.attributes["DW_AT_name"].value.decode(errors="replace"))
