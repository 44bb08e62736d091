"""What a peripheral of an emulated board sees of the rest, and the bus that finds it by its address."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lab.errors import EmulatorError

PAGE_BYTES = 4096


class Peripheral(Protocol):
    """Registers behind addresses. All calls come from the thread that runs the core."""

    def read(self, offset: int, size: int) -> int:
        """Value of a register; ``offset`` and ``size`` in bytes."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""

    def reset(self) -> None:
        """Back to what it is after power-on."""


@dataclass(frozen=True)
class Memory:
    """Memory of a board.

    Attributes:
        name: as in the reference manual.
        address: first address; others of the same bytes in ``aliases``.
        bytes: size, a multiple of 4096.
        flash: whether the guest cannot write it by plain stores, and it keeps its content without supply.
        executable: whether code may run from it.
    """

    name: str
    address: int
    bytes: int
    flash: bool = False
    executable: bool = True
    aliases: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mapped:
    """A peripheral at its address."""

    address: int
    bytes: int
    peripheral: Peripheral


class Clock:
    """The board's time: what the core counts.

    Args:
        instructions: instructions begun so far.
        ns_per_instruction: of boards whose time does not depend on what the firmware sets up.
    """

    def __init__(self, instructions: Callable[[], int], ns_per_instruction: int = 0) -> None:
        self._instructions = instructions
        self._ns = ns_per_instruction
        self._frozen: int | None = None

    @property
    def instructions(self) -> int:
        """Instructions since power-on, one per cycle of the core."""
        return self._instructions() if self._frozen is None else self._frozen

    def ticks(self, frequency_hz: int) -> int:
        """Ticks of a fixed clock since power-on."""
        return self.instructions * self._ns * frequency_hz // 1_000_000_000

    def freeze(self) -> None:
        """Stand still until the next reset, while the core goes on."""
        self._frozen = self._instructions()

    def reset(self) -> None:
        """Go on, as the timers do that the firmware starts anew."""
        self._frozen = None


class Signals(Protocol):
    """Lines from a peripheral to the core."""

    clock: Clock

    def set_interrupt(self, number: int, level: bool) -> None:
        """Drive an interrupt line of the NVIC."""

    def request_reset(self) -> None:
        """Reset the chip."""

    def pend_nmi(self) -> None:
        """Raise the non-maskable interrupt."""


@dataclass
class SerialLine:
    """One UART's two directions; the host side is any thread, the guest side the core's.

    Attributes:
        received: called by the host's thread after bytes came in.
        sent: takes what the guest sends.
    """

    received: Callable[[], None] = lambda: None
    sent: Callable[[bytes], None] = lambda data: None
    waiting: deque[int] = field(default_factory=deque)

    def arrive(self, data: bytes) -> None:
        """Bytes from the host."""
        self.waiting.extend(data)
        self.received()


class Storage:
    """A peripheral that only remembers what was written, for registers that have no effect here.

    Args:
        values: registers that read otherwise than 0 after reset.
    """

    def __init__(self, values: dict[int, int] | None = None) -> None:
        self._initial = dict(values or {})
        self.values = dict(self._initial)

    def read(self, offset: int, size: int) -> int:
        """What was written last."""
        word = self.values.get(offset & ~3, 0)
        return word >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Remember."""
        self.values[offset & ~3] = merged(self.values.get(offset & ~3, 0), offset & 3, size, value)

    def reset(self) -> None:
        """Forget."""
        self.values = dict(self._initial)


def merged(word: int, offset: int, size: int, value: int) -> int:
    """A word with ``size`` bytes from ``offset`` on replaced."""
    mask = ((1 << 8 * size) - 1) << 8 * offset
    return word & ~mask | value << 8 * offset & mask


class Bus:
    """Finds the peripheral at an address."""

    def __init__(self, board: str, peripherals: Sequence[Mapped]) -> None:
        self._board = board
        self._peripherals = tuple(peripherals)
        self._pages: dict[int, list[Mapped]] = {}
        for mapped in peripherals:
            last = mapped.address + mapped.bytes - 1
            for page in range(mapped.address // PAGE_BYTES, last // PAGE_BYTES + 1):
                self._pages.setdefault(page * PAGE_BYTES, []).append(mapped)

    @property
    def pages(self) -> tuple[int, ...]:
        """Addresses of the pages that have a peripheral."""
        return tuple(sorted(self._pages))

    def at(self, address: int) -> Mapped:
        """The peripheral at an address.

        Raises:
            EmulatorError: none is modelled there.
        """
        for mapped in self._pages.get(address & ~(PAGE_BYTES - 1), ()):
            if mapped.address <= address < mapped.address + mapped.bytes:
                return mapped
        raise EmulatorError(
            f"{self._board}: the firmware uses {address:#010x}, where Unicorn's model of the board has no register",
            hint="add it to lab/emulators/unicorn, or run the board in another emulator",
        )

    def reset(self) -> None:
        """Reset every peripheral."""
        for mapped in self._peripherals:
            mapped.peripheral.reset()


def require(holds: object, rule: str) -> None:
    """Hold the firmware to what a data sheet asks for.

    Raises:
        EmulatorError: the rule is broken.
    """
    if not holds:
        raise EmulatorError(rule, hint="on silicon this would hang, run wrongly or do damage")
