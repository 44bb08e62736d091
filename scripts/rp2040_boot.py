"""Makes ``boot.h`` of ``firmware/boards/rpi-pico/boot.S``: assembles it, pads it, adds the CRC the boot ROM checks.

    python scripts/rp2040_boot.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "firmware" / "boards" / "rpi-pico"
CODE_BYTES = 252
WORDS_PER_LINE = 6

_HEAD = """\
/* Made by scripts/rp2040_boot.py of boot.S; the last word is the CRC-32 (polynomial 0x04C11DB7, not reflected, begun
 * with ones, RP2040 data sheet 2.8.1.3.1) without which the boot ROM does not run it. */
#ifndef LAB_RPI_PICO_BOOT_H
#define LAB_RPI_PICO_BOOT_H

#include <stdint.h>

__attribute__((section(".boot"), used)) static const uint32_t boot[64] = {
"""


def crc32_msb_first(data: bytes) -> int:
    """CRC-32 as the RP2040's boot ROM computes it (known as CRC-32/MPEG-2)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7) & 0xFFFFFFFF if crc >> 31 else crc << 1
    return crc


def assembled(source: Path) -> bytes:
    """The machine code of ``source``.

    Raises:
        subprocess.CalledProcessError: the assembler refuses it.
    """
    with tempfile.TemporaryDirectory() as folder:
        linked, plain = Path(folder) / "boot.elf", Path(folder) / "boot.bin"
        flags = ["-nostdlib", "-Wl,-Ttext=0", "-Wl,--entry=0"]
        subprocess.run(["arm-none-eabi-gcc", *flags, "-o", linked, source], check=True)
        subprocess.run(["arm-none-eabi-objcopy", "-O", "binary", linked, plain], check=True)
        return plain.read_bytes()


def header(code: bytes) -> str:
    """``boot.h`` for that machine code.

    Raises:
        ValueError: it is longer than the boot ROM takes.
    """
    if len(code) > CODE_BYTES:
        raise ValueError(f"the boot block has {len(code)} bytes of code; the boot ROM takes {CODE_BYTES}")
    padded = code.ljust(CODE_BYTES, b"\0")
    block = padded + crc32_msb_first(padded).to_bytes(4, "little")
    words = [f"0x{int.from_bytes(block[i : i + 4], 'little'):08X}u," for i in range(0, len(block), 4)]
    lines = [" ".join(words[i : i + WORDS_PER_LINE]) for i in range(0, len(words), WORDS_PER_LINE)]
    return _HEAD + "".join(f"    {line}\n" for line in lines) + "};\n\n#endif\n"


def main() -> int:
    """Write ``boot.h``."""
    (FOLDER / "boot.h").write_text(header(assembled(FOLDER / "boot.S")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
