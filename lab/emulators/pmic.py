"""A program that answers ``vcgencmd pmic_read_adc`` as a Raspberry Pi 5 does, with the same reading each time.

Rails with both a current and a voltage, whose powers add up to the load's; the input, of which there is a voltage only;
and the clock's battery. Decimals as the firmware prints them: eight of a current, eight of a voltage.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lab.emulators.load import Load

RAILS = ("3V7_WL_SW", "3V3_SYS", "1V8_SYS", "DDR_VDD2", "VDD_CORE")
_RAIL_V = (3.7, 3.3, 1.8, 1.1, 0.85)
_NO_CHIP = "error=1 error_msg=\"Command not registered\""


def reading(load: Load, rails: Sequence[str] = RAILS) -> str:
    """What is printed: each rail has as much of the load's power, that of its first second, as any other.

    Args:
        load: what the board takes.
        rails: names of the rails that have a current.
    """
    power_w = load.truth(0.0, 1.0).mean_power_w / len(rails)
    volts = [_RAIL_V[k % len(_RAIL_V)] for k in range(len(rails))]
    lines = [f"{name:>12}_A current({k})={power_w / volts[k]:.8f}A" for k, name in enumerate(rails)]
    lines += [f"{name:>12}_V volt({8 + k})={volts[k]:.8f}V" for k, name in enumerate(rails)]
    return "\n".join([*lines, "     EXT5V_V volt(24)=5.10500000V", "      BATT_V volt(25)=0.00683742V"])


def write_program(folder: Path, load: Load | None, rails: Sequence[str] = RAILS) -> Path:
    """A program ``vcgencmd`` in a folder; its path.

    Args:
        folder: takes it.
        load: what the board takes; None of a board that has no such chip.
        rails: as for :func:`reading`.
    """
    program = folder / "vcgencmd"
    text = _NO_CHIP if load is None else reading(load, rails)
    program.write_text(f'#!/bin/sh\n[ "$1" = pmic_read_adc ] || exit 255\necho {shlex.quote(text)}\n')
    program.chmod(0o755)
    return program
