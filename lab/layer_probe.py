"""What a network's power trace gives away: a trace with a level per layer on the emulated meter, and its reading.

The energy model of emulated boards has two levels, idle and active; under it a pass is one flat stretch and shows no
layers. So each layer gets a level of its own from what was counted exactly in the profiled pass: its instructions,
loads and stores. A load takes a Cortex-M4 two cycles, a store one (write buffer; Arm 100166, "Instruction set
summary"), so a load is taken to cost twice what a store does:

    i = idle + (active - idle) · (1 + loads/n + ½·stores/n) / (1 + 0.4 + ½·0.08)      n instructions

where 0.4 and 0.08 are those of an average kernel, for which the level is the board's active current. The weights are an
assumption, every figure from it is ``modelled``. On hardware the trace of the metered run is read itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.ppk2 import EmulatedPpk2
from lab.energy_config import EnergyModel
from lab.power.ppk2 import Ppk2
from lab.workloads.base import LayerProbe
from measurements.layer_recovery import Recovery, Template, kinds_of, recover_layers
from measurements.record import Layer, Record, Trace
from measurements.statistics import make_record

PASSES = 5
PAUSE_S = 3e-3

_AVERAGE_LOADS, _AVERAGE_STORES = 0.40, 0.08
_STORE_WEIGHT = 0.5


def level_a(model: EnergyModel, loads: float, stores: float) -> float:
    """Current, ampere, of a kernel with so many loads and stores per instruction."""
    weight = 1.0 + loads + _STORE_WEIGHT * stores
    average = 1.0 + _AVERAGE_LOADS + _STORE_WEIGHT * _AVERAGE_STORES
    return model.idle_current_a + (model.active_current_a - model.idle_current_a) * weight / average


def script(layers: Sequence[Layer], model: EnergyModel, clock_hz: float, voltage_v: float) -> ScriptedLoad:
    """Passes through the layers, one level each, with idle between them; no marker."""
    pause = Segment(PAUSE_S, model.idle_current_a, 0, voltage_v, model.settle_s)
    one = [
        Segment(layer.cycles / clock_hz, _level_of(layer, model), 0, voltage_v, model.settle_s)
        for layer in layers
        if layer.cycles
    ]
    return ScriptedLoad([pause, *([*one, pause] * PASSES)])


def record(load: ScriptedLoad, voltage_v: float) -> Trace:
    """What the emulated PPK2 shows of a load, through its own protocol.

    Raises:
        MeterError, EmulatorError: the meter failed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lab-probe-") as folder,
        EmulatedPpk2(Path(folder), 1_000_000, load) as peer,
        Ppk2(peer.port, voltage_v=voltage_v, emulated=True) as meter,
    ):
        meter.start()
        block = meter.stop()
        return Trace(0.0, 1.0 / meter.info.sample_rate_hz, voltage_v, block.current_a, block.logic, block.lost)


def recover(trace: Trace, layers: Sequence[Layer], model: EnergyModel, probe: LayerProbe) -> Recovery:
    """Read a trace, and lay beside it what is true."""
    templates = [
        Template(
            one.kind,
            trace.voltage_v * level_a(model, one.loads_per_instruction, one.stores_per_instruction),
        )
        for one in probe.profiled
    ]
    found = kinds_of(recover_layers(trace, model.settle_s), templates)
    return Recovery(found, tuple(layer.operator for layer in layers if layer.cycles))


def probe_records(
    layers: Sequence[Layer], model: EnergyModel, clock_hz: float, voltage_v: float, probe: LayerProbe
) -> tuple[tuple[Record, ...], str]:
    """Records of what the modelled trace gives away, and a sentence for the report.

    ``layers.found``, ``layers.true`` (counts), ``layers.kind_rate`` and ``layers.kind_rate.majority`` (shares).

    Raises:
        MeterError, EmulatorError: the meter failed.
    """
    result = recover(record(script(layers, model, clock_hz, voltage_v), voltage_v), layers, model, probe)
    note = "trace modelled from the exact loads and stores of each layer, recorded by the emulated PPK2"
    figures = {
        "layers.found": float(len(result.found)),
        "layers.true": float(len(result.true)),
        "layers.kind_rate": result.kind_rate,
        "layers.kind_rate.majority": result.majority_rate,
    }
    records = tuple(make_record("run", name, "1", "modelled", [value], note=note) for name, value in figures.items())
    seen = ", ".join(result.found) or "none"
    verdict = "This trace shows" if result.count_error == 0 else "Of this trace simple power analysis makes"
    text = (
        f"{verdict} {len(result.found)} layers of {len(result.true)} ({seen}); {result.kind_rate:.0%} of them in kind "
        f"and order, against {result.majority_rate:.0%} by calling all of them the most frequent kind. The trace is "
        "modelled: one level per layer from its exact loads and stores."
    )
    return records, text


def _level_of(layer: Layer, model: EnergyModel) -> float:
    if not layer.instructions:
        return model.active_current_a
    return level_a(model, (layer.loads or 0) / layer.instructions, (layer.stores or 0) / layer.instructions)
