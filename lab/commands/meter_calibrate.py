"""``lab meter calibrate``: what a meter shows of known currents."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.calibrations import Calibration, now
from lab.emulators.energy_model import EnergyModel
from lab.emulators.meters import start_meter
from lab.emulators.scripted_board import CLOCK_HZ, ScriptedBoard
from lab.errors import ConfigError, MeterError
from lab.inventory import Device as Entry
from lab.meter_config import MeterConfig
from lab.metered import class_of
from lab.power.base import Meter, MeterInfo, SampleBlock, join
from lab.power.registry import make_meter
from measurements.calibration import CalibrationPoint, fit_ranges

_BATCHES = 20
_MAX_LOST = 1e-3
_SETTLE_S = 0.2
_READ_S = 0.2
_SILENT_S = 10.0
_BUILT_IN = ("tegrastats", "nvml", "rapl", "pmic", "android")
_FACTORS = {"": 1.0, "R": 1.0, "k": 1e3, "M": 1e6}


@dataclass(frozen=True)
class Resistor:
    """A resistor.

    Attributes:
        ohm: its value.
        tolerance: relative.
    """

    ohm: float
    tolerance: float

    def __str__(self) -> str:
        return f"{self.ohm:g} Ω ±{100 * self.tolerance:g} %"


def parse_resistor(text: str) -> Resistor:
    """A value and its tolerance: ``1k:0.1%``, ``27:1%``, ``4.7k:0.5%``.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([RkM]?)(?:Ω|ohm)?:(\d+(?:\.\d+)?) ?%", text.strip())
    ohm = float(found[1]) * _FACTORS[found[2]] if found else 0.0
    tolerance = float(found[3]) / 100 if found else 0.0
    if not ohm > 0 or not 0 < tolerance < 0.5:
        raise ConfigError(
            f"found {text!r}; allowed: a value and its tolerance, both more than nothing",
            hint="1k:0.1% is 1000 Ω ±0.1 %",
        )
    return Resistor(ohm, tolerance)


def must_take_resistors(entry: Entry, config: MeterConfig) -> None:
    """A calibration puts a resistor in the device's place, which a meter that is part of it has not.

    Raises:
        ConfigError: the meter is part of the device, or of this computer.
    """
    if entry.meter_is_part or config.kind in _BUILT_IN:
        raise ConfigError(
            f"{entry.origin}: device {entry.name!r}: its {config.kind} meter is part of what it measures: no resistor "
            "can stand in the device's place",
            hint="compare it with a meter in the supply; docs/meters.md",
        )


def calibrate(
    config: MeterConfig,
    resistors: Sequence[Resistor],
    voltages_v: Sequence[float],
    voltage_uncertainty: float,
    seconds: float,
    connect: Callable[[Resistor], None],
) -> tuple[Calibration, MeterInfo]:
    """Measure every resistor at every voltage and fit the ranges that were used.

    Args:
        config: the meter.
        resistors: what to measure.
        voltages_v: what to supply, volt.
        voltage_uncertainty: how far off a voltage may be, relative.
        seconds: how long each point is measured.
        connect: returns once a resistor is connected in place of the device.

    Raises:
        MeterError: a point shows nothing like V/R, or is saturated, or samples are lost; or no range became better than
            the meter's class.
    """
    points: list[CalibrationPoint] = []
    for resistor in resistors:
        connect(resistor)
        for voltage_v in voltages_v:
            block, info = _shown(config, voltage_v, resistor.ohm, seconds)
            points.append(_point(block, resistor, voltage_v, voltage_uncertainty))
    ranges = fit_ranges(points, class_of(info))
    if not ranges:
        raise MeterError(
            f"no range of the {info.kind} became better than its class: the resistors' and the voltage's uncertainty "
            "are as large",
            hint="take resistors of less tolerance, and measure the voltage with a better instrument",
        )
    return Calibration(info.identity, now(), ranges, tuple(points)), info


def _shown(config: MeterConfig, voltage_v: float, ohm: float, seconds: float) -> tuple[SampleBlock, MeterInfo]:
    """What the meter shows at one setting."""
    # A resistor drives no trigger input.
    free = {"scpi": {"trigger": "bus"}, "lpm01a": {"trigger": "software"}}.get(config.kind, {})
    wanted = config.model_copy(update={"voltage_v": voltage_v, **free})
    with _connected(wanted, voltage_v, ohm) as (meter, board):
        if board is None:
            time.sleep(_SETTLE_S)
        meter.start()
        if board is not None:
            board.wait(0.0)
            board.wait(seconds)
        blocks: list[SampleBlock] = []
        missing = seconds * meter.info.sample_rate_hz
        heard_s = time.monotonic()
        while missing > 0 and time.monotonic() - heard_s < _SILENT_S:
            block = meter.read(_READ_S)
            blocks.append(block)
            missing -= block.current_a.size
            if block.current_a.size:
                heard_s = time.monotonic()
            elif board is not None:
                break
        return join([*blocks, meter.stop()]), meter.info


@contextmanager
def _connected(config: MeterConfig, voltage_v: float, ohm: float) -> Iterator[tuple[Meter, ScriptedBoard | None]]:
    with ExitStack() as stack:
        board = None
        if config.emulated:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-meter-")))
            current_a = voltage_v / ohm
            started = start_meter(config, folder, CLOCK_HZ, EnergyModel(voltage_v, current_a, current_a), stack)
            config = started.config
        meter = stack.enter_context(make_meter(config, voltage_v))
        if config.emulated:
            board = stack.enter_context(ScriptedBoard(started.marker_path, 1.0))
        yield meter, board


def _point(
    block: SampleBlock, resistor: Resistor, voltage_v: float, voltage_uncertainty: float
) -> CalibrationPoint:
    current = block.current_a[np.isfinite(block.current_a)].astype(np.float64)
    where = f"{resistor} at {voltage_v:g} V"
    if current.size < _BATCHES or block.lost > _MAX_LOST * block.current_a.size:
        raise MeterError(
            f"{where}: {current.size} samples came and {block.lost} were lost",
            hint="measure for longer (--seconds); look at the cable if samples are lost",
        )
    if block.saturated:
        raise MeterError(f"{where}: {block.saturated} samples are saturated", hint="take a larger resistor")
    batches = np.array([part.mean() for part in np.array_split(current, _BATCHES)])
    noise_a = float(batches.std(ddof=1) / np.sqrt(_BATCHES))
    shown_a = float(current.mean())
    point = CalibrationPoint(resistor.ohm, resistor.tolerance, voltage_v, voltage_uncertainty, shown_a, noise_a)
    if not point.plausible:
        raise MeterError(
            f"{where} draws {point.true_a:.4g} A, and the meter shows {shown_a:.4g} A",
            hint="connect this resistor, and nothing else, in place of the device",
        )
    return point
