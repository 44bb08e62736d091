"""What went wrong at a debug probe, in words that say who has to do what."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal, TypeAlias

from pyocd.core import exceptions as pyocd_errors
from pyocd.target import TARGET

from lab.errors import ConfigError, LabError, ProbeError
from lab.transports.swd_settings import SwdSettings

FlashUse: TypeAlias = Literal["", "read", "write"]
CONNECTING = "connecting"
_NEAR = 5
_HALF = "; flash is half written now: deploy again"


def explain(error: pyocd_errors.Error, doing: str, settings: SwdSettings, flash: FlashUse = "") -> LabError:
    """An error of the lab for one of pyOCD's.

    Args:
        error: pyOCD's.
        doing: what was being done, such as ``reading registers``.
        settings: how the board is reached.
        flash: flash was being read, or written, so that it now holds half an image.
    """
    where = f"{settings.target} behind probe {settings.unique_id}"
    half = _HALF if flash == "write" else ""
    wipe = f"`pyocd erase --mass -u {settings.unique_id} -t {settings.target}` wipes the part and unlocks it"
    cause = error.__cause__ if isinstance(error.__cause__, pyocd_errors.Error) else error
    locked = f"it is locked or protected: {wipe}, where the part allows that; STM32 option bytes: the maker's tool"
    if isinstance(cause, pyocd_errors.FlashFailure):
        return ProbeError(f"{where}: flash refuses to be written: {cause}", hint=locked)
    if isinstance(cause, pyocd_errors.TransferFaultError) and flash == "read":
        return ProbeError(f"{where}: flash refuses to be read: {cause}", hint=locked)
    if isinstance(cause, pyocd_errors.TransferFaultError):
        return ProbeError(f"{where}: nothing answers while {doing}: {cause}{half}", transient=flash == "write")
    if isinstance(cause, pyocd_errors.TransferError):
        return ProbeError(
            f"{where} does not answer while {doing}: {cause}{half}",
            hint="is the board powered? are SWDIO, SWCLK and GND connected? try under_reset: true, a lower frequency",
            transient=True,
        )
    if isinstance(cause, pyocd_errors.ProbeError):
        return lost(cause, doing, settings, flash)
    if isinstance(cause, pyocd_errors.DebugError) and doing == CONNECTING:
        return ProbeError(
            f"{where}: its debug port answers, but no core can be reached: {cause}",
            hint=f"the part is locked against reading, asleep or held in reset: try under_reset: true; {wipe}",
        )
    return ProbeError(f"{where}: pyOCD failed while {doing}: {error}{half}", transient=True)


def lost(error: Exception, doing: str, settings: SwdSettings, flash: FlashUse = "") -> ProbeError:
    """The error for a probe that does not answer any more; arguments as of :func:`explain`."""
    return ProbeError(
        f"probe {settings.unique_id} was lost while {doing}: {error}{_HALF if flash == 'write' else ''}",
        hint="was its cable pulled, or does another program use it? `pyocd list` shows what is attached",
        transient=True,
    )


def unknown_target(settings: SwdSettings, error: pyocd_errors.Error) -> ConfigError:
    """The error for a target that pyOCD does not know; suggests those with a like name."""
    near = difflib.get_close_matches(settings.target.lower(), sorted(TARGET), n=_NEAR, cutoff=0.5)
    guess = f"; like it are {', '.join(near)}" if near else ""
    pack = f" nor does {settings.pack}" if settings.pack is not None else ""
    return ConfigError(
        f"pyOCD knows no target {settings.target!r}{pack}{guess} ({len(TARGET)} in all)",
        hint="`pyocd list --targets` lists them; a part that is not among them needs its CMSIS-Pack, `pack:` under "
        "`swd:` in the bench file",
    )


def no_probe(settings: SwdSettings, attached: Sequence[tuple[str, str]], found: int) -> ProbeError:
    """The error for a unique id that not exactly one probe has."""
    listed = ", ".join(f"{unique_id} ({name})" for unique_id, name in attached) or "none"
    if found:
        return ProbeError(
            f"{found} probes call themselves {settings.unique_id}; attached: {listed}",
            hint="unplug all but one of them, or give one another serial number: cloned probes often share theirs",
        )
    return ProbeError(
        f"no debug probe {settings.unique_id} is attached; attached: {listed}",
        hint="plug it in, or correct unique_id in the bench file; new probes need a udev rule (`lab doctor`)",
        transient=True,
    )


def in_use(settings: SwdSettings) -> ProbeError:
    """The error for a probe that this process has open already."""
    return ProbeError(f"probe {settings.unique_id} is in use in this process already", transient=True)
