"""Energy of an Nvidia GPU through NVML (package ``nvidia-ml-py``, module ``pynvml``).

Where the GPU has one (Volta and later), the counter ``nvmlDeviceGetTotalEnergyConsumption`` (mJ since the driver was
loaded) is read; elsewhere power ``nvmlDeviceGetPowerUsage`` (mW) is polled, which from Ampere on (GA100 excepted) is
the mean over the last second (NVML API reference). Both are of the whole board and are updated every 10 to 100 ms.

What the sensor behind them sees was measured by Yang et al., "Part-time Power Measurements: nvidia-smi's Lack of
Attention" (arXiv 2312.02741): readings are off by a gain of about 5 % rather than by a constant, and on A100 and H100
only 25 % of the time is looked at, so that energies were wrong by up to 65 % until the load ran for seconds and was
repeated at shifted times. The class here is therefore 5 %, and 65 % on GPUs of those two families. Use windows of
several seconds.

It measures no current: currents are power over the voltage that the bench names, and have no meaning of their own.
"""

# ruff: noqa: N802 - methods and fields have the names of the library.
from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Protocol, cast

from lab.errors import ConfigError, MeterError, ToolMissing
from lab.meter_config import MeterConfig, NvmlConfig
from lab.power.base import RangeUncertainty
from lab.power.polled import Clock, Count, Counter, Failed, Gauge, PolledMeter, Reading, SourceInfo
from lab.power.streamed import Loop, StreamedMeter
from lab.transports.remote import Remote

UPDATE_S = 0.1
AVERAGE_S = 1.0
RELATIVE, RELATIVE_PART_TIME = 0.05, 0.65
PART_TIME = ("A100", "A800", "H100", "H800", "H200", "GH200")

_MOST_W = 10_000.0
_NOT_SUPPORTED = 3
# Codes after which there is no use in asking again: uninitialized, permission, insufficient power, GPU is lost.
_GONE = (1, 4, 8, 15)


class Nvml(Protocol):
    """The part of ``pynvml`` that is used, under its own names. Its errors have the code as ``value``."""

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...

    def nvmlDeviceGetUUID(self, handle: object) -> str: ...

    def nvmlDeviceGetName(self, handle: object) -> str: ...

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int: ...

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int: ...

    @property
    def NVMLError(self) -> type[Exception]: ...


def load_nvml() -> Nvml:
    """The library.

    Raises:
        ToolMissing: the package is not installed.
    """
    try:
        return cast("Nvml", import_module("pynvml"))
    except ImportError as error:
        raise ToolMissing("the package nvidia-ml-py is not installed", hint="pip install 'hil-lab[meters]'") from error


