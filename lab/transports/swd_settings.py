"""How a debug probe is reached, and opening it: what can be imported where pyOCD is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from lab.errors import ProbeError, ToolMissing

if TYPE_CHECKING:
    from lab.transports.swd import Swd

ResetKind: TypeAlias = Literal["system", "core", "pin", "emulated"]
RESET_KINDS: tuple[ResetKind, ...] = ("system", "core", "pin", "emulated")
Connect: TypeAlias = Literal["halt", "attach", "under-reset"]


@dataclass(frozen=True)
class SwdSettings:
    """How a board is reached over SWD.

    Attributes:
        unique_id: serial number of the probe, as ``pyocd list`` shows it.
        target: pyOCD's name of the part, such as ``nrf51``.
        pack: CMSIS-Pack that describes the part, where pyOCD does not know it by itself.
        frequency_hz: rate of SWCLK.
        under_reset: hold the reset pin while connecting, for firmware that turns the debug pins off.
    """

    unique_id: str
    target: str
    pack: Path | None = None
    frequency_hz: int = 4_000_000
    under_reset: bool = False


def missing_pyocd() -> str:
    """How to get pyOCD; empty where it is installed. Takes no time."""
    return "" if importlib.util.find_spec("pyocd") is not None else "pip install 'hil-lab[swd]'"


def list_probes() -> Mapping[str, str]:
    """Debug probes that are attached, and virtual ones: unique id to description. Nothing where pyOCD is missing.

    Raises:
        ProbeError: pyOCD cannot list them.
    """
    if missing_pyocd():
        return {}
    from pyocd.core.exceptions import Error
    from pyocd.core.helpers import ConnectHelper

    try:
        probes = ConnectHelper.get_all_connected_probes(blocking=False, print_wait_message=False)
    except (Error, OSError) as error:
        raise ProbeError(f"pyOCD cannot list the debug probes: {error}", hint="a probe needs a udev rule") from error
    return {one.unique_id: one.description for one in probes}


def open_swd(settings: SwdSettings, connect: Connect = "halt") -> Swd:
    """Open a session with a board; the caller closes it.

    Args:
        settings: how it is reached.
        connect: ``halt`` stops the core; ``attach`` disturbs nothing; ``under-reset`` holds the reset pin meanwhile.

    Raises:
        ToolMissing: pyOCD is not installed.
        ConfigError: pyOCD knows no such target.
        ProbeError: there is not exactly one such probe, it is in use, or the board behind it does not answer.
    """
    remedy = missing_pyocd()
    if remedy:
        raise ToolMissing("pyOCD is not installed; a board with a debug probe needs it", hint=remedy)
    from lab.transports.swd import Swd

    return Swd(settings, "under-reset" if settings.under_reset and connect == "halt" else connect)
