"""What a device can do, as small protocols; a device class implements those that make sense for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from lab.artifact import Artifact
from lab.events import Event, Hello, Job
from lab.power.base import Meter

Source = Literal["hardware", "emulated"]
ResetKind = Literal["soft", "power"]
Rung = Literal["resync", "soft-reset", "re-deploy"]


@dataclass(frozen=True)
class Identity:
    """What a device is.

    Attributes:
        name: its name in the bench file.
        board: the board its firmware is built for.
        source: where its figures come from.
        emulator: emulator and version, empty on hardware.
        capabilities: what tests may ask for: ``counts`` (exact loads and stores), ``meter``, and the board's features.
    """

    name: str
    board: str
    source: Source
    emulator: str
    capabilities: frozenset[str]


@dataclass(frozen=True)
class RegionCount:
    """Exact counts of an emulator for one pass through a region or a layer."""

    region: str
    index: int
    instructions: int
    loads: int
    stores: int


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
class Counting(Protocol):
    """A device whose instructions, loads and stores can be counted exactly (an emulator with a counting plug-in)."""

    def count(self, artifact: Artifact, job: Job) -> list[RegionCount]:
        """Run the job once more, slowly, and count. Uses an instance of its own."""


class Device(Deployable, Runnable, Resettable, Protocol):
    """What every device class offers."""

    identity: Identity

    def meter(self) -> Meter | None:
        """The device's power meter, not yet opened; None where it is not metered."""

    def close(self) -> None:
        """Let go of the device; safe to call twice."""
