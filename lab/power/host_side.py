"""Which of the meters that the host polls this computer has, for the doctor."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from lab.errors import MeterError, ToolMissing
from lab.power.hwmon import find_chips
from lab.power.nvml import Nvml, gpu_names, load_nvml
from lab.power.polled import Failed
from lab.power.rapl import find_domains
from lab.power.sysfs import Files, LocalFiles, number


@dataclass(frozen=True)
class HostMeters:
    """What was found of one kind.

    Attributes:
        name: of the kind, in words.
        found: what there is; none where it is not here.
        trouble: why what there is cannot be read; else empty.
        remedy: the way out; empty where there is none or nothing to do.
    """

    name: str
    found: tuple[str, ...]
    trouble: str = ""
    remedy: str = ""


def host_meters(
    hwmon_root: str = "/sys/class/hwmon",
    powercap_root: str = "/sys/class/powercap",
    files: Files | None = None,
    nvml: Nvml | None = None,
) -> list[HostMeters]:
    """Look for current monitors behind hwmon, RAPL, NVML and tegrastats. Opens no meter."""
    files = files or LocalFiles()
    return [
        HostMeters("current monitors (hwmon)", tuple(map(str, find_chips(files, hwmon_root)))),
        _rapl(files, powercap_root),
        _nvml(nvml),
        HostMeters("tegrastats", tuple(filter(None, (shutil.which("tegrastats"),)))),
    ]


def _rapl(files: Files, root: str) -> HostMeters:
    name = "processor energy (RAPL)"
    domains = find_domains(files, root)
    for folder in domains.values():
        try:
            reading = number(files, f"{folder}/energy_uj")
        except MeterError as error:
            return HostMeters(name, tuple(domains), error.message, error.hint)
        if isinstance(reading, Failed):
            return HostMeters(name, tuple(domains), reading.why)
    return HostMeters(name, tuple(domains))


def _nvml(nvml: Nvml | None) -> HostMeters:
    name = "GPU energy (NVML)"
    try:
        return HostMeters(name, tuple(gpu_names(nvml or load_nvml())))
    except ToolMissing as error:
        return HostMeters(name, (), error.message, error.hint)
