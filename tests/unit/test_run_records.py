"""What a run may not keep of a device behind a network, and what it says of a board's clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted_runs import CLOCK_HZ, PASS_CYCLES, ScriptedDevice, ScriptedMeter, deployment, hello, measured

from lab import runs
from lab.attempt import METERED_SAMPLES
from lab.errors import ConfigError
from lab.events import ClockKind
from lab.metered import Metered
from lab.run_records import clock_notes
from measurements.record import Alignment, Record
from measurements.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def remote(device: ScriptedDevice) -> ScriptedDevice:
    device.identity = replace(device.identity, source="hardware", emulator="", remote=True)
    return device


@pytest.mark.parametrize("alignment", ["host-time", "whole-run"])
def test_a_remote_device_keeps_its_own_time_and_loses_the_hosts(
    store: Store, monkeypatch: pytest.MonkeyPatch, alignment: Alignment
) -> None:
    """As a meter without a logic input would measure: its window is bounded by the host's clock."""
    measure_energy = Metered.short_records

    def by_the_hosts_clock(*given: Any) -> tuple[Record, ...]:
        return tuple(replace(record, alignment=alignment) for record in measure_energy(*given))

    monkeypatch.setattr(Metered, "short_records", by_the_hosts_clock)
    near = measured(store, ScriptedDevice(power=ScriptedMeter(METERED_SAMPLES)))
    assert near.record("energy").alignment == alignment
    far = measured(store, remote(ScriptedDevice(power=ScriptedMeter(METERED_SAMPLES))))
    assert far.median("latency") == pytest.approx(PASS_CYCLES / CLOCK_HZ)
    with pytest.raises(ConfigError, match="nothing measured 'energy'"):
        far.record("energy")
    refused = [note for note in far.run.detail.notes if "energy of 'inference' is refused" in note]
    assert refused == [
        f"energy of 'inference' is refused: its window was bounded by this computer's clock ({alignment}), and a "
        "network lies between it and the device"
    ]
    assert far.run in store.runs()


def test_a_remote_device_keeps_what_the_meter_saw_of_its_marker(store: Store) -> None:
    far = measured(store, remote(ScriptedDevice(power=ScriptedMeter(METERED_SAMPLES))))
    assert far.record("energy").alignment == "marker"
    assert far.run.detail.notes[-1] == "reached through a network: nothing here was timed by this computer's clock"


@pytest.mark.parametrize(("clock", "told_hz", "noted"), [("dwt", 16_000_000, True), ("virtual", 16_000_000, False)])
def test_a_board_at_another_clock_than_its_files_is_noted(
    store: Store, clock: ClockKind, told_hz: int, noted: bool
) -> None:
    board = deployment(ScriptedDevice()).entry.board
    changed = replace(deployment(ScriptedDevice()), hello=replace(hello(), clock=clock, clock_hz=told_hz))
    notes = runs.measure(changed, store, "session").run.detail.notes
    wanted = f"runs at 16 MHz and not at the {board.clock_hz / 1e6:g} MHz of its file"
    found = [note for note in notes if wanted in note]
    assert len(found) == noted
    near = replace(changed, hello=replace(changed.hello, clock_hz=round(board.clock_hz * 1.009)))
    assert clock_notes(near) == []
