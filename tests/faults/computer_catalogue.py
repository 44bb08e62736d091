"""Faults of Linux devices and phones, of this computer, of the store and of the controller."""

from __future__ import annotations

from faults.fault import BY_HAND, NONE_NEEDED, Area, Ends, Fault

from lab.errors import (
    Crash,
    DiskFull,
    EmulatorError,
    HostKeyChanged,
    InfrastructureError,
    LabError,
    OutOfMemory,
    PhoneOffline,
    StoreError,
    TransportError,
)

_COMPUTERS: Area = "Linux devices and phones"
_PASSED = ("a run marked `passed`", "its latencies")
_AGAIN = (*_PASSED, "why it was measured again")
_CAPTURED = ("a run marked `failed`", "its latencies", "the console")

_OF_COMPUTERS = (
    Fault(
        name="SSH connection ends in mid-run",
        area=_COMPUTERS,
        injected="all connections to the SSH server are cut between two samples",
        error=TransportError,
        ends="measured again",
        recovery="reconnect",
        kept=_AGAIN,
    ),
    Fault(
        name="host key changes in mid-run",
        area=_COMPUTERS,
        injected="the connection is cut, and another computer answers at the device's address",
        error=HostKeyChanged,
        recovery=f"{BY_HAND}, until somebody finds out who answers",
        kept=("a run marked `error`", "its latencies", "the console"),
    ),
    Fault(
        name="supply of a computer is cut in mid-run",
        area=_COMPUTERS,
        injected="the SSH server and all it started are killed; it comes back with another key, port and home",
        error=EmulatorError,
        ends="measured again",
        recovery="power-cycle",
        kept=_AGAIN,
    ),
    Fault(
        name="runner on a computer is killed",
        area=_COMPUTERS,
        injected="`kill -9` on the device between two samples",
        error=Crash,
        recovery="restart",
        kept=_CAPTURED,
    ),
    Fault(
        name="kernel panics in mid-run",
        area=_COMPUTERS,
        injected="sysrq `c` on an emulated Raspberry Pi",
        error=Crash,
        recovery="power-cycle",
        kept=_CAPTURED,
    ),
    Fault(
        name="runner out of memory",
        area=_COMPUTERS,
        injected="samples of twice `memory_limit_bytes`; the kernel's out-of-memory killer",
        error=OutOfMemory,
        recovery="restart",
        kept=("a run marked `failed`", "the console"),
    ),
    Fault(
        name="disk of the device is full",
        area=_COMPUTERS,
        injected="64 KiB are free where the image is to go",
        error=DiskFull,
        recovery="power-cycle",
        kept=("a run marked `error`", "the console"),
    ),
    Fault(
        name="wall clock of the device jumps in mid-run",
        area=_COMPUTERS,
        injected="`date -s` to the year 2096 between two samples",
        error=None,
        ends="never",
        recovery=NONE_NEEDED,
        kept=_PASSED,
    ),
    Fault(
        name="ADB server is killed in mid-run",
        area=_COMPUTERS,
        injected="`adb kill-server` between two samples, as an `adb` of another version does",
        error=PhoneOffline,
        ends="measured again",
        recovery="reconnect",
        kept=_AGAIN,
    ),
    Fault(
        name="ADB connection is lost in mid-run",
        area=_COMPUTERS,
        injected="`adb disconnect` between two samples: the server forgets the phone, as when its cable is pulled",
        error=PhoneOffline,
        ends="measured again",
        recovery="reconnect",
        kept=_AGAIN,
    ),
    Fault(
        name="adbd restarts in mid-run",
        area=_COMPUTERS,
        injected="`kill -9` of the phone's daemon between two samples; init starts another as the lab looks for it",
        error=PhoneOffline,
        ends="measured again",
        recovery="reconnect",
        kept=_AGAIN,
    ),
)

_BEFORE = ("all runs before",)
_SAVED = (*_BEFORE, "a run marked `passed`", "its figures in the outbox")


def _of_this_computer(
    name: str, injected: str, error: type[LabError] | None, recovery: str, kept: tuple[str, ...]
) -> Fault:
    ends: Ends = "never" if error is None else "raised"
    return Fault(name, "This computer and the store", injected, error, recovery, kept, ends)


_OF_THIS_COMPUTER = (
    _of_this_computer(
        "disk of the build cache is full", "a limit on the size of files, for the lab and its compilers",
        InfrastructureError, "room is made", _BEFORE,
    ),
    _of_this_computer(
        "disk of the store is full", "a limit on the size of files while the device is measured",
        StoreError, "room is made", _BEFORE,
    ),
    _of_this_computer(
        "store is locked by another process", "a process that stays in its transaction", StoreError,
        "that process ends", _BEFORE,
    ),
    _of_this_computer(
        "wall clock is set ahead in mid-run", "an hour, between two samples; the device is leased", None, NONE_NEEDED,
        _SAVED,
    ),
    _of_this_computer(
        "wall clock is set back in mid-run", "an hour, between two samples", StoreError,
        "the clock is set right, or what was saved ahead is pruned", _BEFORE,
    ),
    _of_this_computer("InfluxDB is down", "nothing listens at its port", None, NONE_NEEDED, _SAVED),
    _of_this_computer(
        "InfluxDB does not answer", "a socket that takes connections and stays silent", None, NONE_NEEDED, _SAVED
    ),
)  # fmt: skip

_PHASES = {
    "prepare": ("kill -9 before what was prepared is renamed into the cache", ()),
    "build": ("kill -9 while the compiler runs", ()),
    "deploy": ("kill -9 while the image starts", ()),
    "run": ("kill -9 between two metered samples", ()),
    "store": ("kill -9 in the transaction of the run, whose trace is in place", ()),
    "report": ("kill -9 when the report is written and not yet the latest", ("the run",)),
}
_KILLED = tuple(
    Fault(
        name=f"controller killed in phase {phase}",
        area="The controller is killed",
        injected=injected,
        error=None,
        ends="never",
        recovery=NONE_NEEDED,
        kept=("all runs before", *kept),
    )
    for phase, (injected, kept) in _PHASES.items()
)

COMPUTER_FAULTS: tuple[Fault, ...] = (*_OF_COMPUTERS, *_OF_THIS_COMPUTER, *_KILLED)
