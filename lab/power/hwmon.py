"""Current monitors of Texas Instruments behind Linux hwmon (``/sys/class/hwmon``).

Units as the kernel has them (Documentation/hwmon/sysfs-interface.rst): ``curr*_input`` mA, ``in*_input`` mV,
``energy*_input`` µJ, ``shunt_resistor`` µΩ, ``update_interval`` ms. ``in1`` is the bus voltage; an INA3221 has channels
1 to 3, in which ``in4`` to ``in7`` are shunt voltages and sums (ina2xx.rst, ina238.rst, ina3221.rst). The numbers of
``hwmonN`` change from boot to boot, so a chip is found by its name, its device (``1-0040``: bus and address) or the
label of a channel.

Where the driver gives the chip's energy accumulator (INA228), it is used: the chip then sees what lies between two
readings too. The kernel does not say where it wraps: 40 bits of 16·3.2·(shunt LSB)/R (INA228 data sheet, section
"Calculate Current, Power, Energy, and Charge"), taken for the ±163.84 mV range that its driver sets by default.

The kernel gives currents in whole milliampere, cut off, so currents below about 10 mA are of no use (the report says
so), whatever the chip could do.

Class uncertainty, from the limits at 25 °C of the data sheets of Texas Instruments: INA219 (SBOS448G, A grade, gain
1/8 as the driver sets it), INA226 (SBOS547B), INA238 (the -Q1 version) and INA3221 (SBOS576A) were looked up, of the
INA228 its steps; its limits and those of the INA260 are from memory, so check yours. The shunt's tolerance comes on
top, linearly.

Up to JetPack 4 a Jetson has its INA3221 behind Nvidia's own driver: ``…/ina3221x/6-0040/iio:device0`` with
``rail_name_N``, ``in_voltageN_input`` (mV) and ``in_currentN_input`` (mA), N from 0, which are channels 1 to 3 here.
That driver does not say the shunt: 5 mΩ, the smallest that Nvidia uses, is taken for the class, which makes it the
largest.

A conversion may take a tenth longer than its typical time, so a chip is read no oftener than every 1.1 update
intervals: a register is then never read twice without having been updated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lab.errors import ConfigError, MeterError
from lab.meter_config import HwmonConfig, MeterConfig
from lab.power.base import RangeUncertainty
from lab.power.polled import Clock, Count, Counter, Failed, Gauge, PolledMeter, Reading, SourceInfo
from lab.power.streamed import Loop, StreamedMeter, words_of
from lab.power.sysfs import Files, LocalFiles, is_emulated, number, text_or_empty
from lab.transports.remote import Remote
from lab.transports.remote_files import RemoteFiles

IIO_SHUNT_OHM = 5e-3

STEP_A, STEP_V = 1e-3, 1e-3
"""The kernel's own steps of a current and a voltage, ampere and volt."""
SLOWEST = 1.1
"""Longest over typical conversion time, from the data sheets."""

_MOST_V = 85.0
_SATURATED = 0.999


@dataclass(frozen=True)
class Chip:
    """What a data sheet says.

    Attributes:
        full_scale_v: of the shunt voltage, volt.
        lsb_v: step of the shunt voltage, volt.
        gain, offset_v: of the shunt voltage: relative and volt.
        bus_gain, bus_offset_v, bus_lsb_v: of the bus voltage: relative, volt and volt.
        update_s: its update interval where its driver does not say, seconds.
        channels: how many currents it measures.
        shunt_ohm: its built-in shunt; 0 where there is none.
        energy_lsb: step of its energy accumulator times the shunt, joule·ohm; 0 where it has none.
        energy_relative: class of the accumulator, relative.
    """

    full_scale_v: float
    lsb_v: float
    gain: float
    offset_v: float
    bus_gain: float
    bus_offset_v: float
    bus_lsb_v: float
    update_s: float
    channels: int = 1
    shunt_ohm: float = 0.0
    energy_lsb: float = 0.0
    energy_relative: float = 0.0


