"""What a running device tells: plain data, the same for every transport and device class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ClockKind = Literal["dwt", "systick", "cntvct", "monotonic", "virtual", "guest"]


@dataclass(frozen=True)
class Hello:
    """What a device says of itself when a session opens.

    Attributes:
        protocol: version of the wire protocol.
        build_id: first 16 hex digits of the content digest the firmware was built from.
        board: board kind, a file name in ``device_configs/boards``.
        clock: kind of the cycle counter; ``virtual`` counts instructions of an emulator, ``guest`` is the clock of an
            emulated operating system, in nanoseconds of a time that advances with its instructions (set by the lab).
        clock_hz: rate of the cycle counter, Hz.
        mtu: largest CBOR payload the device accepts, bytes.
        credits: frames that may be in flight to the device without an acknowledgement.
        blob_address: where a blob may be placed through a memory port; 0 where there is none.
        blob_bytes: room for blobs, bytes.
        arena_bytes: size of the model's arena, bytes.
        stack_bytes: size of the stack, bytes.
        model: name of the linked model.
        baud_rates: bits per second its UART can be switched to, the first of them after a reset; none where it cannot.
    """

    protocol: int
    build_id: str
    board: str
    clock: ClockKind
    clock_hz: int
    mtu: int
    credits: int
    blob_address: int
    blob_bytes: int
    arena_bytes: int
    stack_bytes: int
    model: str
    baud_rates: tuple[int, ...] = ()


@dataclass(frozen=True)
class RegionEvent:
    """One pass through a region, or as many as ran in it one after another (``Job.window``).

    ``begin`` and ``end`` are cycle counts of the device's clock since boot, ``passes`` the device's own count of them.
    """

    region: str
    index: int
    begin: int
    end: int
    passes: int = 1

    @property
    def cycles(self) -> int:
        """Cycles between the edges."""
        return self.end - self.begin


@dataclass(frozen=True)
class MetricEvent:
    """A named number the runner reports."""

    name: str
    value: float


@dataclass(frozen=True)
class ResultEvent:
    """The raw bytes of one result tensor; ``name`` where the job names its results, else empty."""

    index: int
    data: bytes
    name: str = ""


@dataclass(frozen=True)
class LogEvent:
    """A line of text from the firmware."""

    message: str


@dataclass(frozen=True)
class Done:
    """End of a job.

    Attributes:
        stack_high_water: most stack bytes ever used since boot (painted).
        arena_high_water: most arena bytes ever touched by the job (painted).
        cycles: cycles from acceptance of the job to its end.
        events: how many region events the job sent.
        results: how many results the job sent.
    """

    stack_high_water: int
    arena_high_water: int
    cycles: int
    events: int
    results: int


Event = Hello | RegionEvent | MetricEvent | ResultEvent | LogEvent | Done


@dataclass(frozen=True)
class Job:
    """One job of the runner.

    Attributes:
        name: the runner's job table entry (``infer``).
        blob: the input samples, back to back, as the model's input bytes; empty where the job takes none.
        count: samples in the blob.
        warmup: passes over sample 0 before anything is reported.
        repeats: timed passes over each sample.
        profile: also report every layer as region ``layer`` (``train.layer`` of training) with the layer's number as
            index.
        quiet_us: quiet time before the first and after the last region, microseconds of the device's clock.
        marker_line: whether an emulated board reports marker edges on its second UART; without a meter nobody needs
            them. A marker pin is driven either way.
        window: passes (``infer``: inferences, ``train``: steps) that share one region and one pulse of the marker, with
            nothing sent in between; each of the ``repeats`` windows begins with sample 0. 0: each pass is a region.
        sleep: whether the core sleeps in the quiet, where its board can; it then reports the quiet as region ``idle``.
        silent_s: how long the job itself lets nothing be heard, seconds: a long window.
        parameters: further parameters of the job.
        blobs: further blobs by name.
    """

    name: str
    blob: bytes = field(repr=False)
    count: int
    warmup: int = 1
    repeats: int = 1
    profile: bool = False
    quiet_us: int = 2000
    marker_line: bool = True
    window: int = 0
    sleep: bool = False
    silent_s: float = 0.0
    parameters: Mapping[str, int | float] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def all_blobs(self) -> dict[str, bytes]:
        """Every blob the job needs on the device, by name."""
        return {"samples": self.blob, **self.blobs}
