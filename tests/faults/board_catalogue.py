"""Faults of microcontrollers, debug probes, power meters and images."""

from __future__ import annotations

from faults.fault import BY_HAND, NONE_NEEDED, Fault

from lab.errors import (
    Crash,
    EmulatorError,
    Hang,
    LabError,
    MeterError,
    OutOfMemory,
    ProbeError,
    ProtocolError,
    TransportError,
    WorkloadError,
)
from measurements.rejection import MeasurementRejected

PASSED, FAILED, ERROR = (f"a run marked `{status}`" for status in ("passed", "failed", "error"))


def _board(
    name: str, injected: str, error: type[LabError], recovery: str, *kept: str
) -> Fault:
    return Fault(name, "Microcontrollers", injected, error, recovery, (FAILED, "its latencies", *kept))


MICROCONTROLLERS = (
    Fault(
        name="brown-out in mid-run",
        area="Microcontrollers",
        injected="the emulated board loses its supply between two passes",
        error=EmulatorError,
        ends="measured again",
        recovery="re-deploy",
        kept=(PASSED, "its latencies", "why it was measured again"),
    ),
    _board(
        "hang", "a sample that makes the network loop for ever", Hang, "soft-reset", "the crash report", "the console"
    ),
    _board(
        "hard fault", "a sample that makes the network read where nothing is", Crash, "resync",
        "the crash report", "the console",
    ),
    _board(
        "stack overflow", "a sample that makes the network recurse a million times", OutOfMemory, "resync",
        "the crash report", "the console",
    ),
    _board(
        "arena overflow", "a sample that makes the network write behind its arena", OutOfMemory, "resync", "the console"
    ),
    _board("watchdog reset", "the board's own watchdog, not fed", ProtocolError, "resync", "the console"),
    _board(
        "non-maskable interrupt", "the line is raised in mid-run", Crash, "resync", "the crash report", "the console"
    ),
    _board("clock that stands still", "the board's timers are stopped", ProtocolError, "resync", "the console"),
    _board(
        "clock that stands still, behind a serial port", "the same, on a board that nothing starts anew",
        ProtocolError, "soft-reset", "the console",
    ),
    _board(
        "bit flip in a weight", "a bit of the flash of the running board", WorkloadError, NONE_NEEDED, "the console"
    ),
    Fault(
        name="bit flip in code",
        area="Microcontrollers",
        injected="bits of the flash of the running board, before the first pass: an instruction becomes none",
        error=Crash,
        recovery="resync",
        kept=(FAILED, "the crash report", "the console"),
    ),
    Fault(
        name="reboot loop",
        area="Microcontrollers",
        injected="an image that takes a fault as it starts, again after every restart",
        error=Crash,
        recovery="re-deploy",
        kept=(FAILED, "the crash report", "the console"),
    ),
)  # fmt: skip



def _line(name: str, injected: str, recovery: str = "") -> Fault:
    """A fault of a serial line: the bench's, and where it costs anything, it costs a second measurement."""
    if not recovery:
        return Fault(name, "Serial lines", injected, None, NONE_NEEDED, (PASSED, "its latencies"), "never")
    kept = (PASSED, "its latencies", "why it was measured again")
    return Fault(name, "Serial lines", injected, TransportError, recovery, kept, "measured again")


SERIAL_LINES = (
    _line("serial garbage between frames", "noise behind every frame of the board"),
    _line("serial garbage inside of frames", "twenty bytes of noise in the middle of a frame", "resync"),
    _line("byte loss towards the computer", "one byte of the board's frames does not arrive", "resync"),
    _line("byte loss towards the board", "one byte of the lab's frames does not arrive: it is sent again"),
    _line(
        "baud drift", "in mid-run, at the rate agreed on and above, one byte in 200 of the board's comes wrong",
        "resync",
    ),
    _line("stuck transmitter", "the line says `U` for ever, until the board is reset", "soft-reset"),
    _line("port that comes back under another name", "a USB serial port is unplugged in mid-run", "resync"),
)  # fmt: skip


def _probe(name: str, injected: str, mended: str = "") -> Fault:
    """A fault of a probe as the lab deploys; ``mended``: what a person has to do, where it does not pass by itself."""
    recovery = f"{BY_HAND}; `lab device heal` once {mended}" if mended else "re-deploy"
    return Fault(name, "Debug probes", injected, ProbeError, recovery, (ERROR, "the console", "the probe's log"))


DEBUG_PROBES = (
    _probe("no acknowledge", "the part behind the probe answers nothing any more", "its wires are right"),
    _probe("no acknowledge, once", "one transfer of a deployment is not acknowledged"),
    _probe("a link that says WAIT", "one transfer of a deployment, until the probe gives up"),
    _probe("probe unplugged while flash is written", "after 1,500 transfers", "it is plugged in"),
    _probe("flash that reads back different", "one bit comes back inverted", "the part is replaced"),
    _probe("flash that is locked", "the part refuses to be written", "it is unlocked, as the error says"),
    _probe("flash that takes nothing and says it did", "the part drops what is written", "the part is replaced"),
    _probe("a board without power", "switched off, its probe on", "it has power"),
    Fault(
        name="no acknowledge in mid-run",
        area="Debug probes",
        injected="one transfer, while the runner's line goes through the probe (RTT)",
        error=ProbeError,
        ends="measured again",
        recovery="resync",
        kept=(PASSED, "its latencies", "why it was measured again"),
    ),
)


def _meter(name: str, injected: str, error: type[LabError], mended: str, *kept: str) -> Fault:
    """A fault of a meter that stays: the board is well, and all that is no energy is kept."""
    kept = (ERROR, "its latencies", "the console", *kept)
    return Fault(name, "Power meters", injected, error, f"resync; {mended} is for a person", kept)


POWER_METERS = (
    _meter(
        "meter dropouts", "every sixteenth sample does not come, both times", MeasurementRejected, "the meter's cable",
        "the trace", "why energy is rejected", "why it was measured again",
    ),
    Fault(
        name="meter unplugged and plugged in again",
        area="Power meters",
        injected="its port vanishes in mid-run and comes back",
        error=MeterError,
        ends="measured again",
        recovery="resync",
        kept=(PASSED, "its latencies", "its energy", "the trace", "why it was measured again"),
    ),
    _meter(
        "meter that goes away every time", "its port vanishes as soon as it streams, both times", MeterError,
        "the meter", "why it was measured again",
    ),
    _meter(
        "marker stuck", "the marker input stays as it is in mid-run", MeasurementRejected, "the marker's wire",
        "the trace", "why energy is rejected",
    ),
    _meter(
        "marker with double edges", "the marker falls once more in every third pass", MeasurementRejected,
        "the marker's wire", "the trace", "why energy is rejected",
    ),
)  # fmt: skip


def _cached(name: str, injected: str) -> Fault:
    """What lies wrong in the cache of builds is built anew, and nobody has to know."""
    return Fault(name, "Images and builds", injected, None, NONE_NEEDED, (PASSED, "its latencies"), "never")


IMAGES = (
    _cached("corrupted artifact", "a byte of the cached image is another one: it is built anew"),
    _cached("stale cache", "the cached image is that of another build, whole and consistent: it is built anew"),
    Fault(
        name="wrong build id",
        area="Images and builds",
        injected="somebody has flashed another image on a board without a probe",
        error=ProbeError,
        recovery="quarantine; `lab device heal` once the image that the error names is flashed",
        kept=(ERROR,),
    ),
)

BOARD_FAULTS: tuple[Fault, ...] = (*MICROCONTROLLERS, *SERIAL_LINES, *DEBUG_PROBES, *POWER_METERS, *IMAGES)
