"""``lab meter selftest``: a meter's driver and the lab's method against an emulated peer whose truth is known."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.emulators import pmic
from lab.emulators.energy_model import EnergyModel
from lab.emulators.hwmon import HwmonTree, PowercapTree, live
from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.meters import MODULES, start_meter
from lab.emulators.nvml import EmulatedNvml, Gpu
from lab.emulators.phone import Gauge, Phone
from lab.emulators.scripted_board import CLOCK_HZ, ScriptedBoard
from lab.emulators.tegrastats import write_program
from lab.errors import ConfigError, MeterError, ToolMissing
from lab.events import Job
from lab.meter_config import (
    AndroidConfig,
    HwmonConfig,
    MeterConfig,
    MonsoonConfig,
    NvmlConfig,
    PmicConfig,
    RaplConfig,
    TegrastatsConfig,
)
from lab.metered import Metered, class_of
from lab.power.android import android_meter
from lab.power.base import Meter, SampleBlock, join
from lab.power.hwmon import CHIPS, hwmon_meter
from lab.power.monsoon import Monsoon
from lab.power.nvml import nvml_meter
from lab.power.rapl import rapl_meter
from lab.power.registry import make_meter
from lab.power.tegrastats import tegrastats_meter
from measurements.record import Record

LEVELS_A = ((20e-6, 300e-6), (20e-6, 12e-3), (1.1e-3, 45e-3))
"""Idle and active currents that are tried: sleep and a sensor, sleep and a core, a core and a radio."""
IDEAL = 0.002
"""A peer is a meter without errors of its own but its steps: what is further off is the driver's or the method's."""
_PASSES = 10
_SAMPLES_PER_PASS = 500
_STEADY_SAMPLES = 20
_SETTLE_S = 20e-6
_STEP_S = 0.01
_READ_S = 0.5
_SHUNT_OHM = 0.1
_DEFAULT_V = 5.0
_MOST_SAMPLES = 100
_STEADY_S = 1.0
_COUNTER_S = 0.1
REAL_TIME = {
    "hwmon": (12e-3, 45e-3), "rapl": (1.0, 10.0), "nvml": (5.0, 25.0), "tegrastats": (0.9, 3.0), "android": (0.15, 0.9),
    "monsoon": (12e-3, 0.9), "pmic": (0.8, 2.5),
}  # fmt: skip
"""Meters whose time is the host's, and the steady currents that are tried: sizes that what they measure takes."""
_SERIAL = 4711
_PHONE_UPDATE_S = 0.05
_TREE_UPDATE_S = 0.01
_SILENT_S = 10.0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One figure against its closed form.

    Attributes:
        load: what was drawn.
        metric: of the record.
        unit: of both values.
        measured, true: median of the passes, and what it should be.
        bound: what the class of the meter allows of it, and :data:`IDEAL` at most, in ``unit``.
    """

    load: str
    metric: str
    unit: str
    measured: float
    true: float
    bound: float

    @property
    def error(self) -> float:
        """Relative."""
        return self.measured / self.true - 1

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound."""
        return abs(self.measured - self.true) <= self.bound + _ROUNDING * abs(self.true)


def emulated_twin(config: MeterConfig) -> MeterConfig:
    """The same meter with the same settings, emulated; of one whose time is the host's, the settings alone.

    Raises:
        ConfigError: there is no emulated peer of its kind.
    """
    if config.kind in REAL_TIME:
        return config
    if config.kind not in MODULES:
        kinds = sorted((*MODULES, *REAL_TIME))
        raise ConfigError(f"there is no emulated peer of a {config.kind}", hint=f"kinds with one: {', '.join(kinds)}")
    settings = config.model_dump(exclude={"port", "serial_number", "resource"})
    return type(config).model_validate({**settings, "emulated": True})


def selftest(config: MeterConfig, voltage_v: float) -> tuple[Check, ...]:
    """Charge, gross and net energy of scripted loads through a meter's own protocol.

    Where only the host's clock aligns samples, the loads are steady: charge and energy of as many samples as came.

    Args:
        config: from :func:`emulated_twin`.
        voltage_v: supply voltage, volt.

    Raises:
        MeasurementRejected, MeterError: a load could not be measured at all.
    """
    checks: list[Check] = []
    if config.kind in REAL_TIME:
        for current_a in REAL_TIME[config.kind]:
            checks += _measure_real_time(config, voltage_v or _DEFAULT_V, current_a)
        return tuple(checks)
    for idle_a, active_a in LEVELS_A:
        checks += _measure(config, EnergyModel(voltage_v, idle_a, active_a, _SETTLE_S))
    return tuple(checks)


