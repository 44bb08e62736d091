"""Write the bytes of the flash algorithm next to its source."""

from __future__ import annotations

from lab.emulators.probe.flash_algorithm import SOURCE, Code, assemble


def render(code: Code) -> str:
    """The module that holds the bytes."""
    lines = ['"""Made from memory_flash.S by ``python -m lab.emulators.probe.flash_algorithm``."""', ""]
    lines += ["WORDS = ("]
    lines += [f"    0x{word:08X}," for word in code.words]
    lines += [")", "ENTRIES = {"]
    lines += [f'    "{name}": 0x{offset:X},' for name, offset in code.entries.items()]
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    SOURCE.with_name("code.py").write_text(render(assemble()))
