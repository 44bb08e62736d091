"""Energy of a GPU, through an object with the library's function names whose GPUs follow loads."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.virtual_clock import VirtualClock, stream

from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.nvml import EmulatedNvml, Gpu
from lab.errors import MeterError, ToolMissing
from lab.meter_config import NvmlConfig
from lab.power.base import SampleBlock
from lab.power.nvml import RELATIVE, RELATIVE_PART_TIME, Nvml, gpu_names, nvml_meter
from lab.power.polled import PolledMeter
from lab.power.registry import make_meter

_V = 12.0
_LOAD = ScriptedLoad([Segment(*times, voltage_v=_V) for times in ((2.0, 4.0), (5.0, 25.0), (20.0, 4.0))])
_A = Gpu("GPU-aaaa", "NVIDIA GeForce RTX 4090", _LOAD)
_B = Gpu("GPU-bbbb", "NVIDIA H100 80GB HBM3", _LOAD)
_OLD = Gpu("GPU-cccc", "Tesla P100-PCIE-16GB", _LOAD, counts=False)


def measured(
    gpu: Gpu, until_s: float, **settings: object
) -> tuple[SampleBlock, PolledMeter, EmulatedNvml]:
    clock = VirtualClock(until_s)
    nvml = EmulatedNvml((gpu,), clock.elapsed)
    config = NvmlConfig.model_validate({"kind": "nvml", **settings})
    meter = nvml_meter(config, _V, nvml, clock)
    meter.open()
    return stream(meter, clock), meter, nvml


def energy_j(block: SampleBlock, meter: PolledMeter) -> float:
    return float(np.nansum(block.current_a.astype(np.float64)) * _V / meter.info.sample_rate_hz)


@pytest.mark.parametrize("period", [0.1, 0.13, 0.25])
def test_the_counter_s_energy_against_the_closed_form(period: float) -> None:
    """To a millijoule and one update, at periods that do and do not keep step with the updates."""
    block, meter, nvml = measured(_A, 10.0, period=period)
    duration_s = block.current_a.size * period
    truth_j = _LOAD.truth(0.0, duration_s).energy_j
    assert energy_j(block, meter) == pytest.approx(truth_j, abs=25 * _V * 0.1 + 2e-3)
    assert block.lost == 0
    assert not meter.info.measures_current
    assert meter.info.relative_uncertainty == RELATIVE
    assert meter.info.time_uncertainty_s == pytest.approx(period + 0.1)
    meter.close()
    meter.close()
    assert nvml.users == 0


def test_without_a_counter_power_is_polled() -> None:
    """Its mean over a second is late: 1 s more of time uncertainty, and the note says why."""
    block, meter, _ = measured(_OLD, 10.0)
    truth = _LOAD.truth(0.0, 10.0)
    assert energy_j(block, meter) == pytest.approx(truth.energy_j, abs=25 * _V * meter.info.time_uncertainty_s)
    assert meter.info.time_uncertainty_s == pytest.approx(1.2)
    assert "no energy counter: polled power" in meter.info.identity
    # A second after the load rose the mean has come up, not before.
    assert block.current_a[25] < 20.0
    assert block.current_a[35] == pytest.approx(25.0)


def test_part_time_sensors_are_in_the_uncertainty_and_the_note() -> None:
    _, meter, _ = measured(_B, 1.0)
    assert meter.info.relative_uncertainty == RELATIVE_PART_TIME
    assert "its sensor looks at 25 % of the time" in meter.info.identity


def test_a_gpu_is_chosen_by_its_uuid() -> None:
    nvml = EmulatedNvml((_A, _B), lambda: 0.0)
    assert gpu_names(nvml) == ["GPU-aaaa: NVIDIA GeForce RTX 4090", "GPU-bbbb: NVIDIA H100 80GB HBM3"]
    info = nvml_meter(NvmlConfig(kind="nvml", uuid="GPU-bbbb"), _V, nvml).open()
    assert info.identity.startswith("NVIDIA H100 80GB HBM3 GPU-bbbb")
    for uuid, message in (("GPU-dddd", "no GPU GPU-dddd; there are: GPU-aaaa"), (None, "2 GPUs; there are: GPU-aaaa")):
        with pytest.raises(MeterError, match=message):
            nvml_meter(NvmlConfig(kind="nvml", uuid=uuid), _V, nvml).open()
    assert nvml.users == 1


def test_no_driver_and_no_gpu() -> None:
    nvml = EmulatedNvml((), lambda: 0.0, driver=False)
    assert gpu_names(nvml) == []
    with pytest.raises(MeterError, match="NVML: Driver Not Loaded"):
        nvml_meter(NvmlConfig(kind="nvml"), _V, nvml).open()
    with pytest.raises(MeterError, match="0 GPUs; there are: none"):
        nvml_meter(NvmlConfig(kind="nvml"), _V, EmulatedNvml((), lambda: 0.0)).open()


def test_the_period_may_not_be_below_the_update() -> None:
    with pytest.raises(MeterError, match="updates every 100 ms; read every 10 ms"):
        nvml_meter(NvmlConfig(kind="nvml", period=0.01), _V, EmulatedNvml((_A,), lambda: 0.0)).open()


def test_a_reading_that_fails_is_lost_and_a_gpu_that_is_gone_ends_it() -> None:
    failing = Gpu("GPU-eeee", "NVIDIA L4", _LOAD, failing_s=(2.95, 3.15))
    block, meter, _ = measured(failing, 6.0)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == [29, 30, 31]
    assert meter.report.failed == 2
    lost = Gpu("GPU-ffff", "NVIDIA L4", _LOAD, lost_s=3.0)
    with pytest.raises(MeterError, match="NVIDIA L4 GPU-ffff: GPU is lost"):
        measured(lost, 6.0)


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ToolMissing, match="nvidia-ml-py is not installed") as caught:
        make_meter(NvmlConfig(kind="nvml"), _V)
    assert caught.value.hint == "pip install 'hil-lab[meters]'"


def test_the_emulated_library_has_the_real_one_s_names() -> None:
    """And the real one says that there is no driver, or lists the GPUs of this computer."""
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is an extra")
    for name in (name for name in vars(Nvml) if name.startswith(("nvml", "NVML"))):
        assert hasattr(pynvml, name)
        assert hasattr(EmulatedNvml, name)
    codes = {"NOT_SUPPORTED": 3, "UNINITIALIZED": 1, "NO_PERMISSION": 4, "INSUFFICIENT_POWER": 8, "GPU_IS_LOST": 15}
    assert {name: getattr(pynvml, f"NVML_ERROR_{name}") for name in codes} == codes
    assert all(name.startswith("GPU-") for name in gpu_names(pynvml))
