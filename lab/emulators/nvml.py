"""An object with the function names of ``pynvml`` whose GPUs follow loads.

The energy counter and the power reading are updated every :data:`UPDATE_S`; power is the mean over the last
:data:`lab.power.nvml.AVERAGE_S`, as on GPUs from Ampere on. Voltages of the load count, its currents are those at that
voltage.
"""

# ruff: noqa: N802 - methods and fields have the names of the library.
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lab.emulators.load import Load
from lab.power.nvml import AVERAGE_S

UPDATE_S = 0.1
_ROUNDING_S = 1e-9
_TEXTS = {3: "Not Supported", 6: "Not Found", 9: "Driver Not Loaded", 15: "GPU is lost", 999: "Unknown Error"}


class EmulatedNvmlError(Exception):
    """As ``pynvml.NVMLError``: ``value`` is the code."""

    def __init__(self, value: int) -> None:
        super().__init__(_TEXTS[value])
        self.value = value


@dataclass(frozen=True)
class Gpu:
    """An emulated GPU.

    Attributes:
        uuid, name: of it.
        load: what it takes.
        counts: whether it has an energy counter.
        lost_s: when it falls off the bus, seconds of the load.
        failing_s: between these times readings fail.
    """

    uuid: str
    name: str
    load: Load
    counts: bool = True
    lost_s: float = math.inf
    failing_s: tuple[float, float] = (math.inf, math.inf)


class EmulatedNvml:
    """The library.

    Args:
        gpus: what is there.
        now: time of the loads, seconds.
        driver: whether a driver is loaded.
    """

    NVMLError: type[Exception] = EmulatedNvmlError

    def __init__(self, gpus: tuple[Gpu, ...], now: Callable[[], float], driver: bool = True) -> None:
        self._gpus = gpus
        self._now = now
        self._driver = driver
        self.users = 0

    def nvmlInit(self) -> None:
        """Count a user."""
        if not self._driver:
            raise EmulatedNvmlError(9)
        self.users += 1

    def nvmlShutdown(self) -> None:
        """Count a user less."""
        self.users -= 1

    def nvmlDeviceGetCount(self) -> int:
        """How many GPUs."""
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        """One of them."""
        return self._gpus[index]

    def nvmlDeviceGetUUID(self, handle: object) -> str:
        """Its UUID."""
        return _gpu(handle).uuid

    def nvmlDeviceGetName(self, handle: object) -> str:
        """Its name."""
        return _gpu(handle).name

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:
        """Millijoule since time 0, as of the last update."""
        gpu = _gpu(handle)
        if not gpu.counts:
            raise EmulatedNvmlError(3)
        updated_s = self._updated_s(gpu)
        return int(gpu.load.truth(0.0, updated_s).energy_j * 1e3) if updated_s else 0

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:
        """Milliwatt, the mean over the last second as of the last update."""
        gpu = _gpu(handle)
        updated_s = self._updated_s(gpu)
        return int(gpu.load.truth(max(0.0, updated_s - AVERAGE_S), max(updated_s, UPDATE_S)).mean_power_w * 1e3)

    def _updated_s(self, gpu: Gpu) -> float:
        now_s = self._now()
        if now_s >= gpu.lost_s:
            raise EmulatedNvmlError(15)
        if gpu.failing_s[0] <= now_s < gpu.failing_s[1]:
            raise EmulatedNvmlError(999)
        return math.floor(now_s / UPDATE_S + _ROUNDING_S) * UPDATE_S


def _gpu(handle: object) -> Gpu:
    if not isinstance(handle, Gpu):
        raise EmulatedNvmlError(6)
    return handle
