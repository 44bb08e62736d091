"""Energy through the whole chain: firmware in QEMU, the emulated PPK2's real protocol, the recorder, the integration.

The reference is the closed form of the energy model on the cycles the device itself counted.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.toolchain import EMULATED_BOARDS, SAMPLE_BYTES, board_kind, built, entry, machine_of, model_of, needs_qemu

from lab.compiler.model import CompiledModel
from lab.devices.base import Identity
from lab.devices.connect import connected
from lab.devices.emulated_mcu import qemu_target
from lab.devices.mcu import Mcu
from lab.emulators.energy_model import EnergyModel
from lab.emulators.ppk2 import EmulatedPpk2, Faults
from lab.errors import DeviceError, MeterError
from lab.events import Job, RegionEvent, ResultEvent
from lab.metered import EnergyPlan, Metered, windowed
from lab.paths import cache_dir
from lab.power.base import SampleBlock
from lab.power.ppk2 import Ppk2
from lab.power.recorder import Recorder
from measurements.capture import find_windows, match_windows
from measurements.energy import energy_records, measure_windows
from measurements.record import Trace

pytestmark = needs_qemu

MODEL = EnergyModel(voltage_v=3.3, idle_current_a=1.1e-3, active_current_a=2.8e-3, settle_s=20e-6)
QUIET_US = 3000
AGREEMENT = 0.005
DT_S = 1e-5


@dataclass(frozen=True)
class Bench:
    """A board, its meter, and the meter's process."""

    device: Mcu
    meter: EmulatedPpk2
    clock_hz: int

    def record(self, job: Job) -> tuple[Trace, list[RegionEvent]]:
        """Run a job under the meter."""
        with Ppk2(self.meter.port, voltage_v=MODEL.voltage_v, emulated=True) as meter, Recorder(meter) as recorder:
            events = [event for event in self.device.run(job) if isinstance(event, RegionEvent)]
            block = recorder.finish(len(events), job.quiet_us * 1e-6)
        return Trace(0.0, DT_S, MODEL.voltage_v, block.current_a, block.logic, block.lost), events


@contextmanager
def bench(
    folder: Path, board: str = EMULATED_BOARDS[0], model: CompiledModel | None = None, faults: Faults | None = None
) -> Iterator[Bench]:
    with ExitStack() as stack:
        meter = stack.enter_context(EmulatedPpk2(folder, board_kind(board).clock_hz, MODEL, faults=faults or Faults()))
        target = qemu_target(machine_of(board), marker_socket=meter.marker_path)
        device = Mcu(Identity("m", board, "emulated", "QEMU", frozenset()), target)
        stack.callback(device.close)
        hello = device.deploy(built(board, model or busy_model()))
        yield Bench(device, meter, hello.clock_hz)


BUSY_HEADER = "#define LAB_MODEL_ARENA_BYTES 16\n"
BUSY = """
#include "model.h"
#include "lab_model.h"
static const char *const layer_names[] = {"spin"};
static void infer(const void *input, void *output, uint8_t *arena)
{
    uint8_t thousands = *(const uint8_t *)input;
    (void)arena;
    for (volatile uint32_t i = 0; i < thousands * 1000u; i++)
        continue;
    *(uint8_t *)output = thousands;
}
static void infer_profiled(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{
    hook(context, 0, 1);
    infer(input, output, arena);
    hook(context, 0, 0);
}
const lab_model_t lab_model = {
    .name = "busy", .input_bytes = 64, .output_bytes = 64, .arena_bytes = LAB_MODEL_ARENA_BYTES, .layer_count = 1,
    .layer_names = layer_names, .infer = infer, .infer_profiled = infer_profiled,
};
"""


def busy_model() -> CompiledModel:
    """A model that loops a thousand times for each unit of a sample's first byte: windows as long as a test wants."""
    return model_of("busy", {"model.c": BUSY, "model.h": BUSY_HEADER}, 16)


