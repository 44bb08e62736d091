"""Images as a debug probe sees them: segments, symbols, and what of a core they ask for.

Sources: ELF for the Arm architecture (IHI 0044) and its addenda on build attributes (IHI 0045), whose numbers the
compiler writes into ``.ARM.attributes``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import ARMAttributesSection, SymbolTableSection

from lab.errors import ConfigError

Architecture: TypeAlias = Literal["v6-M", "v7-M", "v7E-M", "v8-M.base", "v8-M.main", "v8.1-M.main"]
FloatUnit: TypeAlias = Literal["none", "FPv4-SP", "FPv5-SP", "FPv5-DP"]

# Tag_CPU_arch (IHI 0045, 2.3.6.1); v7 with the profile "microcontroller" is v7-M.
_ARCHITECTURES: Mapping[int, Architecture] = {
    10: "v7-M",
    11: "v6-M",
    12: "v6-M",
    13: "v7E-M",
    16: "v8-M.base",
    17: "v8-M.main",
    21: "v8.1-M.main",
}
# Which images a core runs: each architecture contains those listed (Armv8-M ARM DDI 0553, Armv7-M ARM DDI 0403).
_RUNS: Mapping[Architecture, frozenset[Architecture]] = {
    "v6-M": frozenset({"v6-M"}),
    "v7-M": frozenset({"v6-M", "v7-M"}),
    "v7E-M": frozenset({"v6-M", "v7-M", "v7E-M"}),
    "v8-M.base": frozenset({"v6-M", "v8-M.base"}),
    "v8-M.main": frozenset({"v6-M", "v7-M", "v7E-M", "v8-M.base", "v8-M.main"}),
    "v8.1-M.main": frozenset({"v6-M", "v7-M", "v7E-M", "v8-M.base", "v8-M.main", "v8.1-M.main"}),
}
_FLOAT_RANK: Mapping[FloatUnit, int] = {"none": 0, "FPv4-SP": 1, "FPv5-SP": 2, "FPv5-DP": 3}
_FP_ARMV8 = (7, 8)
_SINGLE_PRECISION_ONLY = 1
_MICROCONTROLLER = ord("M")


@dataclass(frozen=True)
class Core:
    """A core, as the debug port or an image describes it.

    Attributes:
        name: for people, such as ``Cortex-M4 (v7E-M, FPv4-SP)``.
        architecture: empty where it is not known.
        float_unit: the floating-point unit.
        vectors: whether it has the vector extension (MVE).
    """

    name: str
    architecture: Architecture | Literal[""]
    float_unit: FloatUnit = "none"
    vectors: bool = False


@dataclass(frozen=True)
class Segment:
    """Bytes of an image and where they are loaded."""

    address: int
    data: bytes = field(repr=False)

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.address + len(self.data)


@dataclass(frozen=True)
class Range:
    """Memory of a part: [start, end)."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"[{self.start:#010x}, {self.end:#010x})"


@dataclass(frozen=True)
class Image:
    """An image, read once.

    Attributes:
        path: the ELF.
        segments: what is loaded, by address; they do not overlap.
        needs: the least core that runs it.
        symbols: name to address of its functions (without the Thumb bit) and variables.
    """

    path: Path
    segments: tuple[Segment, ...]
    needs: Core
    symbols: Mapping[str, int] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes that are loaded."""
        return sum(len(segment.data) for segment in self.segments)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is loaded, hex."""
        return digest_of(segment.data for segment in self.segments)

    def address_of(self, symbol: str) -> int:
        """Address of a function or variable.

        Raises:
            ConfigError: the image has no such symbol.
        """
        if symbol not in self.symbols:
            raise ConfigError(
                f"{self.path} has no symbol {symbol!r}",
                hint="was it stripped, or is it dropped by the linker because nothing refers to it?",
            )
        return self.symbols[symbol]


def digest_of(parts: Iterable[bytes]) -> str:
    """SHA-256 of parts of memory in order, hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def read_image(path: Path) -> Image:
    """Read an ELF image.

    Raises:
        ConfigError: the file cannot be read, is no ELF of a program, or holds nothing to load.
    """
    try:
        with path.open("rb") as stream:
            return _read(path, ELFFile(stream))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name an ELF image") from error
    except (ELFError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(
            f"{path} is no ELF image: {error}",
            hint="the linker's output is needed; a .bin or .hex file does not say what core it is for",
        ) from error


def check_core(image: Image, core: Core) -> None:
    """Refuse an image that was built for a core which this one is not.

    Raises:
        ConfigError: says what the image needs and what the core offers.
    """
    needs = image.needs
    reasons = []
    if core.architecture and needs.architecture not in _RUNS[core.architecture]:
        reasons.append(f"its instructions are {needs.architecture or 'not Arm M-profile'}")
    if _FLOAT_RANK[needs.float_unit] > _FLOAT_RANK[core.float_unit]:
        reasons.append(f"it uses an {needs.float_unit} floating-point unit")
    if needs.vectors and not core.vectors:
        reasons.append("it uses the vector extension (MVE)")
    if reasons:
        raise ConfigError(
            f"{image.path} is for {needs.name}, the board has {core.name}: {', '.join(reasons)}; nothing was written",
            hint="build it for this board, or name the right board in the bench file",
        )


def check_place(image: Image, flash: Sequence[Range], target: str) -> None:
    """Refuse an image that does not lie in flash.

    Args:
        image: the image.
        flash: flash of the part.
        target: pyOCD's name of the part.

    Raises:
        ConfigError: says which part of the image lies where.
    """
    if not flash:
        raise ConfigError(
            f"pyOCD's target {target!r} describes no flash, so nothing can be programmed",
            hint="name the part itself as pyocd_target in the board file, or its CMSIS-Pack as pack in the bench file",
        )
    for segment in image.segments:
        outside = _first_outside(segment, flash)
        if outside is not None:
            raise ConfigError(
                f"{image.path}: {len(segment.data)} bytes at {segment.address:#010x} reach outside the flash of "
                f"{target}, first at {outside:#010x}; its flash is {', '.join(map(str, flash))}; nothing was written",
                hint="build it for this board: its linker script has other addresses, or the image is too large",
            )


def _first_outside(segment: Segment, flash: Sequence[Range]) -> int | None:
    address = segment.address
    while address < segment.end:
        inside = next((one for one in flash if one.start <= address < one.end), None)
        if inside is None:
            return address
        address = inside.end
    return None


def _read(path: Path, elf: ELFFile) -> Image:
    loaded = [one for one in elf.iter_segments() if one["p_type"] == "PT_LOAD" and one["p_filesz"]]
    parts = (Segment(int(one["p_paddr"]), bytes(one.data())) for one in loaded)
    segments = tuple(sorted(parts, key=lambda one: one.address))
    if elf["e_type"] == "ET_REL" or not segments:
        raise ConfigError(f"{path} holds nothing to load", hint="is it an object file? name the linked image")
    for first, second in pairwise(segments):
        if first.end > second.address:
            raise ConfigError(f"{path}: two parts of the image are loaded at {second.address:#010x}")
    return Image(path, segments, _needs(elf), _symbols(elf))


def _symbols(elf: ELFFile) -> Mapping[str, int]:
    table = elf.get_section_by_name(".symtab")
    found: dict[str, int] = {}
    for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
        kind = symbol["st_info"]["type"]
        if kind in ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE") and symbol["st_shndx"] != "SHN_UNDEF" and symbol.name:
            value = int(symbol["st_value"])
            found[symbol.name] = value & ~1 if kind == "STT_FUNC" else value
    return found


def _needs(elf: ELFFile) -> Core:
    machine = str(elf["e_machine"]).removeprefix("EM_")
    if machine != "ARM":
        return Core(f"a core of another make ({machine})", "")
    tags = _attributes(elf)
    number = tags.get("TAG_CPU_ARCH")
    if number is None:
        # An assembler alone may write no attributes; then nothing is known against the image.
        return Core("an Arm core", "v6-M")
    architecture = _ARCHITECTURES.get(number)
    profile = tags.get("TAG_CPU_ARCH_PROFILE", _MICROCONTROLLER)
    if architecture is None or profile != _MICROCONTROLLER:
        return Core(f"an Arm core that is no Cortex-M (Tag_CPU_arch {number})", "")
    unit, vectors = _float_unit(tags), tags.get("TAG_MVE_ARCH", 0) > 0
    extensions = [architecture, *([unit] if unit != "none" else []), *(["MVE"] if vectors else [])]
    return Core(f"a Cortex-M ({', '.join(extensions)})", architecture, unit, vectors)


def _float_unit(tags: Mapping[str, int]) -> FloatUnit:
    version = tags.get("TAG_FP_ARCH", 0)
    if version == 0:
        return "none"
    single = tags.get("TAG_ABI_HARDFP_USE", 0) == _SINGLE_PRECISION_ONLY
    if not single:
        return "FPv5-DP"
    return "FPv5-SP" if version in _FP_ARMV8 else "FPv4-SP"


def _attributes(elf: ELFFile) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for section in elf.iter_sections():
        if not isinstance(section, ARMAttributesSection):
            continue
        for subsection in section.iter_subsections():
            for part in subsection.iter_subsubsections():
                found |= {one.tag: one.value for one in part.iter_attributes() if isinstance(one.value, int)}
    return found
