"""A SCPI meter at an emulated instrument: behind TCP in a process of its own, or in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lab.emulators.load import MarkedLoad, ScriptedLoad, Segment
from lab.emulators.scpi import EmulatedScpi, Faults, Instrument
from lab.meter_config import ScpiConfig
from lab.power.base import SampleBlock, join
from lab.power.scpi import ScpiMeter
from lab.power.scpi_session import ScpiSession

BUFFERED = ("n6705", "34465a", "2450")
SCALAR = ("dp832", "spd3303x", "sdm3065x")
PERIOD_S = 0.002048  # a whole number of the N6705's steps

# Sleep at µA, a burst at 100 mA with soft edges that lie inside samples, a sagging supply, and the marker around it.
SCRIPT = ScriptedLoad(
    [
        Segment(0.0311, 8e-6, voltage_v=3.3),
        Segment(0.0472, 0.1, bits=1, voltage_v=3.27, settle_s=0.9e-3),
        Segment(0.0217, 0.037, bits=1, voltage_v=3.29),
        Segment(0.06, 8e-6, voltage_v=3.3, settle_s=2e-3),
    ]
)


NO_FAULTS = Faults()


class InProcess(ScpiSession):
    """A session whose instrument is an object; what it does not answer is a timeout."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__("in-process", 0.0)
        self._instrument = instrument

    def open(self) -> None:
        self._line = _Line(self._instrument)


class _Line:
    timeout = 0.0
    read_termination: str | None = None
    write_termination: str | None = None

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._answers: list[str | bytes] = []

    def write(self, message: str) -> int:
        answer = self._instrument.command(message)
        if answer is not None:
            self._answers.append(answer)
        return len(message)

    def read(self) -> str:
        if not self._answers:
            raise OSError("VI_ERROR_TMO")
        answer = self._answers.pop(0)
        return answer if isinstance(answer, str) else answer.decode("latin-1")

    def query_binary_values(self, message: str, datatype: str) -> Sequence[float]:
        self.write(message)
        if not self._answers:
            raise OSError("VI_ERROR_TMO")
        block = self._answers.pop(0)
        assert isinstance(block, bytes)
        digits = int(block[1:2])
        size = int(block[2 : 2 + digits])
        return np.frombuffer(block[2 + digits : 2 + digits + size], f"<{datatype}4").tolist()

    def close(self) -> None:
        pass


def config_of(model: str, **settings: object) -> ScpiConfig:
    period = PERIOD_S if model in BUFFERED else 0.05
    return ScpiConfig.model_validate({"kind": "scpi", "emulated": True, "model": model, "period": period} | settings)


@contextmanager
def meter_behind_tcp(folder: Path, model: str, faults: Faults = NO_FAULTS, **settings: object) -> Iterator[ScpiMeter]:
    """A meter that plays the script, open."""
    config = config_of(model, **settings)
    with (
        EmulatedScpi(folder, model, 1_000_000, SCRIPT, period_s=config.period, faults=faults) as peer,
        ScpiMeter(peer.resource, config, 3.3, timeout_s=0.4) as meter,
    ):
        yield meter


@contextmanager
def meter_of(
    model: str,
    load: MarkedLoad | ScriptedLoad = SCRIPT,
    faults: Faults = NO_FAULTS,
    *,
    voltage_v: float = 3.3,
    clock: Callable[[], float] | None = None,
    sleep: Callable[[float], None] = lambda seconds: None,
    **settings: object,
) -> Iterator[ScpiMeter]:
    """A meter at an instrument of this process, open; each look at the clock takes a millisecond."""
    config = config_of(model, **settings)
    ticks = itertools.count(0.0, 0.001)
    session = InProcess(Instrument(model, load, config.period, faults))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.power.scpi.ScpiSession", lambda resource, timeout_s: session)
        with ScpiMeter("in-process", config, voltage_v, clock=clock or (lambda: next(ticks)), sleep=sleep) as meter:
            yield meter


def record(meter: ScpiMeter) -> SampleBlock:
    """All of a scripted record."""
    meter.start()
    blocks = []
    while (block := meter.read(0.0)).current_a.size:
        blocks.append(block)
    return join([*blocks, meter.stop()])


def energy_of(block: SampleBlock, period_s: float) -> float:
    assert block.voltage_v is not None
    return float(np.nansum(block.current_a.astype(float) * block.voltage_v.astype(float)) * period_s)
