"""Joulescope JS110 and JS220 through the maker's driver (``pyjoulescope_driver``).

The driver calls back from a thread of its own, for each signal apart, with ``sample_id`` (in samples of the
instrument's full rate), ``decimate_factor`` and ``data``: float32 for current and voltage, packed bits, lowest first,
for the general-purpose inputs. Here the signals are put on one axis. What the numbers show to be missing is NaN and
counted, and so is a sample that the driver itself gives as NaN, or whose input is missing; what comes twice is left
out. (Topics and values as driver 2.2 has them. Not run on an instrument; the seam that tests replace is the
``Driver``.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import TracebackType
from typing import Protocol, Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError, MeterError, ToolMissing
from lab.meter_config import JoulescopeConfig, MeterConfig
from lab.power.base import Float32Array, MeterInfo, RangeUncertainty, SampleBlock

RANGES: Mapping[str, tuple[RangeUncertainty, ...]] = {
    "js110": (RangeUncertainty(3.0, 0.01, 1e-6),),
    "js220": (RangeUncertainty(3.0, 0.005, 1e-6),),
}
"""Taken on the safe side of the data sheets' typical figures; those give each of the shunts its own."""
VOLTAGE_UNCERTAINTY = 0.005
HIGHEST_CURRENT_A = 10.0
INPUTS: Mapping[str, int] = {"js110": 2, "js220": 4}
FULL_RATE_HZ: Mapping[str, int] = {"js110": 2_000_000, "js220": 1_000_000}

_END_S = 0.25

Array: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Value: TypeAlias = Mapping[str, object]


class Driver(Protocol):
    """The part of ``pyjoulescope_driver.Driver`` that is used."""

    def device_paths(self) -> Sequence[str]: ...

    def open(self, device_prefix: str, mode: str | None = None) -> None: ...

    def close(self, device_prefix: str) -> None: ...

    def finalize(self) -> None: ...

    def publish(self, topic: str, value: str | int) -> None: ...

    def subscribe(self, topic: str, flags: list[str], fn: Callable[[str, Value], None]) -> None: ...

    def unsubscribe(self, topic: str, fn: Callable[[str, Value], None]) -> None: ...


class Signal:
    """One signal on an axis of its own: numbers of full-rate samples.

    Args:
        missing: stands for samples that did not come.
    """

    def __init__(self, missing: float) -> None:
        self._missing = missing
        self._data: Float32Array = np.empty(0, np.float32)
        self.begin: int | None = None
        self.step = 1
        self.repeated = 0

    @property
    def end(self) -> int | None:
        """Number behind the last sample, None before the first one came."""
        return None if self.begin is None else self.begin + self._data.size * self.step

    def add(self, sample_id: int, step: int, data: Float32Array) -> None:
        """Take samples; the first one has number ``sample_id``."""
        if self.begin is None:
            self.begin, self.step = sample_id, step
        gap = (sample_id - self.begin) // self.step - self._data.size
        if gap < 0:
            self.repeated += min(-gap, data.size)
            data = data[-gap:]
        self._data = np.concatenate([self._data, np.full(max(gap, 0), self._missing, np.float32), data])

    def take(self, begin: int, end: int, step: int) -> Float32Array:
        """Samples numbered ``begin``, ``begin + step`` … below ``end``; these and earlier ones are forgotten."""
        first = self.begin or 0
        at = (np.arange(0, end - begin, step) + (begin - first)) // self.step
        taken = self._data[at]
        done = (end - first) // self.step
        self._data = self._data[done:]
        self.begin = first + done * self.step
        return taken


