"""What else runs on a device: how many processes run or wait to, besides those of the lab."""

from __future__ import annotations

from lab.environment.collect import Collected
from lab.errors import InfrastructureError, TransportError
from lab.transports.remote import Remote

LOAD = "/proc/loadavg"
MEMORY = "/proc/meminfo"
UPTIME = "/proc/uptime"
GLOBS = (LOAD, MEMORY, UPTIME)

SAMPLES = 20
_EVERY_S = "0.1"
# The shell that looks runs when it looks; `read` needs no other process. The load average of the last minute would
# count what the lab itself did just before.
_SCRIPT = (
    'i=0; while [ "$i" -lt "$1" ]; do read -r _ _ _ running _ < "$3/proc/loadavg" || exit 1; echo "${running%%/*}"; '
    'sleep "$2"; i=$((i+1)); done'
)


def load_1min(found: Collected) -> float | None:
    """Linux's load average of the last minute."""
    words = found.text(LOAD).split()
    return float(words[0]) if len(words) >= 3 else None


def uptime_s(found: Collected) -> float | None:
    """Seconds since the device booted."""
    words = found.text(UPTIME).split()
    return float(words[0]) if words else None


def memory_available_bytes(found: Collected) -> int | None:
    """What a process could still have (``MemAvailable``)."""
    for line in found.text(MEMORY).splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable" and rest.split():
            return int(rest.split()[0]) * 1024
    return None


def background_load(remote: Remote, cores: int, root: str = "") -> float:
    """Processes that run or wait to, per core: the mean of two seconds, without the one that looks.

    Raises:
        TransportError: the device does not say, or the connection broke.
    """
    argv = ["sh", "-c", _SCRIPT, "sh", str(SAMPLES), _EVERY_S, root]
    done = remote.run(argv, timeout_s=60.0)
    counts = [int(line) for line in done.text.splitlines() if line.isdigit()]
    if done.status or not counts:
        words = done.stderr.decode(errors="replace").strip() or f"status {done.status}"
        raise TransportError(f"{remote.name}: {root}{LOAD} tells no load: {words}")
    return max(0.0, sum(counts) / len(counts) - 1) / max(1, cores)


def refuse_load(load: float, most: float, where: str) -> None:
    """Refuse a busy device.

    Raises:
        InfrastructureError: more runs on it than was allowed; another time may be better.
    """
    if load > most:
        raise InfrastructureError(
            f"{where}: {load:.2f} processes per core run on it besides the lab's; at most {most:g} were allowed "
            "(environment.max_load)",
            hint="`top` on the device says which; stop them, or allow more",
            transient=True,
        )