ENERGY_BITS = 40
# Update intervals are those of the configuration that the kernel's driver sets: 16 averages, but for the INA219.
CHIPS: Mapping[str, Chip] = {
    "ina219": Chip(0.32, 10e-6, 5e-3, 200e-6, 5e-3, 0.0, 4e-3, 1.064e-3),
    "ina226": Chip(0.08192, 2.5e-6, 1e-3, 10e-6, 1e-3, 7.5e-3, 1.25e-3, 35.2e-3),
    "ina228": Chip(
        0.16384, 312.5e-9, 0.5e-3, 1e-6, 0.5e-3, 2.5e-3, 195.3125e-6, 50.5e-3,
        energy_lsb=16 * 3.2 * 312.5e-9, energy_relative=0.01,
    ),
    "ina238": Chip(0.16384, 5e-6, 1e-3, 5e-6, 1e-3, 5e-3, 3.125e-3, 50.5e-3),
    "ina260": Chip(0.08192, 2.5e-6, 1.5e-3, 10e-6, 1e-3, 7.5e-3, 1.25e-3, 35.2e-3, shunt_ohm=2e-3),
    "ina3221": Chip(0.1638, 40e-6, 2.5e-3, 80e-6, 2.5e-3, 16e-3, 8e-3, 6.6e-3, channels=3),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A chip in sysfs.

    Attributes:
        folder: ``…/hwmonN``.
        name: of the chip.
        device: last part of its device's path, such as ``1-0040``; empty where there is none.
        labels: channel to label.
        iio: whether it is behind the iio driver of JetPack 4.
    """

    folder: str
    name: str
    device: str
    labels: Mapping[int, str]
    iio: bool = False

    def files(self, channel: int) -> tuple[str, str]:
        """Paths of a channel's current, mA, and voltage, mV."""
        if self.iio:
            return f"{self.folder}/in_current{channel - 1}_input", f"{self.folder}/in_voltage{channel - 1}_input"
        return f"{self.folder}/curr{channel}_input", f"{self.folder}/in{channel}_input"

    def __str__(self) -> str:
        labels = "".join(f" {channel}={label}" for channel, label in self.labels.items())
        return f"{self.name} at {self.device or self.folder}{labels}"


def find_chips(files: Files, root: str) -> list[Found]:
    """The chips in sysfs that this module knows; empty where there is no hwmon."""
    try:
        names = files.names(root)
    except OSError:
        return []
    found = []
    for one in names:
        folder = f"{root}/{one}"
        name = text_or_empty(files, f"{folder}/name")
        if name not in CHIPS:
            continue
        link = f"{folder}/device"
        target = files.resolve(link)
        channels = range(1, CHIPS[name].channels + 1)
        labels = {n: text_or_empty(files, f"{folder}/in{n}_label") for n in channels}
        device = "" if target == link else target.rsplit("/", 1)[-1]
        found.append(Found(folder, name, device, {n: label for n, label in labels.items() if label}))
    return found


def find_iio_chips(files: Files, root: str) -> list[Found]:
    """The INA3221 behind Nvidia's iio driver; empty where there is none."""
    try:
        devices = [name for name in files.names(root) if re.fullmatch(r"\d+-[0-9a-f]{4}", name)]
    except OSError:
        return []
    found = []
    for device in devices:
        for name in files.names(f"{root}/{device}"):
            folder = f"{root}/{device}/{name}"
            labels = {n + 1: text_or_empty(files, f"{folder}/rail_name_{n}") for n in range(3)}
            labels = {n: label for n, label in labels.items() if label and label != "NC"}
            if name.startswith("iio:device") and labels:
                found.append(Found(folder, "ina3221", device, labels, iio=True))
    return found


class HwmonSource:
    """One channel of a chip.

    Args:
        config: which.
        files: where sysfs is.
    """

    def __init__(self, config: HwmonConfig, files: Files) -> None:
        self._config = config
        self._files = files
        self._folder = ""
        self._paths = ("", "")
        self._channel = config.channel
        self._full_scale_a = 0.0
        self._counts = False

    def open(self) -> SourceInfo:
        """Find the chip and read its settings.

        Raises:
            MeterError: it is not there, or more than one is meant; lists what is there.
            ConfigError: it has no such channel, or its shunt is unknown.
        """
        found = self._find()
        chip = CHIPS[found.name]
        if not 1 <= self._channel <= chip.channels:
            raise ConfigError(f"{found} has channels 1 to {chip.channels}; found channel: {self._channel}")
        self._folder = found.folder
        self._paths = found.files(self._channel)
        shunt_ohm = self._shunt_ohm(chip, found)
        self._full_scale_a = chip.full_scale_v / shunt_ohm
        self._counts = bool(chip.energy_lsb) and bool(self._text("energy1_input"))
        update_ms = self._text("update_interval")
        # A driver that is asked for 0 ms sets its shortest one, which is below a millisecond.
        update_s = SLOWEST * (max(float(update_ms) * 1e-3, 1e-3) if update_ms else chip.update_s)
        voltage_v = self._milli(self._paths[1])
        if isinstance(voltage_v, Failed):
            raise MeterError(f"{found}: {voltage_v.why}", transient=True)
        tolerance = 0.0 if chip.shunt_ohm else self._config.shunt_tolerance
        label = found.labels.get(self._channel, "")
        quantum_a = max(STEP_A, chip.lsb_v / shunt_ohm)
        channel = f"{self._channel} ({label})" if label else str(self._channel)
        identity = f"{found.name} at {found.device or found.folder}, channel {channel}"
        if self._counts:
            return self._accumulator(chip, shunt_ohm, tolerance, update_s, f"{identity}, energy accumulator")
        bus_step_v = chip.bus_offset_v + chip.bus_lsb_v + STEP_V
        # The chip's step and the kernel's come one after the other.
        offset_a = chip.offset_v / shunt_ohm + chip.lsb_v / shunt_ohm + STEP_A
        return SourceInfo(
            identity=f"{identity}, shunt {shunt_ohm * 1e3:g} mΩ",
            ranges=(RangeUncertainty(self._full_scale_a, chip.gain + tolerance, offset_a),),
            update_s=update_s,
            voltage_uncertainty=chip.bus_gain + bus_step_v / max(voltage_v, 0.1),
            quantum_a=quantum_a,
            emulated=is_emulated(self._files, self._folder),
        )

    def read(self) -> Reading:
        """Current and voltage, or the accumulator.

        Raises:
            MeterError: the driver was unbound.
        """
        if self._counts:
            count = number(self._files, f"{self._folder}/energy1_input")
            return count if isinstance(count, Failed) else Count(count)
        current_a = self._milli(self._paths[0])
        if isinstance(current_a, Failed):
            return current_a
        voltage_v = self._milli(self._paths[1])
        if isinstance(voltage_v, Failed):
            return voltage_v
        return self._gauge(current_a, voltage_v)

    def loop(self) -> Loop:
        """What reads it on the device; see :class:`lab.power.streamed.StreamSource`."""
        return Loop("files", (f"{self._folder}/energy1_input",) if self._counts else self._paths)

    def take(self, text: str) -> Reading:
        """A line of the loop."""
        words = words_of(text, len(self.loop().words))
        if isinstance(words, Failed):
            return words
        try:
            numbers = [int(word) for word in words]
        except ValueError:
            return Failed(f"{self._folder}: {text[:40]!r} is no number")
        return Count(numbers[0]) if self._counts else self._gauge(numbers[0] * 1e-3, numbers[1] * 1e-3)

    def _gauge(self, current_a: float, voltage_v: float) -> Gauge:
        return Gauge(current_a, voltage_v, saturated=abs(current_a) + STEP_A >= _SATURATED * self._full_scale_a)

    def close(self) -> None:
        """Nothing is held open."""

    def _accumulator(
        self, chip: Chip, shunt_ohm: float, tolerance: float, update_s: float, identity: str
    ) -> SourceInfo:
        lsb_j = chip.energy_lsb / shunt_ohm
        return SourceInfo(
            identity=f"{identity}, shunt {shunt_ohm * 1e3:g} mΩ, step {lsb_j * 1e3:.3g} mJ",
            ranges=(
                RangeUncertainty(self._full_scale_a, chip.energy_relative + tolerance, chip.offset_v / shunt_ohm),
            ),
            update_s=update_s,
            measures_voltage=False,
            measures_current=False,
            counter=Counter("energy", 1e-6, round((1 << ENERGY_BITS) * lsb_j * 1e6), self._full_scale_a * _MOST_V),
            emulated=is_emulated(self._files, self._folder),
        )

    def _find(self) -> Found:
        config = self._config
        there = [*find_chips(self._files, config.root), *find_iio_chips(self._files, config.iio_root)]
        fits = [
            one
            for one in there
            if (config.chip is None or one.name == config.chip)
            and (config.device is None or one.device == config.device)
            and (config.label is None or config.label in one.labels.values())
        ]
        if len(fits) != 1:
            asked = ", ".join(
                f"{key}: {value}"
                for key, value in (("chip", config.chip), ("device", config.device), ("label", config.label))
                if value is not None
            )
            listed = "; ".join(map(str, there)) or "none"
            raise MeterError(
                f"{config.root}: {len(fits) or 'no'} current monitors fit {asked or 'a config that names none'}; "
                f"there are: {listed}",
                hint="name one by chip:, device: (such as 1-0040) or label:; is its driver loaded (ina2xx, ina238, "
                "ina3221)?",
            )
        found = fits[0]
        if config.label is not None:
            self._channel = next(channel for channel, label in found.labels.items() if label == config.label)
        return found

    def _shunt_ohm(self, chip: Chip, found: Found) -> float:
        if chip.shunt_ohm:
            return chip.shunt_ohm
        if self._config.shunt_ohm is not None:
            return self._config.shunt_ohm
        if found.iio:
            return IIO_SHUNT_OHM
        name = f"shunt{self._channel}_resistor" if chip.channels > 1 else "shunt_resistor"
        text = self._text(name)
        if not text.isdigit() or not int(text):
            raise ConfigError(
                f"{self._folder}: {name} says {text!r}: the shunt is unknown", hint="add shunt_ohm: to the meter"
            )
        return int(text) * 1e-6

    def _text(self, name: str) -> str:
        return text_or_empty(self._files, f"{self._folder}/{name}")

    def _milli(self, path: str) -> float | Failed:
        value = number(self._files, path)
        return value if isinstance(value, Failed) else value * 1e-3


def hwmon_meter(
    config: HwmonConfig, voltage_v: float, files: Files | None = None, clock: Clock | None = None
) -> PolledMeter:
    """A meter that reads hwmon, of this computer unless ``files`` says otherwise."""
    return PolledMeter("hwmon", HwmonSource(config, files or LocalFiles()), voltage_v, config.period, clock)


def make_on(config: MeterConfig, voltage_v: float, remote: Remote) -> StreamedMeter:
    """The hwmon meter of a device; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, HwmonConfig):
        raise ConfigError(f"hwmon was asked to be a meter of kind {config.kind!r}")
    return StreamedMeter("hwmon", HwmonSource(config, RemoteFiles(remote)), remote, voltage_v, config.period)


def make(config: MeterConfig, voltage_v: float) -> PolledMeter:
    """The hwmon meter of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, HwmonConfig):
        raise ConfigError(f"hwmon was asked to be a meter of kind {config.kind!r}")
    return hwmon_meter(config, voltage_v)
