"""``lab run`` ended by a signal in the middle: nothing runs on, nothing is held, and what was captured is kept."""

from __future__ import annotations

from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals

import pytest
from helpers import desk_bench
from helpers.inner_session import REACH, InnerSession
from helpers.sandbox import environment
from helpers.toolchain import needs_host_compiler, needs_qemu

from lab.lease import holder
from measurements.record import Run
from measurements.store import Store

_RUN = (
    """
from contextlib import contextmanager

import lab.devices.connect
import lab.doctor
from helpers import tiny_workload
from lab.cli import main
from lab.devices.host import host_of
"""
    + REACH
    + """
real = lab.devices.connect.connected

def stops_in_the_middle(device):
    plain = device.run
    def run(job, **options):
        for number, event in enumerate(plain(job, **options)):
            yield event
            if number == 4:
                reach("run")
    return run

@contextmanager
def connected(entry, cache, fence=None):
    if entry.emulated:
        with real(entry, cache, fence) as device:
            device.run = stops_in_the_middle(device)
            yield device
    else:
        device = host_of(entry, "host", cache, None, fence)
        device.run = stops_in_the_middle(device)
        yield device
        device.close()

tiny_workload.register()
lab.devices.connect.connected = connected
lab.doctor.availability = lambda entry: ""
main()
"""
)


def _runs(folder: Path) -> list[Run]:
    with Store(folder / "lab" / "store") as store:
        return store.runs()


def _started(folder: Path, places: dict[str, str], device: str, hang_up: str = "SIG_DFL") -> InnerSession:
    """Whether SIGHUP is ignored is handed down, and these tests may run under nohup themselves."""
    program = folder / "run.py"
    program.write_text(f"import signal\nsignal.signal(signal.SIGHUP, signal.{hang_up})\n{_RUN}")
    return InnerSession(folder, places, "run", "tiny", "--device", device, program=program)


@needs_qemu
def test_an_emulated_device_ends_with_its_meter(tmp_path: Path, shared_cache: Path) -> None:
    places = dict(environment(tmp_path / "lab", shared_cache))
    with _started(tmp_path, places, "m4f") as session:
        session.wait_for("run")
        assert len(session.children) >= 2, "QEMU and the meter's process"
        session.send(SIGTERM)
        assert session.ended() == 128 + SIGTERM, session.output
        assert session.left_over() == []
    assert "ended by SIGTERM" in session.output
    assert "Traceback" not in session.output
    (run,) = _runs(tmp_path)
    assert run.status == "incomplete"


@needs_host_compiler
@pytest.mark.parametrize("number", [SIGINT, SIGHUP])
def test_hardware_is_brought_to_rest_and_its_lease_given_back(
    tmp_path: Path, shared_cache: Path, number: Signals
) -> None:
    desk_bench.write(tmp_path, "")
    leases = tmp_path / "lab" / "state" / "leases"
    with _started(tmp_path, desk_bench.places_of(tmp_path, shared_cache), "good") as session:
        session.wait_for("run")
        held = holder("good", folder=leases)
        assert held is not None
        assert held.purpose == "lab run"
        session.send(number)
        assert session.ended() == 128 + number, session.output
        assert session.left_over() == []
    assert "good was brought to rest by resync" in session.output
    assert holder("good", folder=leases) is None
    assert [run.status for run in _runs(tmp_path)] == ["incomplete"]


@needs_host_compiler
def test_who_asked_for_nohup_is_not_ended_by_a_lost_terminal(tmp_path: Path, shared_cache: Path) -> None:
    desk_bench.write(tmp_path, "")
    with _started(tmp_path, desk_bench.places_of(tmp_path, shared_cache), "good", "SIG_IGN") as session:
        session.wait_for("run")
        session.send(SIGHUP)
        session.send(SIGTERM)
        assert session.ended() == 128 + SIGTERM, session.output
    assert "ended by SIGTERM" in session.output
