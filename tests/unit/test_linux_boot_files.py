"""What QEMU boots: ELF files as pyelftools reads them, and a device tree that tells of the initial file system."""

import io

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from lab.emulators.linux.board_tree import with_initramfs
from lab.emulators.linux.boot_files import RAM, initramfs_address, initramfs_head, kernel_elf
from lab.emulators.linux.device_tree import DeviceTree, Node, parse, serialize
from lab.errors import EmulatorError

MIB = 1 << 20


def image(*, offset: int = 0, size: int = 0, magic: bytes = b"ARM\x64", code: bytes = b"code") -> bytes:
    """A kernel with the header of Documentation/arm64/booting.rst."""
    words = [offset, size, 0, 0, 0, 0]
    return bytes(8) + b"".join(word.to_bytes(8, "little") for word in words) + magic + bytes(4) + code


def segments(elf: bytes) -> list[tuple[int, int, bytes]]:
    """Address, size in memory and content of each part."""
    parts = ELFFile(io.BytesIO(elf)).iter_segments("PT_LOAD")
    return [(part["p_paddr"], part["p_memsz"], part.data()) for part in parts]


@given(st.binary(max_size=9000), st.integers(0, 64 * MIB))
def test_a_kernel_lies_at_the_begin_of_two_mebibytes_and_is_jumped_to(code: bytes, size: int) -> None:
    kernel = image(size=size, code=code)
    elf = kernel_elf(kernel)
    header = ELFFile(io.BytesIO(elf)).header
    assert (header["e_machine"], header["e_type"]) == ("EM_AARCH64", "ET_EXEC")
    (start, _, first), (address, memory, content) = segments(elf)
    assert content == kernel
    assert address % (2 * MIB) == 0
    # What it needs behind itself is its own too, so that QEMU says when something else lies there.
    assert memory == max(size, len(kernel))
    # Between the device tree, which QEMU puts first, and the kernel.
    assert header["e_entry"] == start
    assert RAM + MIB < start < start + len(first) <= address


@pytest.mark.parametrize("kernel", [b"", b"kernel", image(magic=b"zimg"), image(offset=0x80000)])
def test_another_kind_of_kernel_is_refused(kernel: bytes) -> None:
    with pytest.raises(EmulatorError, match="no arm64 Image"):
        kernel_elf(kernel)


@given(st.binary(max_size=9000), st.integers(5, 8192))
def test_an_initial_file_system_lies_in_the_middle_of_the_memory(data: bytes, memory_mib: int) -> None:
    address = initramfs_address(len(data), memory_mib * MIB, kernel_elf(image(size=MIB // 4)))
    assert segments(initramfs_head(address, len(data)) + data) == [(address, len(data), data)]
    assert address == RAM + min(memory_mib * MIB // 2, 128 * MIB)


def test_memory_that_is_too_small_is_refused() -> None:
    fits, too_large = (kernel_elf(image(size=size)) for size in (14 * MIB, 14 * MIB + 1))
    assert initramfs_address(16 * MIB, 32 * MIB, fits) == RAM + 16 * MIB
    for size, kernel in ((16 * MIB + 1, fits), (16 * MIB, too_large)):
        with pytest.raises(EmulatorError, match="do not fit") as caught:
            initramfs_address(size, 32 * MIB, kernel)
        assert "memory_bytes" in str(caught.value.hint)


def test_the_tree_says_where_the_initial_file_system_lies() -> None:
    root = Node("", {}, [Node("chosen", {"stdout-path": b"/uart\0"}), Node("cpus")])
    blob = serialize(DeviceTree(root, bytes(16), 0))
    found = parse(with_initramfs(blob, 0x4800_0000, 0x123)).root
    assert found.child("chosen").properties == {
        "stdout-path": b"/uart\0",
        "linux,initrd-start": (0x4800_0000).to_bytes(8),
        "linux,initrd-end": (0x4800_0123).to_bytes(8),
    }
    assert found.child("cpus") == Node("cpus")
    with pytest.raises(EmulatorError, match="no node chosen"):
        with_initramfs(serialize(DeviceTree(Node("", {}, []), bytes(16), 0)), 0, 0)