def _measure(config: MeterConfig, model: EnergyModel) -> Sequence[Check]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-meter-")))
        started = start_meter(config, folder, CLOCK_HZ, model, stack)
        meter = stack.enter_context(make_meter(started.config, model.voltage_v))
        info = meter.info
        if info.alignment == "host-time":
            board = stack.enter_context(ScriptedBoard(started.marker_path, 1.0))
            stack.enter_context(_real_time(board))
            return _steady(meter, model.voltage_v, model.active_current_a)
        pass_s = _SAMPLES_PER_PASS / info.sample_rate_hz
        board = stack.enter_context(ScriptedBoard(started.marker_path, pass_s))
        job = Job("infer", b"", _PASSES, quiet_us=round(pass_s * 1e6))
        metered = Metered(meter, config.marker_input, CLOCK_HZ, model.voltage_v, board.run)
        records = {record.metric: record for record in metered.short_records(job, None)}
    load = f"{model.idle_current_a * 1e3:g} to {model.active_current_a * 1e3:g} mA"
    true = {
        "charge": model.energy_j(pass_s) / model.voltage_v,
        "energy": model.energy_j(pass_s),
        "energy.net": model.net_energy_j(pass_s),
    }
    return [_check(load, records[metric], value) for metric, value in true.items() if metric in records]


def _measure_real_time(config: MeterConfig, voltage_v: float, current_a: float) -> Sequence[Check]:
    """A meter whose time is the host's, and its peer in real time.

    The kernel cuts a chip's current off to whole milliampere: there the meter's class is the bound. A counter stands
    where its last update left it: as much as flows in an update may be missing at the end.
    """
    load = ScriptedLoad([Segment(1.0, current_a, voltage_v=voltage_v)])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-meter-")))
        meter = stack.enter_context(_placed(config, load, voltage_v, folder, stack))
        if isinstance(config, HwmonConfig):
            return _steady(meter, voltage_v, current_a, math.inf, meter.info.time_uncertainty_s)
        return _steady(meter, voltage_v, current_a, lag_s=_COUNTER_S if config.kind in ("rapl", "nvml") else 0.0)


def _placed(config: MeterConfig, load: ScriptedLoad, voltage_v: float, folder: Path, stack: ExitStack) -> Meter:
    """The meter, not yet open, with its peer in its place; the peer ends with the stack."""
    begin_s = time.monotonic()

    def now_s() -> float:
        return time.monotonic() - begin_s

    match config:
        case HwmonConfig():
            chip, root = config.chip or "ina226", folder / "hwmon"
            shunt_ohm = config.shunt_ohm or _SHUNT_OHM
            tree = HwmonTree(root, chip, [load] * CHIPS[chip].channels, shunt_ohm=shunt_ohm, update_s=_TREE_UPDATE_S)
            stack.enter_context(live(tree, _STEP_S))
            there = {"root": str(root), "chip": chip, "device": None, "label": None}
            return hwmon_meter(config.model_copy(update=there), voltage_v)
        case RaplConfig():
            domains = {"intel-rapl:0": (config.domain.partition("/")[0], load)}
            if "/" in config.domain:
                domains["intel-rapl:0:0"] = (config.domain.partition("/")[2], load)
            elif config.domain in ("core", "uncore", "dram"):
                domains = {"intel-rapl:0": ("package-0", load), "intel-rapl:0:0": (config.domain, load)}
            stack.enter_context(live(PowercapTree(folder / "powercap", domains), _STEP_S))
            return rapl_meter(config.model_copy(update={"root": str(folder / "powercap")}), voltage_v)
        case MonsoonConfig():
            try:
                from lab.emulators.monsoon import EmulatedHvpm, attached
            except ImportError as error:
                raise ToolMissing(f"{error}: PyUSB is not installed", hint="pip install 'hil-lab[monsoon]'") from error
            serial_number = config.serial_number or _SERIAL
            stack.enter_context(attached(EmulatedHvpm(load, serial_number=serial_number)))
            return Monsoon(config, voltage_v)
        case NvmlConfig():
            gpu = Gpu(config.uuid or "GPU-0", "emulated GPU", load)
            return nvml_meter(config, voltage_v, EmulatedNvml((gpu,), now_s))
        case PmicConfig():
            vcgencmd = pmic.write_program(folder, load, config.rails or pmic.RAILS)
            return make_meter(config.model_copy(update={"program": str(vcgencmd)}), voltage_v)
        case TegrastatsConfig():
            program = write_program(folder, load, config.rails)
            return tegrastats_meter(config.model_copy(update={"program": str(program), "file": None}), voltage_v)
        case AndroidConfig():
            gauge = Gauge(
                update_s=_PHONE_UPDATE_S,
                sign=-1 if config.current_sign == "negative" else 1,
                unit_a=1e-6 if config.current_unit == "uA" else 1e-3,
            )
            settings = config.model_copy(update={"period": _PHONE_UPDATE_S, "serial": config.serial or "emulated"})
            return android_meter(settings, voltage_v, Phone(load, now_s, gauge))
    raise ConfigError(f"there is no emulated peer of a {config.kind}")


