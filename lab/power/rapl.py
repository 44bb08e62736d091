"""Energy counters of x86 processors: RAPL through Linux powercap (``/sys/class/powercap/intel-rapl:*``, AMD's too).

``energy_uj`` counts µJ and begins again at ``max_energy_range_uj`` (Documentation/power/powercap/powercap.rst): every
few minutes on a busy server. One wrap between two readings is seen; more than one is not, so the period must be far
below the time of a wrap, which it is. The counter moves about every millisecond (Hackenberg et al., "An Energy
Efficiency Feature Survey of the Intel Haswell Processor", IPDPSW 2015).

The maker gives no class. Since Haswell the counters follow a measurement rather than a model (Hackenberg et al.; Khan
et al., "RAPL in Action: Experiences in Using RAPL for Power Measurements", ACM TOMPECS 3(2), 2018), for memory with
up to 20 % (Desrochers et al., "A Validation of DRAM RAPL Power Measurements", MEMSYS 2016). Taken here on the safe
side: 10 %, ``dram`` 20 %. Package energy is that of the whole processor with whatever else runs on it, never of the
wall plug.

It measures no current: currents are power over the voltage that the bench names, and have no meaning of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lab.errors import ConfigError, MeterError
from lab.meter_config import MeterConfig, RaplConfig
from lab.power.base import RangeUncertainty
from lab.power.polled import Clock, Count, Counter, Failed, PolledMeter, Reading, SourceInfo
from lab.power.streamed import Loop, StreamedMeter, words_of
from lab.power.sysfs import Files, LocalFiles, is_emulated, number, text_or_empty
from lab.transports.remote import Remote
from lab.transports.remote_files import RemoteFiles

RELATIVE, RELATIVE_DRAM = 0.10, 0.20
UPDATE_S = 1e-3
_MOST_W = 10_000.0
_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")


def find_domains(files: Files, root: str) -> dict[str, str]:
    """Domain to folder: ``package-0``, ``psys``, ``package-0/core``, ``package-0/dram`` …; empty without powercap."""
    try:
        zones = [name for name in files.names(root) if _ZONE.fullmatch(name)]
    except OSError:
        return {}
    names = {zone: text_or_empty(files, f"{root}/{zone}/name") for zone in zones}
    domains = {}
    for zone, name in names.items():
        parent = names.get(zone.rpartition(":")[0], "")
        domains[f"{parent}/{name}" if parent else name] = f"{root}/{zone}"
    return domains


class RaplSource:
    """One domain.

    Args:
        config: which.
        files: where powercap is.
    """

    def __init__(self, config: RaplConfig, files: Files) -> None:
        self._config = config
        self._files = files
        self._path = ""

    def open(self) -> SourceInfo:
        """Find the domain.

        Raises:
            MeterError: there is no such domain, or it may not be read.
        """
        domain, folder = self._find(find_domains(self._files, self._config.root))
        self._path = f"{folder}/energy_uj"
        modulus = number(self._files, f"{folder}/max_energy_range_uj")
        if isinstance(modulus, Failed) or modulus <= 0:
            raise MeterError(f"{folder}/max_energy_range_uj: no range of the counter: {modulus}")
        first = self.read()
        if isinstance(first, Failed):
            raise MeterError(f"RAPL {domain}: {first.why}", transient=True)
        relative = RELATIVE_DRAM if domain.endswith("dram") else RELATIVE
        return SourceInfo(
            identity=f"RAPL {domain}",
            ranges=(RangeUncertainty(_MOST_W, relative),),
            update_s=UPDATE_S,
            measures_voltage=False,
            measures_current=False,
            counter=Counter("energy", 1e-6, modulus, _MOST_W),
            notes=("of all that runs on the processor",),
            emulated=is_emulated(self._files, folder),
        )

    def read(self) -> Reading:
        """The counter.

        Raises:
            MeterError: gone, or not allowed.
        """
        try:
            count = number(self._files, self._path)
        except MeterError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
            raise MeterError(
                f"{self._path}: permission denied: Linux lets only root read energy counters (CVE-2020-8694)",
                hint=f"sudo chmod a+r {self._path} (until the next boot), or a udev rule for powercap that does so",
            ) from error
        return count if isinstance(count, Failed) else Count(count)

    def loop(self) -> Loop:
        """What reads it on the device; see :class:`lab.power.streamed.StreamSource`."""
        return Loop("files", (self._path,))

    def take(self, text: str) -> Reading:
        """A line of the loop."""
        words = words_of(text, 1)
        if isinstance(words, Failed):
            return words
        return Count(int(words[0])) if words[0].isdigit() else Failed(f"{self._path}: {text[:40]!r} is no number")

    def close(self) -> None:
        """Nothing is held open."""

    def _find(self, domains: Mapping[str, str]) -> tuple[str, str]:
        wanted = self._config.domain
        fits = [name for name in domains if wanted in (name, name.rpartition("/")[2])]
        if len(fits) == 1:
            return fits[0], domains[fits[0]]
        if not domains:
            raise MeterError(
                f"{self._config.root}: no RAPL domain on this computer",
                hint="it needs Linux on an x86 processor, outside a virtual machine, and the module intel_rapl_msr",
            )
        raise MeterError(
            f"{self._config.root}: {'several domains are' if fits else 'no domain is'} named {wanted!r}; "
            f"there are: {', '.join(domains)}",
            hint="write domain: as it is listed",
        )


def rapl_meter(
    config: RaplConfig, voltage_v: float, files: Files | None = None, clock: Clock | None = None
) -> PolledMeter:
    """A meter that reads a RAPL counter, of this computer unless ``files`` says otherwise."""
    return PolledMeter("rapl", RaplSource(config, files or LocalFiles()), voltage_v, config.period, clock)


def make_on(config: MeterConfig, voltage_v: float, remote: Remote) -> StreamedMeter:
    """The RAPL meter of a device; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, RaplConfig):
        raise ConfigError(f"RAPL was asked to be a meter of kind {config.kind!r}")
    return StreamedMeter("rapl", RaplSource(config, RemoteFiles(remote)), remote, voltage_v, config.period)


def make(config: MeterConfig, voltage_v: float) -> PolledMeter:
    """The RAPL meter of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, RaplConfig):
        raise ConfigError(f"RAPL was asked to be a meter of kind {config.kind!r}")
    return rapl_meter(config, voltage_v)