def find_gpus(nvml: Nvml) -> dict[str, tuple[object, str]]:
    """UUID to handle and name of every GPU of an initialized library."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return {nvml.nvmlDeviceGetUUID(handle): (handle, nvml.nvmlDeviceGetName(handle)) for handle in handles}


def gpu_names(nvml: Nvml) -> list[str]:
    """``UUID: name`` of the GPUs of this computer; none without a driver."""
    try:
        nvml.nvmlInit()
        try:
            return [f"{uuid}: {name}" for uuid, (_, name) in find_gpus(nvml).items()]
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return []


class NvmlSource:
    """One GPU.

    Args:
        config: which.
        nvml: the library.
        voltage_v: by which power is made current.
    """

    def __init__(self, config: NvmlConfig, nvml: Nvml, voltage_v: float) -> None:
        self._config = config
        self._nvml = nvml
        self._voltage_v = voltage_v
        self._handle: object = None
        self._identity = "NVML"
        self._counts = False
        self._initialized = False

    def open(self) -> SourceInfo:
        """Find the GPU.

        Raises:
            MeterError: there is no driver, or no such GPU.
        """
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            self._initialized = True
            gpus = find_gpus(nvml)
        except nvml.NVMLError as error:
            self.close()
            raise MeterError(f"NVML: {error}", hint="is Nvidia's driver loaded? See `nvidia-smi`") from error
        try:
            uuid = chosen_gpu(self._config, {uuid: name for uuid, (_, name) in gpus.items()})
        except MeterError:
            self.close()
            raise
        self._handle, name = gpus[uuid]
        self._identity = f"{name} {uuid}"
        self._counts = self._has_counter()
        notes = _notes(name)
        if not self._counts:
            notes.append("no energy counter: polled power, a mean over up to 1 s")
        return SourceInfo(
            identity=self._identity,
            ranges=(RangeUncertainty(_MOST_W, _relative(name)),),
            update_s=UPDATE_S,
            measures_voltage=False,
            measures_current=False,
            counter=Counter("energy", 1e-3, 0, _MOST_W) if self._counts else None,
            notes=tuple(notes),
            extra_time_s=0.0 if self._counts else AVERAGE_S,
        )

    def read(self) -> Reading:
        """The counter, or power.

        Raises:
            MeterError: the GPU is gone.
        """
        nvml = self._nvml
        try:
            if self._counts:
                return Count(nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
            power_w = nvml.nvmlDeviceGetPowerUsage(self._handle) * 1e-3
        except nvml.NVMLError as error:
            if _code(error) in (*_GONE, _NOT_SUPPORTED):
                raise MeterError(f"{self._identity}: {error}", hint="`nvidia-smi` says more") from error
            return Failed(str(error))
        return Gauge(power_w / self._voltage_v, self._voltage_v)

    def close(self) -> None:
        """Let the library go; safe to call twice."""
        if self._initialized:
            self._initialized = False
            self._nvml.nvmlShutdown()

    def _has_counter(self) -> bool:
        try:
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError as error:
            if _code(error) == _NOT_SUPPORTED:
                return False
            self.close()
            raise MeterError(f"{self._identity}: {error}", hint="`nvidia-smi` says more") from error
        return True


class RemoteNvml:
    """A GPU of the device by ``nvidia-smi``, which asks NVML there; see :class:`lab.power.streamed.StreamSource`.

    Its power is polled: ``nvidia-smi`` does not tell the energy counter.

    Args:
        config: which GPU.
        remote: the device.
        voltage_v: by which power is made current.
    """

    def __init__(self, config: NvmlConfig, remote: Remote, voltage_v: float) -> None:
        self._config = config
        self._remote = remote
        self._voltage_v = voltage_v
        self._uuid = ""

    def open(self) -> SourceInfo:
        """Find the GPU.

        Raises:
            MeterError: there is no driver, or no such GPU.
        """
        done = self._remote.run(("nvidia-smi", "--query-gpu=uuid,name", "--format=csv,noheader"))
        if done.status:
            words = (done.stdout + done.stderr).decode(errors="replace").strip() or f"status {done.status}"
            raise MeterError(f"NVML on {self._remote.name}: {words}", hint="is Nvidia's driver installed there?")
        gpus = dict(line.split(", ", 1) for line in done.text.splitlines() if ", " in line)
        self._uuid = chosen_gpu(self._config, gpus)
        name = gpus[self._uuid]
        return SourceInfo(
            identity=f"{name} {self._uuid}",
            ranges=(RangeUncertainty(_MOST_W, _relative(name)),),
            update_s=UPDATE_S,
            measures_voltage=False,
            measures_current=False,
            notes=(*_notes(name), "polled power, a mean over up to 1 s"),
            extra_time_s=AVERAGE_S,
        )

    def loop(self) -> Loop:
        """The program that goes on printing."""
        period_ms = round((self._config.period or UPDATE_S) * 1e3)
        query = ("--query-gpu=power.draw", "--format=csv,noheader,nounits", "-i", self._uuid, "-lms", str(period_ms))
        return Loop("lines", ("nvidia-smi", *query))

    def take(self, text: str) -> Reading:
        """A line's power."""
        try:
            return Gauge(float(text) / self._voltage_v, self._voltage_v)
        except ValueError:
            return Failed(f"nvidia-smi: {text[:60]!r}")

    def close(self) -> None:
        """Nothing is held open."""


def chosen_gpu(config: NvmlConfig, gpus: Mapping[str, str]) -> str:
    """The UUID of the GPU that is meant.

    Args:
        config: names it, or leaves it out where there is one.
        gpus: UUID to name.

    Raises:
        MeterError: there is no such GPU, or more than one; lists them.
    """
    wanted = config.uuid
    if (wanted not in gpus) if wanted is not None else (len(gpus) != 1):
        listed = ", ".join(f"{uuid} ({name})" for uuid, name in gpus.items()) or "none"
        raise MeterError(
            f"NVML: {f'no GPU {wanted}' if wanted is not None else f'{len(gpus)} GPUs'}; there are: {listed}",
            hint="write uuid: of one of them",
        )
    return wanted if wanted is not None else next(iter(gpus))


def _relative(name: str) -> float:
    return RELATIVE_PART_TIME if any(family in name for family in PART_TIME) else RELATIVE


def _notes(name: str) -> list[str]:
    notes = ["of the whole board"]
    if any(family in name for family in PART_TIME):
        notes.append("its sensor looks at 25 % of the time: use windows of seconds, repeated at shifted times")
    return notes


def make_on(config: MeterConfig, voltage_v: float, remote: Remote) -> StreamedMeter:
    """The meter of a device's GPU; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, NvmlConfig):
        raise ConfigError(f"NVML was asked to be a meter of kind {config.kind!r}")
    return StreamedMeter("nvml", RemoteNvml(config, remote, voltage_v), remote, voltage_v, config.period)


def _code(error: Exception) -> object:
    return getattr(error, "value", None)


def nvml_meter(
    config: NvmlConfig, voltage_v: float, nvml: Nvml | None = None, clock: Clock | None = None
) -> PolledMeter:
    """A meter that reads a GPU's counter.

    Raises:
        ToolMissing: the package is not installed.
    """
    return PolledMeter("nvml", NvmlSource(config, nvml or load_nvml(), voltage_v), voltage_v, config.period, clock)


def make(config: MeterConfig, voltage_v: float) -> PolledMeter:
    """The NVML meter of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, NvmlConfig):
        raise ConfigError(f"NVML was asked to be a meter of kind {config.kind!r}")
    return nvml_meter(config, voltage_v)
