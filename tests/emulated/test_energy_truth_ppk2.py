"""A few of the random loads through the PPK2's real protocol: a process on a PTY, our reader, our method."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lab.emulators.ppk2 import SAMPLE_RATE_HZ, EmulatedPpk2
from lab.energy_truth import Case, random_case
from lab.metered import class_of
from lab.power.ppk2 import Ppk2
from lab.power.recorder import Recorder
from measurements.energy import energy_records
from measurements.record import Trace

# The peer rounds to the meter's own steps, with dither: up to 1 mA in the range of the bursts.
AGREEMENT = 0.003


def cases(count: int) -> list[Case]:
    """Loads for a PPK2: at its rate, at a voltage that does not move."""
    fitting = (
        case
        for case in map(random_case, itertools.count(1000))
        if case.sample_rate_hz == SAMPLE_RATE_HZ and not case.measures_voltage
    )
    return list(itertools.islice(fitting, count))


@pytest.mark.parametrize("case", cases(3), ids=["first", "second", "third"])
def test_net_energy_of_a_random_load_through_the_protocol(case: Case, tmp_path: Path) -> None:
    with (
        EmulatedPpk2(tmp_path, case.clock_hz, case.load, seed=5) as peer,
        Ppk2(peer.port, voltage_v=case.voltage_v, emulated=True) as meter,
        Recorder(meter) as recorder,
    ):
        block = recorder.finish(len(case.passes), case.quiet_s)
        meter_class = class_of(meter.info)
    trace = Trace(0.0, 1 / SAMPLE_RATE_HZ, case.voltage_v, block.current_a, block.logic, block.lost)
    records = energy_records(
        trace, case.passes, case.clock_hz, "modelled", quiet_s=case.quiet_s, meter=meter_class
    )
    (net,) = (record for record in records if record.metric == "energy.net")
    assert net.n == len(case.passes)
    assert sorted(net.raw) == pytest.approx(sorted(case.true_net_j), rel=2 * AGREEMENT)
    true = sorted(case.true_net_j)
    middle = (true[(len(true) - 1) // 2] + true[len(true) // 2]) / 2
    assert net.median == pytest.approx(middle, rel=AGREEMENT)
    assert net.combined_uncertainty is not None
    assert abs(net.median - middle) < net.combined_uncertainty
