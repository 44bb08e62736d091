"""Faults of the link between a program and an emulated board, set while the board runs.

They lie in a file beside the board's entry in the registry, so a test can fault the link of a pyOCD that runs in
another process. The probe looks at the file before every packet; without a file the link is sound.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, cast

from lab.filelock import wait_for_lock

TransferFaultKind: TypeAlias = Literal["no-ack", "wait", "fault", "unplug"]
FlashLock: TypeAlias = Literal["open", "refuse", "drop"]

ALWAYS = -1


@dataclass(frozen=True)
class TransferFault:
    """A transfer that goes wrong.

    Attributes:
        kind: what the target answers: nothing (``no-ack``), ``wait`` or ``fault``; ``unplug`` is the probe's own cable.
        times: how often; :data:`ALWAYS` for ever.
        after_transfers: so many transfers that would have been hit pass first.
        address: first address of the memory whose accesses are hit; -1 for any transfer.
        size: bytes from ``address``.
    """

    kind: TransferFaultKind
    times: int = 1
    after_transfers: int = 0
    address: int = -1
    size: int = 4

    def hits(self, address: int, size: int) -> bool:
        """Whether an access to ``size`` bytes at ``address`` (-1: not a memory access) is one of those meant."""
        if self.address < 0:
            return True
        return address < self.address + self.size and self.address < address + size and address >= 0


@dataclass(frozen=True)
class BitFlip:
    """A bit that reads back inverted: bit 0–7 of the byte at ``address``."""

    address: int
    bit: int


@dataclass(frozen=True)
class LinkState:
    """Everything that is wrong with a link.

    Attributes:
        transfers: transfers that will go wrong, first match counts.
        flips: bits that read back inverted.
        delay_s: every packet takes so much longer.
        flash: what the flash does with a request to erase or program: do it, refuse it with an error, or ``drop`` it
            and say that it was done.
        unplugged: the probe is gone.
    """

    transfers: tuple[TransferFault, ...] = ()
    flips: tuple[BitFlip, ...] = ()
    delay_s: float = 0.0
    flash: FlashLock = "open"
    unplugged: bool = False


SOUND = LinkState()


class LinkFaults:
    """Sets the faults of one board's link; each call adds to what is set already.

    Args:
        path: the file they lie in, :attr:`lab.emulators.probe.registry.Listed.faults_path`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def no_ack(self, times: int = 1, *, after_transfers: int = 0) -> None:
        """The target does not answer: broken wire, no power, debug port locked."""
        self._add(TransferFault("no-ack", times, after_transfers))

    def wait(self, times: int = 1, *, after_transfers: int = 0, address: int = -1, size: int = 4) -> None:
        """The target answers WAIT until the probe's retries are spent."""
        self._add(TransferFault("wait", times, after_transfers, address, size))

    def fault(self, times: int = 1, *, after_transfers: int = 0, address: int = -1, size: int = 4) -> None:
        """The target answers FAULT."""
        self._add(TransferFault("fault", times, after_transfers, address, size))

    def unplug(self, *, after_transfers: int = 0) -> None:
        """The probe is unplugged: reads and writes fail, and it vanishes from the list until :meth:`clear`."""
        if after_transfers:
            self._add(TransferFault("unplug", 1, after_transfers))
        else:
            change(self._path, lambda state: replace(state, unplugged=True))

    def slow(self, delay_s: float) -> None:
        """Every packet takes ``delay_s`` longer."""
        change(self._path, lambda state: replace(state, delay_s=delay_s))

    def flip_bit(self, address: int, bit: int) -> None:
        """Bit 0–7 of the byte at ``address`` reads back inverted."""
        flip = BitFlip(address, bit)
        change(self._path, lambda state: replace(state, flips=(*state.flips, flip)))

    def lock_flash(self, how: Literal["refuse", "drop"] = "refuse") -> None:
        """Flash does not change any more: requests are refused with an error, or said to be done and dropped."""
        change(self._path, lambda state: replace(state, flash=how))

    def clear(self) -> None:
        """The link is sound, the probe plugged in, the flash open."""
        change(self._path, lambda _: SOUND)

    @property
    def state(self) -> LinkState:
        """What is set now; ``times`` counts down as faults happen."""
        return read_state(self._path)

    def _add(self, fault: TransferFault) -> None:
        change(self._path, lambda state: replace(state, transfers=(*state.transfers, fault)))


def read_state(path: Path) -> LinkState:
    """The faults set in a file; none when there is no file."""
    # Asked before every packet: to open what is not there takes twenty times as long.
    if not os.access(path, os.F_OK):
        return SOUND
    try:
        document = cast(dict[str, object], json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return SOUND
    transfers = cast(list[dict[str, int]], document.pop("transfers"))
    flips = cast(list[dict[str, int]], document.pop("flips"))
    return LinkState(
        tuple(TransferFault(**one) for one in transfers),  # type: ignore[arg-type]
        tuple(BitFlip(**one) for one in flips),
        **document,  # type: ignore[arg-type]
    )


def change(path: Path, how: Callable[[LinkState], LinkState]) -> None:
    """Replace the faults in a file by what ``how`` makes of them, safe against others that do the same."""
    with _only_writer(path.parent):
        state = how(read_state(path))
        if state == SOUND:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        temporary = path.with_suffix(".faults-new")
        temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
        temporary.replace(path)


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        wait_for_lock(descriptor)
        yield
    finally:
        os.close(descriptor)