def busy(*thousands: int) -> Job:
    """Inferences of about 5,000 cycles (0.2 ms) for each thousand."""
    samples = b"".join(bytes([count]) + bytes(SAMPLE_BYTES - 1) for count in thousands)
    return Job("infer", samples, len(thousands), warmup=0, quiet_us=QUIET_US)


@pytest.mark.parametrize("board", EMULATED_BOARDS)
def test_energy_agrees_with_the_closed_form(board: str, tmp_path: Path) -> None:
    """Every window by itself, from 4 ms to 30 ms: each edge is known to one sample of 10 µs."""
    with bench(tmp_path, board) as one:
        trace, events = one.record(busy(20, 150, 40, 150, 80, 20, 33, 101))
        windows = match_windows(trace, events, one.clock_hz)
        assert len(windows) == len(events) == 8
        active_s = np.array([event.cycles / one.clock_hz for event in events])
        assert active_s.min() > 3e-3
        measured = measure_windows(trace, windows, QUIET_US * 1e-6)
        expected = np.array([MODEL.energy_j(seconds) for seconds in active_s])
        assert measured.energy_j == pytest.approx(expected, rel=AGREEMENT)
        assert measured.energy_j.sum() == pytest.approx(expected.sum(), rel=AGREEMENT / 2)
        net = np.array([MODEL.net_energy_j(seconds) for seconds in active_s])
        assert measured.net_j == pytest.approx(net, rel=2 * AGREEMENT)
        assert measured.net_j.sum() == pytest.approx(net.sum(), rel=AGREEMENT)
        assert trace.lost == 0