def _steady(
    meter: Meter, voltage_v: float, current_a: float, most: float = IDEAL, lag_s: float = 0.0
) -> Sequence[Check]:
    """One level in real time.

    Args:
        meter: open, with such a load.
        voltage_v, current_a: of the load.
        most: what is allowed of the meter's class, relative.
        lag_s: how much of the time may be missing, seconds.
    """
    info = meter.info
    samples = round(max(_STEADY_SAMPLES, min(_MOST_SAMPLES, _STEADY_S * info.sample_rate_hz)))
    meter.start()
    blocks: list[SampleBlock] = []
    heard_s = time.monotonic()
    while sum(block.current_a.size for block in blocks) < samples and time.monotonic() - heard_s < _SILENT_S:
        blocks.append(meter.read(_READ_S))
        heard_s = time.monotonic() if blocks[-1].current_a.size else heard_s
    block = join([*blocks, meter.stop()])
    if not np.isfinite(block.current_a).any():
        raise MeterError(f"the {info.kind} showed nothing for {_SILENT_S:g} s")
    shown = block.current_a.astype(np.float64)
    seen = np.isfinite(shown)
    voltage = np.full(shown.size, info.voltage_v) if block.voltage_v is None else block.voltage_v.astype(np.float64)
    seconds = int(np.count_nonzero(seen)) / info.sample_rate_hz
    true_c = current_a * seconds
    meter_class = class_of(info)
    of_range = meter_class.ranges[int(meter_class.range_of(np.array([current_a]))[0])]
    relative = of_range.relative + of_range.offset_a / current_a
    load = f"steady {current_a * 1e3:g} mA"
    charge_c = float(shown[seen].sum()) / info.sample_rate_hz
    energy_j = float((shown[seen] * voltage[seen]).sum()) / info.sample_rate_hz
    true_j = true_c * voltage_v
    bound = min(relative, most) + lag_s / seconds
    energy_bound = min(relative + meter_class.voltage, most) + lag_s / seconds
    energy = Check(load, "energy", "J", energy_j, true_j, energy_bound * true_j)
    return [Check(load, "charge", "C", charge_c, true_c, bound * true_c), energy] if info.measures_current else [energy]


@contextmanager
def _real_time(board: ScriptedBoard) -> Iterator[None]:
    """Device time goes on as the host's does, in a thread; the board is active."""
    ending = threading.Event()

    board.wait(0.0, active=True)

    def work() -> None:
        before_s = time.monotonic()
        while not ending.wait(_STEP_S):
            now_s = time.monotonic()
            board.wait(now_s - before_s, active=True)
            before_s = now_s

    thread = threading.Thread(target=work, name="lab-meter-time", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _check(load: str, record: Record, true: float) -> Check:
    bound = min(record.class_uncertainty or 0.0, IDEAL * true)
    return Check(load, record.metric, record.unit, record.median, true, bound)