class Joulescope:
    """A Joulescope as :class:`lab.power.base.Meter`. It measures a supply of the device's own.

    Args:
        config: its settings.
        voltage_v: nominal voltage of the supply, volt.
        driver: makes the driver; for tests.
    """

    def __init__(self, config: JoulescopeConfig, voltage_v: float, driver: Callable[[], Driver] | None = None) -> None:
        inputs = INPUTS[config.model]
        if config.marker_input >= inputs:
            raise ConfigError(
                f"marker_input {config.marker_input}: a {config.model.upper()} has inputs 0 to {inputs - 1}",
                hint="wire the marker to one of them",
            )
        full_rate_hz = FULL_RATE_HZ[config.model]
        if config.sample_rate > full_rate_hz or full_rate_hz % config.sample_rate:
            raise ConfigError(
                f"sample_rate {config.sample_rate}: a {config.model.upper()} gives {full_rate_hz} or a part of it",
                hint="set sample_rate: to such a rate",
            )
        self._config = config
        self._voltage_v = voltage_v
        self._make_driver = driver or load_driver
        self._driver: Driver | None = None
        self._path = ""
        self._lock = threading.Condition()
        self._signals: dict[str, Signal] = {}
        self._sizes: tuple[int, int] = (0, 0)
        self._streaming = False
        self._samples = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def info(self) -> MeterInfo:
        """What the meter is.

        Raises:
            MeterError: not open.
        """
        self._opened()
        ranges = RANGES[self._config.model]
        return MeterInfo(
            kind="joulescope",
            identity=f"Joulescope {self._path.removeprefix('u/')}",
            sample_rate_hz=float(self._config.sample_rate),
            voltage_v=self._voltage_v,
            measures_voltage=True,
            logic_inputs=INPUTS[self._config.model],
            relative_uncertainty=ranges[0].relative,
            emulated=False,
            ranges=ranges,
            voltage_uncertainty=VOLTAGE_UNCERTAINTY,
        )

    @property
    def repeated(self) -> int:
        """Samples of the current that came twice since :meth:`start` and were left out."""
        return self._signals["s/i/"].repeated if self._signals else 0

    def open(self) -> MeterInfo:
        """Find the instrument, set its rate, and let it choose its ranges.

        Raises:
            ToolMissing: the driver is not installed.
            MeterError: there is no such instrument, or more than one, or it cannot be opened.
        """
        driver = self._driver = self._make_driver()
        try:
            self._path = self._find(driver.device_paths())
            driver.open(self._path, mode="defaults")
            driver.publish(f"{self._path}/h/fs", self._config.sample_rate)
            if self._config.model == "js110":
                driver.publish(f"{self._path}/s/i/range/select", "auto")
                driver.publish(f"{self._path}/s/v/range/select", "15 V")
            else:
                driver.publish(f"{self._path}/s/i/range/mode", "auto")
                driver.publish(f"{self._path}/s/v/range/mode", "auto")
        except (RuntimeError, TimeoutError, OSError) as error:
            self.close()
            raise self._broken(error) from error
        except MeterError:
            self.close()
            raise
        return self.info

    def start(self) -> None:
        """Switch the signals on; sample 0 is the first one that all of them have.

        Raises:
            MeterError: not open, or the instrument broke.
        """
        driver = self._opened()
        inputs = [f"s/gpi/{bit}/" for bit in range(INPUTS[self._config.model])]
        with self._lock:
            self._signals = {"s/i/": Signal(np.nan), "s/v/": Signal(np.nan)}
            # A level is 0 or 1; an input that is missing must not pass for one of them.
            self._signals |= {name: Signal(np.nan) for name in inputs}
            self._samples = 0
        try:
            for name in self._signals:
                driver.subscribe(f"{self._path}/{name}!data", ["pub"], self._arrived)
            self._streaming = True
            for name in self._signals:
                driver.publish(f"{self._path}/{name}ctrl", 1)
        except (RuntimeError, TimeoutError, OSError) as error:
            raise self._broken(error) from error

    def read(self, timeout_s: float) -> SampleBlock:
        """Return what all signals have; an empty block after ``timeout_s`` without data.

        Raises:
            MeterError: not started.
        """
        self._started()
        with self._lock:
            self._lock.wait_for(lambda: self._common()[1] > self._common()[0], timeout_s)
            return self._take()

    def stop(self) -> SampleBlock:
        """Switch the signals off and return the samples still on their way.

        Raises:
            MeterError: not started, or the instrument broke.
        """
        self._started()
        self._switch_off()
        # The driver does not say which call is the last one.
        with self._lock:
            before = -1
            deadline = time.monotonic() + 10 * _END_S
            while self._common()[1] != before and time.monotonic() < deadline:
                before = self._common()[1]
                self._lock.wait(_END_S)
            return self._take()

    def close(self) -> None:
        """Switch the signals off and let the instrument go; safe to call twice."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        self._driver = driver
        try:
            if self._streaming:
                self._switch_off()
            if self._path:
                driver.close(self._path)
        except (MeterError, RuntimeError, TimeoutError, OSError):
            # It was pulled out: nothing is left to be switched off.
            pass
        finally:
            self._driver, self._path, self._streaming = None, "", False
            driver.finalize()

    def _find(self, paths: Sequence[str]) -> str:
        config = self._config
        own = [
            path
            for path in paths
            if f"/{config.model}/" in path.lower()
            and (config.serial_number is None or path.lower().endswith(f"/{config.serial_number.lower()}"))
        ]
        if len(own) != 1:
            wanted = f"{config.model.upper()} {config.serial_number or ''}".strip()
            raise MeterError(
                f"one {wanted} was wanted; attached: {', '.join(paths) or 'none'}",
                hint="give serial_number: as its label has it, and check the cable and the udev rule",
            )
        return own[0]

    def _arrived(self, topic: str, value: Value) -> None:
        """Called by the driver from its own thread."""
        name = topic.removeprefix(f"{self._path}/").removesuffix("!data")
        step, number, data = value["decimate_factor"], value["sample_id"], value["data"]
        if not isinstance(step, int) or not isinstance(number, int) or not isinstance(data, np.ndarray):
            return
        samples = np.unpackbits(data, bitorder="little") if "gpi" in name else data
        with self._lock:
            if name in self._signals:
                self._signals[name].add(number, step, samples.astype(np.float32))
                self._lock.notify_all()

    def _common(self) -> tuple[int, int]:
        """Numbers that all signals have, in whole samples of the current; the same twice where there are none."""
        begins = [signal.begin for signal in self._signals.values()]
        ends = [signal.end for signal in self._signals.values()]
        if None in begins or None in ends:
            return 0, 0
        step, first = self._signals["s/i/"].step, self._signals["s/i/"].begin or 0
        begin = max(begin for begin in begins if begin is not None)
        end = min(end for end in ends if end is not None)
        begin = first + -(-(begin - first) // step) * step
        return begin, max(begin, first + (end - first) // step * step)

    def _take(self) -> SampleBlock:
        begin, end = self._common()
        step = self._signals["s/i/"].step
        taken = {name: signal.take(begin, end, step) for name, signal in self._signals.items() if end > begin}
        empty = np.empty(0, np.float32)
        current, voltage = taken.get("s/i/", empty), taken.get("s/v/", empty)
        levels = [level for name, level in taken.items() if "gpi" in name]
        lost = np.isnan(current) | np.isnan(voltage)
        for level in levels:
            lost |= np.isnan(level)
        logic = np.zeros(current.size, np.uint8)
        for bit, level in enumerate(levels):
            logic |= np.where(lost, 0, level).astype(np.uint8) << np.uint8(bit)
        current, voltage = np.where(lost, np.nan, current), np.where(lost, np.nan, voltage)
        with np.errstate(invalid="ignore"):
            saturated = int(np.count_nonzero(np.abs(current) >= HIGHEST_CURRENT_A))
        first, self._samples = self._samples, self._samples + current.size
        return SampleBlock(first, current, logic, int(np.count_nonzero(lost)), saturated, voltage)

    def _switch_off(self) -> None:
        driver = self._opened()
        self._streaming = False
        try:
            for name in self._signals:
                driver.publish(f"{self._path}/{name}ctrl", 0)
            for name in self._signals:
                driver.unsubscribe(f"{self._path}/{name}!data", self._arrived)
        except (RuntimeError, TimeoutError, OSError) as error:
            raise self._broken(error) from error

    def _opened(self) -> Driver:
        if self._driver is None:
            raise MeterError("Joulescope: the meter is not open", hint="call open(), or use it in a with statement")
        return self._driver

    def _started(self) -> None:
        if not self._signals:
            raise MeterError("Joulescope: the stream was not started", hint="call start() first")

    def _broken(self, error: Exception) -> MeterError:
        return MeterError(
            f"Joulescope {self._path}: it went away or refuses: {error}",
            hint="check its cable, and that no other program uses it",
            transient=True,
        )


def load_driver() -> Driver:
    """The maker's driver.

    Raises:
        ToolMissing: it is not installed.
    """
    try:
        module = import_module("pyjoulescope_driver")
    except ImportError as error:
        raise ToolMissing(
            f"pyjoulescope_driver is not installed: {error}", hint="pip install 'hil-lab[joulescope]'"
        ) from error
    return cast("Driver", module.Driver())


def make(config: MeterConfig, voltage_v: float) -> Joulescope:
    """The Joulescope of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, JoulescopeConfig):
        raise ConfigError(f"a Joulescope was asked to be a meter of kind {config.kind!r}")
    return Joulescope(config, voltage_v)
