"""What a device can do, as small protocols; a device class implements those that make sense for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from lab.artifact import Artifact
from lab.environment.log import EnvironmentLog
from lab.events import Event, Hello, Job
from lab.power.base import Meter
from measurements.environment import MemoryFigure

Source = Literal["hardware", "emulated"]
ResetKind = Literal["soft", "power"]
Rung = Literal["resync", "soft-reset", "restart", "re-deploy", "reconnect", "reboot", "power-cycle"]
PowerAction = Literal["on", "off", "cycle"]


@dataclass(frozen=True)
class Identity:
    """What a device is.

    Attributes:
        name: its name in the bench file.
        board: the board its firmware is built for.
        source: where its figures come from.
        emulator: emulator and version, empty on hardware.
        capabilities: what tests may ask for: ``counts`` (exact loads and stores), ``meter``, and the board's features.
        remote: reached through a network, so that figures timed by this host's clock are refused.
    """

    name: str
    board: str
    source: Source
    emulator: str
    capabilities: frozenset[str]
    remote: bool = False


CLASSES = ("multiplies", "divides", "branches", "floats")
"""Classes of instructions in :class:`RegionCount`."""


@dataclass(frozen=True)
class RegionCount:
    """Exact counts of an emulator for one pass through a region or a layer.

    Attributes:
        region, index: which pass.
        instructions, loads, stores: how many.
        multiplies, divides, branches, floats: instructions of these classes (``lab/emulators/instruction_class.h``).
    """

    region: str
    index: int
    instructions: int
    loads: int
    stores: int
    multiplies: int = 0
    divides: int = 0
    branches: int = 0
    floats: int = 0


class Deployable(Protocol):
    """A device that images can be put on."""

    def deploy(self, artifact: Artifact) -> Hello:
        """Put an image on the device, start it and return what it says of itself."""


class Runnable(Protocol):
    """A device that runs jobs."""

    def run(self, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        """Give the device the job's samples and run it; yields events, ``Done`` last."""


class Resettable(Protocol):
    """A device that can be reset and brought back."""

    def reset(self, kind: ResetKind) -> Hello:
        """Reset the device and open a new session with the same firmware."""

    def recover(self) -> Rung:
        """Bring the device back after a failure; says which rung of the ladder worked."""


@runtime_checkable
class Powered(Protocol):
    """A device whose supply can be switched."""

    def power(self, action: PowerAction) -> None:
        """Switch the supply and make sure that the device went or came; deploy again afterwards.

        Raises:
            ConfigError: it has no power switch.
            InfrastructureError: the switch failed, or did not do what it says.
        """


@runtime_checkable
class Counting(Protocol):
    """A device whose instructions, loads and stores can be counted exactly (an emulator with a counting plug-in)."""

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Run the job once more, slowly, and count. Uses an instance of its own."""


@runtime_checkable
class Environed(Protocol):
    """A device whose operating system is set up for measurements, and observed meanwhile."""

    def measuring(self) -> AbstractContextManager[EnvironmentLog]:
        """Set the device up; restored when the context ends, whatever happened in it.

        Raises:
            ConfigError: something that was asked for cannot be set on this device.
            InfrastructureError: it did not cool down, or too much else runs on it.
        """


@runtime_checkable
class MemoryWatched(Protocol):
    """A device whose runner is a process with a memory use of its own."""

    def process_memory(self) -> list[MemoryFigure]:
        """What the running process and the GPU it uses have used at most since they were started."""


@runtime_checkable
class InstructionCounting(Protocol):
    """A device whose kernel counts the instructions of its runner."""

    def instructions(self, job: Job) -> Mapping[str, int]:
        """Instructions of one pass over the job's first sample, by region; empty where the kernel does not count.

        For a training job its regions are counted, with one more step; those of the kernel are not among them.
        """


@runtime_checkable
class Evident(Protocol):
    """A device, or the way to one, that has something to show after a failure."""

    def evidence(self) -> Mapping[str, str]:
        """The last that was seen of it, by where: ``console``, ``probe`` …; printable lines, never an error."""


class Device(Deployable, Runnable, Resettable, Protocol):
    """What every device class offers."""

    identity: Identity

    def meter(self) -> Meter | None:
        """The device's power meter, not yet opened; None where it is not metered."""

    def close(self) -> None:
        """Let go of the device; safe to call twice."""
