"""What QEMU boots, as ELF files: these it maps and copies into the guest, anything else it first reads.

A kernel and an initial file system given as they are cost each boot, and each start from a saved state, their sizes
once or twice more in memory that is touched once. QEMU takes an ELF file for no Linux, though, so that this hands over
what it would (kernel: Documentation/arm64/booting.rst): first instructions that put the device tree's address into
``x0``, and in the tree where the initial file system lies.
"""

from __future__ import annotations

import struct

from lab.errors import EmulatorError

RAM = 0x4000_0000
"""Where the memory of QEMU's machine ``virt`` begins, and QEMU puts the device tree (hw/arm/virt.c)."""
_KERNEL = RAM + (2 << 20)
_PAGE = 4096
_START = _KERNEL - _PAGE
_INITRAMFS_AT_MOST = 128 << 20

# Of an Image: where in 2 MiB it wants to lie, its size with the memory it needs behind it, and the magic number.
_IMAGE = struct.Struct("<8xQQ32x4s")
_ARM64 = b"ARM\x64"
# movz x0, #RAM, lsl 16; movz x4, #_KERNEL, lsl 16; br x4 (Arm ARM, C6.2). All other registers are 0 after a reset.
_FIRST = struct.pack("<3I", 0xD2A00000 | RAM >> 16 << 5, 0xD2A00004 | _KERNEL >> 16 << 5, 0xD61F0080)

# ELF header and program header (System V ABI, chapters 4 and 5): 64-bit, little-endian, executable, AArch64.
_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01\x01"


def kernel_elf(kernel: bytes) -> bytes:
    """A kernel for QEMU's ``-kernel``.

    Args:
        kernel: an arm64 ``Image``, not compressed.

    Raises:
        EmulatorError: it is something else, or wants to lie where this does not put it.
    """
    offset, size, magic = _IMAGE.unpack_from(kernel.ljust(_IMAGE.size, b"\0"))
    if magic != _ARM64 or offset:
        raise EmulatorError("the kernel in the Debian packages is no arm64 Image to be put at the begin of 2 MiB")
    head = _headers(_START, [(_START, len(_FIRST), len(_FIRST)), (_KERNEL, len(kernel), max(size, len(kernel)))])
    return head + _FIRST.ljust(_PAGE, b"\0") + kernel


def initramfs_address(size_bytes: int, memory_bytes: int, kernel: bytes) -> int:
    """Where the initial file system lies: in the middle of the memory, behind the kernel, as QEMU itself would put it.

    Args:
        size_bytes: how long it is.
        memory_bytes: the guest's memory.
        kernel: the begin of what :func:`kernel_elf` made, a page at least.

    Raises:
        EmulatorError: one of the two does not fit into its half.
    """
    begin = min(memory_bytes // 2, _INITRAMFS_AT_MOST) // _PAGE * _PAGE
    *_, needed_bytes, _ = _SEGMENT.unpack_from(kernel, _ELF.size + _SEGMENT.size)
    if begin + size_bytes > memory_bytes or _KERNEL + needed_bytes > RAM + begin:
        raise EmulatorError(
            f"a kernel of {needed_bytes} bytes and an initial file system of {size_bytes} bytes do not fit into a half "
            f"each of the guest's {memory_bytes} bytes",
            hint="give the board's emulator: more memory_bytes",
        )
    return RAM + begin


def initramfs_head(address: int, size_bytes: int) -> bytes:
    """What stands before an initial file system in a file for QEMU's ``-device loader``."""
    return _headers(address, [(address, size_bytes, size_bytes)])


def _headers(entry: int, segments: list[tuple[int, int, int]]) -> bytes:
    """A page of headers; segments of address, size in the file and in memory, each from a page of its own on."""
    executable, aarch64, version, load, all_rights = 2, 183, 1, 1, 7
    parts = [
        _ELF.pack(
            _IDENT, executable, aarch64, version, entry, _ELF.size, 0, 0, _ELF.size, _SEGMENT.size, len(segments),
            0, 0, 0,
        )
    ]  # fmt: skip
    at = _PAGE
    for address, size_bytes, memory_bytes in segments:
        parts.append(_SEGMENT.pack(load, all_rights, at, address, address, size_bytes, memory_bytes, _PAGE))
        at += size_bytes + -size_bytes % _PAGE
    return b"".join(parts).ljust(_PAGE, b"\0")
