"""Clocks of the cores: Linux cpufreq (Documentation/admin-guide/pm/cpufreq.rst). The kernel counts in kHz."""

from __future__ import annotations

from lab.environment.changes import Change, write
from lab.environment.collect import Collected
from lab.environment.cores import numbers_in
from lab.errors import ConfigError
from measurements.environment import CpuPolicy

ROOT = "/sys/devices/system/cpu/cpufreq"
_FILES = (
    "scaling_governor", "scaling_available_governors", "scaling_available_frequencies", "scaling_cur_freq",
    "scaling_min_freq", "scaling_max_freq", "cpuinfo_min_freq", "cpuinfo_max_freq", "affected_cpus",
    "stats/time_in_state",
)  # fmt: skip
GLOBS = tuple(f"{ROOT}/policy*/{name}" for name in _FILES)


def _folders(found: Collected) -> list[str]:
    return found.folders(rf"{ROOT}/policy\d+")


def policies(found: Collected) -> tuple[CpuPolicy, ...]:
    """Clocks of the cores; empty where the kernel does not scale them."""
    return tuple(
        CpuPolicy(
            name=folder.rpartition("/")[2],
            cores=numbers_in(found.text(f"{folder}/affected_cpus")),
            governor=found.text(f"{folder}/scaling_governor"),
            frequency_hz=_hertz(found, f"{folder}/scaling_cur_freq"),
            min_hz=_hertz(found, f"{folder}/scaling_min_freq"),
            max_hz=_hertz(found, f"{folder}/scaling_max_freq"),
            top_hz=_hertz(found, f"{folder}/cpuinfo_max_freq"),
            residency=residency_of(found.text(f"{folder}/stats/time_in_state")),
        )
        for folder in _folders(found)
    )


def residency_of(text: str) -> tuple[tuple[float, float], ...]:
    """Clock, Hz, and time, seconds, of ``stats/time_in_state``: lines of kHz and hundredths of a second."""
    pairs = [line.split() for line in text.splitlines()]
    return tuple(
        (int(pair[0]) * 1e3, int(pair[1]) / 100) for pair in pairs if len(pair) == 2 and all(map(str.isdigit, pair))
    )


def _hertz(found: Collected, path: str) -> float | None:
    value = found.number(path)
    return None if value is None else value * 1e3


def governor_changes(found: Collected, governor: str, where: str) -> list[Change]:
    """What gives all cores a governor.

    Raises:
        ConfigError: the device does not scale clocks, or has no such governor; lists those it has.
    """
    changes = []
    for folder in _some(found, f"governor: {governor}", where):
        path = f"{folder}/scaling_governor"
        available = found.text(f"{folder}/scaling_available_governors").split()
        if governor not in available:
            raise ConfigError(
                f"{where}: {folder.rpartition('/')[2]} has no governor {governor!r}; "
                f"allowed: {', '.join(available) or 'none'}",
                hint="change environment.governor: in the bench file",
            )
        before = found.text(path)
        if before != governor:
            name = f"governor of {folder.rpartition('/')[2]}"
            changes.append(Change(name, before, governor, write(path, governor), write(path, before)))
    return changes


def frequency_changes(found: Collected, frequency_hz: float, where: str) -> list[Change]:
    """What holds all cores at one clock: the least and the most the governor may choose.

    Raises:
        ConfigError: a core cannot run at it; lists the clocks it has.
    """
    asked_khz = round(frequency_hz / 1e3)
    changes = []
    for folder in _some(found, f"frequency_hz: {frequency_hz:g}", where):
        policy = folder.rpartition("/")[2]
        steps = sorted(map(int, found.text(f"{folder}/scaling_available_frequencies").split()))
        least, most = found.number(f"{folder}/cpuinfo_min_freq"), found.number(f"{folder}/cpuinfo_max_freq")
        if least is None or most is None:
            raise ConfigError(f"{where}: {folder} does not say which clocks it has; found no cpuinfo_max_freq")
        if (steps and asked_khz not in steps) or not least <= asked_khz <= most:
            allowed = ", ".join(f"{step / 1e3:g}" for step in steps) or f"{least / 1e3:g} to {most / 1e3:g}"
            raise ConfigError(
                f"{where}: {policy} cannot run at {asked_khz / 1e3:g} MHz; allowed: {allowed} MHz",
                hint="change environment.frequency_hz: in the bench file",
            )
        changes += _held(found, folder, policy, asked_khz)
    return changes


def _held(found: Collected, folder: str, policy: str, asked_khz: int) -> list[Change]:
    # The kernel refuses a least clock above the most: which of the two goes first depends on where they are now.
    least, most = f"{folder}/scaling_min_freq", f"{folder}/scaling_max_freq"
    upwards = asked_khz > (found.number(most) or 0)
    changes = []
    for path, word in ((most, "highest"), (least, "lowest")) if upwards else ((least, "lowest"), (most, "highest")):
        before = found.number(path)
        if before is None:
            raise ConfigError(f"{path}: cannot be read, so it could not be put back")
        if before != asked_khz:
            name, asked = f"{word} clock of {policy}", f"{asked_khz / 1e3:g} MHz"
            changes.append(
                Change(name, f"{before / 1e3:g} MHz", asked, write(path, asked_khz), write(path, before))
            )
    return changes


def _some(found: Collected, asked: str, where: str) -> list[str]:
    folders = _folders(found)
    if not folders:
        raise ConfigError(
            f"{where}: {asked} was asked for, and this device does not scale the clocks of its cores: there is no "
            f"{ROOT}/policy0",
            hint="remove it from environment: in the bench file; virtual machines and some kernels have no cpufreq",
        )
    return folders