def test_records_of_energy_gross_and_net(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        trace, events = one.record(busy(*[100] * 20))
        records = energy_records(trace, events, one.clock_hz, "modelled", quiet_s=QUIET_US * 1e-6)
    active_s = events[0].cycles / one.clock_hz
    found = {record.metric: record for record in records}
    assert found["energy"].median == pytest.approx(MODEL.energy_j(active_s), rel=AGREEMENT)
    assert found["power.peak"].median == pytest.approx(3.3 * 2.8e-3, rel=AGREEMENT)
    assert found["energy"].n == 20
    assert found["energy.net"].median == pytest.approx(MODEL.net_energy_j(active_s), rel=AGREEMENT)
    assert found["power.idle"].median == pytest.approx(MODEL.idle_power_w, rel=AGREEMENT)
    assert {record.alignment for record in records} == {"marker"}


@pytest.mark.parametrize("name", ["m4f", "m7", "m55"])
def test_the_devices_of_the_bench_are_metered(name: str) -> None:
    """As a user gets it: inferences of the tiny model, each seen by the meter as one window."""
    found = entry(name)
    samples = random.Random(3).randbytes(6 * SAMPLE_BYTES)
    with connected(found, cache_dir()) as device:
        device.deploy(built(found.board.kind))
        meter = device.meter()
        assert meter is not None
        with meter, Recorder(meter) as recorder:
            events = list(device.run(Job("infer", samples, 6, quiet_us=QUIET_US)))
            block = recorder.finish(6, QUIET_US * 1e-6)
        assert meter.info.voltage_v == found.meter_voltage_v
        assert meter.info.emulated
    assert sum(isinstance(event, ResultEvent) for event in events) == 6
    assert block.lost == 0
    trace = Trace(0.0, DT_S, found.meter_voltage_v, block.current_a, block.logic, block.lost)
    assert len(find_windows(trace)) == 6


def test_idle_before_and_after(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        trace, _ = one.record(busy(30, 30))
    quiet = int(QUIET_US * 1e-6 / DT_S) - 2
    for stretch in (trace.current_a[:quiet], trace.current_a[-quiet:]):
        assert float(np.mean(stretch, dtype=np.float64)) == pytest.approx(MODEL.idle_current_a, rel=AGREEMENT)


def test_one_meter_serves_many_jobs_and_resets(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        job = busy(20, 30, 40, 50)
        first = [event.cycles for event in one.record(job)[1]]
        one.device.reset("power")
        trace, events = one.record(job)
        assert [event.cycles for event in events] == first
        assert len(match_windows(trace, events, one.clock_hz)) == 4
        one.device.reset("soft")
        assert len(find_windows(one.record(job)[0])) == 4


# ---- many passes in one window ---------------------------------------------------------------------------------------


def test_passes_shorter_than_a_sample_are_measured_in_windows(tmp_path: Path) -> None:
    """A pass of some microseconds has no sample of its own at 100 kHz; 30 ms of them have their energy to 0.2 %."""
    with bench(tmp_path) as one, Ppk2(one.meter.port, voltage_v=MODEL.voltage_v, emulated=True) as meter:
        lasted = [event for event in one.device.run(busy(0)) if isinstance(event, RegionEvent)]
        pass_s = lasted[0].cycles / one.clock_hz
        assert pass_s < DT_S
        metered = Metered(meter, 0, one.clock_hz, MODEL.voltage_v, lambda job: regions(one.device, job))
        records = metered.long_records(busy(0, 0, 0), pass_s, EnergyPlan(0.03, 0.05, max_windows=7))
    found = {record.metric: record for record in records}
    windows = windowed(busy(0, 0, 0), pass_s, 0.03)
    (event,) = regions_of_a_window(tmp_path, windows)
    active_s = event.cycles / one.clock_hz
    assert active_s >= 0.03
    assert found["energy"].n == 7
    assert found["energy"].median * windows.window == pytest.approx(MODEL.energy_j(active_s), rel=2e-3)
    assert found["energy.net"].median * windows.window == pytest.approx(MODEL.net_energy_j(active_s), rel=2e-3)
    assert found["power.idle"].median == pytest.approx(MODEL.idle_power_w, rel=AGREEMENT)
    assert "shorter than the 10 s that MLPerf Tiny asks for" in found["energy"].note


def regions(device: Mcu, job: Job) -> list[RegionEvent]:
    return [event for event in device.run(job) if isinstance(event, RegionEvent)]


def regions_of_a_window(folder: Path, job: Job) -> list[RegionEvent]:
    """What the device reports of a window; instructions repeat."""
    (folder / "again").mkdir()
    with bench(folder / "again") as one:
        found = regions(one.device, job)
        assert [event.passes for event in found] == [job.window]
        return found


def test_what_the_meter_left_out_of_its_stream_is_told(tmp_path: Path) -> None:
    """Words that come twice cost no energy, and no one would know."""
    with bench(tmp_path, faults=Faults(duplicate_every=400)) as one:
        with Ppk2(one.meter.port, voltage_v=MODEL.voltage_v, emulated=True) as meter:
            metered = Metered(meter, 0, one.clock_hz, MODEL.voltage_v, lambda job: regions(one.device, job))
            found = {record.metric: record for record in metered.short_records(busy(50, 50, 50), None)}
        (lasted, *_) = regions(one.device, busy(50))
    assert found["energy"].median == pytest.approx(MODEL.energy_j(lasted.cycles / one.clock_hz), rel=AGREEMENT)
    assert metered.trace is not None
    assert metered.notes == [f"capture 1: {metered.trace.current_a.size // 400} words came twice and were left out"]


LAYERS = {"short": 3, "long": 30, "middle": 11}
"""Thousands of loops of each layer."""
LAYERED = BUSY.replace(
    """    hook(context, 0, 1);
    infer(input, output, arena);
    hook(context, 0, 0);
""",
    """    (void)arena, (void)input;
    for (uint32_t layer = 0; layer < 3; layer++) {
        hook(context, layer, 1);
        spin(layers[layer]);
        hook(context, layer, 0);
    }
    *(uint8_t *)output = 0;
""",
).replace(
    """    uint8_t thousands = *(const uint8_t *)input;
    (void)arena;
    for (volatile uint32_t i = 0; i < thousands * 1000u; i++)
        continue;
    *(uint8_t *)output = thousands;
""",
    """    (void)arena, (void)input;
    for (uint32_t layer = 0; layer < 3; layer++)
        spin(layers[layer]);
    *(uint8_t *)output = 0;
""",
).replace(
    "static void infer(",
    """static const uint32_t layers[] = {3, 30, 11};
static void spin(uint32_t thousands)
{
    for (volatile uint32_t i = 0; i < thousands * 1000u; i++)
        continue;
}
static void infer(""",
)


def test_each_layer_has_its_energy_from_the_trace_of_single_passes(tmp_path: Path) -> None:
    """The model draws the same in all layers, so each one's energy is its time times that power."""
    sources = {"model.c": LAYERED.replace(".layer_count = 1", ".layer_count = 3"), "model.h": BUSY_HEADER}
    with bench(tmp_path, model=model_of("layered", sources, 16)) as one:
        job = busy(*[1] * 12)
        # Edges that the meter reads after its START would count as its own.
        unmarked = regions(one.device, replace(job, profile=True, marker_line=False))
        profiled = [event for event in unmarked if event.region == "layer"]
        with Ppk2(one.meter.port, voltage_v=MODEL.voltage_v, emulated=True) as meter:
            metered = Metered(meter, 0, one.clock_hz, MODEL.voltage_v, lambda job: regions(one.device, job))
            metered.short_records(job, None)
            records = metered.layer_records(job, profiled[:3], list(LAYERS))
    assert [record.region for record in records] == [f"layer/{k:02} {name}" for k, name in enumerate(LAYERS)]
    for record, event in zip(records, profiled, strict=False):
        true_j = MODEL.voltage_v * MODEL.active_current_a * event.cycles / one.clock_hz
        # The supply settles with 20 µs: what flows at a pass's begin is missing from its first layer.
        missing_j = MODEL.voltage_v * (MODEL.active_current_a - MODEL.idle_current_a) * MODEL.settle_s
        assert true_j - 1.5 * missing_j < record.median < 1.005 * true_j
        assert record.metric == "energy.layer"
        assert record.source == "modelled"
        assert record.run_uncertainty is not None
        assert record.class_uncertainty is not None
        assert 0.1 * true_j < record.class_uncertainty < 0.11 * true_j


# ---- the meter fails ----------------------------------------------------------------------------------------------


def test_a_meter_that_is_killed_is_a_meters_error_and_the_device_goes_on(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        job = busy(*[20] * 10)
        with Ppk2(one.meter.port, voltage_v=3.3, emulated=True) as meter, Recorder(meter) as recorder:
            events = one.device.run(job)
            next(events)
            os.kill(one.meter.pid, signal.SIGKILL)
            # The device knows nothing of its meter.
            assert sum(isinstance(event, RegionEvent) for event in events) == 9
            with pytest.raises(MeterError) as error:
                recorder.finish(10, QUIET_US * 1e-6)
            assert error.value.transient
            assert not isinstance(error.value, DeviceError)
            # What came before is kept.
            assert isinstance(recorder.samples(), SampleBlock)


def test_a_meter_that_falls_silent_is_noticed(tmp_path: Path) -> None:
    """Stopped, not killed: its port stays open and nothing comes."""
    with bench(tmp_path) as one:
        with Ppk2(one.meter.port, voltage_v=3.3, emulated=True) as meter, Recorder(meter) as recorder:
            os.kill(one.meter.pid, signal.SIGSTOP)
            try:
                events = list(one.device.run(busy(20, 20)))
                with pytest.raises(MeterError, match="did not confirm"):
                    recorder.finish(2, QUIET_US * 1e-6, stall_s=0.2)
            finally:
                os.kill(one.meter.pid, signal.SIGCONT)
        assert sum(isinstance(event, RegionEvent) for event in events) == 2


def test_windows_that_never_come_end_the_waiting(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        with Ppk2(one.meter.port, voltage_v=3.3, emulated=True) as meter, Recorder(meter) as recorder:
            list(one.device.run(busy(20, 20)))
            block = recorder.finish(3, QUIET_US * 1e-6, stall_s=0.2)
        assert len(find_windows(Trace(0.0, DT_S, 3.3, block.current_a, block.logic))) == 2
