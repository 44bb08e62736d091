"""Devices behind debug probes as users get them: flashed, talking over serial or RTT, reset, back from a hang."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.probed import EXPECTED, JOB, Rig, probed_entry, probed_image, results, rig
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from lab.devices.connect import connected
from lab.errors import ConfigError, Hang
from lab.events import Done, Job, RegionEvent
from lab.inventory import load_bench
from lab.paths import cache_dir, config_dir
from lab.transports.rtt import SYMBOL
from lab.transports.swd_image import read_image
from measurements.store import Store

pytestmark = needs_qemu

DEVICES = ("m4f-swd", "m4f-rtt", "microbit-swd", "f405-swd")


@pytest.fixture(scope="module", params=DEVICES)
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(request.param, tmp_path_factory.mktemp("desk")) as one:
        hello = one.device.deploy(one.artifact)
        assert (hello.build_id, hello.board) == (one.artifact.build_id, one.artifact.board)
        yield one


def test_the_bench_of_probed_boards_is_what_is_tested_here() -> None:
    assert tuple(load_bench(config_dir() / "probed.yaml").devices) == DEVICES


def test_the_runner_infers_with_the_expected_bytes(desk: Rig) -> None:
    assert results(desk.device) == EXPECTED


def test_the_same_image_again_is_not_written_again_and_runs(desk: Rig) -> None:
    assert desk.deploys()


def test_soft_reset_and_reset_over_the_probe_say_hello(desk: Rig) -> None:
    assert desk.device.reset("soft").build_id == desk.artifact.build_id
    assert desk.device.reset("power").build_id == desk.artifact.build_id
    assert results(desk.device) == EXPECTED


def test_a_hang_is_seen_where_it_is_and_ended_by_a_reset(desk: Rig) -> None:
    with pytest.raises(Hang, match=r"job_hang at job_test\.c:\d+"):
        list(desk.device.run(Job("hang", b"", 1), silence_s=0.3))
    assert results_after_recovery(desk) == EXPECTED


def results_after_recovery(desk: Rig) -> list[bytes]:
    assert desk.device.recover() in ("soft-reset", "re-deploy")
    return results(desk.device)


def test_blobs_are_placed_by_the_probe_where_the_board_names_a_place(desk: Rig) -> None:
    hello = desk.device.deploy(desk.artifact)
    assert results(desk.device) == EXPECTED
    if hello.blob_address:
        core = desk.device._target.core()
        assert core is not None
        assert core.read_memory(hello.blob_address, len(JOB.blob)) == JOB.blob


def test_an_image_without_a_ring_is_refused_where_the_line_goes_through_the_probe(tmp_path: Path) -> None:
    with rig("m4f-rtt", tmp_path) as one:
        over_uart = replace(one.artifact, path=probed_image(probed_entry("m4f-swd")).path)
        with pytest.raises(ConfigError, match=f"no symbol {SYMBOL}"):
            one.device.deploy(over_uart)
        assert one.deploys()


def test_rtt_costs_the_firmware_no_more_instructions_per_inference(tmp_path: Path) -> None:
    cycles = {}
    for name in ("m4f-swd", "m4f-rtt"):
        with rig(name, tmp_path / name) as one:
            one.device.deploy(one.artifact)
            events = list(one.device.run(JOB))
        assert isinstance(events[-1], Done)
        cycles[name] = [event.cycles for event in events if isinstance(event, RegionEvent)]
    assert cycles["m4f-rtt"] == cycles["m4f-swd"]


def test_the_last_words_of_firmware_that_crashed_survive_its_reset(tmp_path: Path) -> None:
    with rig("m4f-rtt", tmp_path) as one:
        address = read_image(one.artifact.path).address_of(SYMBOL)
        one.device.deploy(one.artifact)
        with pytest.raises(Exception, match="the processor took a fault"):
            list(one.device.run(Job("crash", b"", 1)))
        core = one.device._target.core()
        assert core is not None
        assert core.read_memory(address, 10) == b"SEGGER RTT"
        assert results_after_crash(one) == EXPECTED


def results_after_crash(one: Rig) -> list[bytes]:
    one.device.recover()
    return results(one.device)


_CONFTEST = "from helpers import tiny_workload\n\ntiny_workload.register()\n"
_TESTS = """
import pytest

@pytest.mark.budget(peak_ram="32 KiB", flash="64 KiB", instructions=100_000)
@pytest.mark.devices("class:mcu")
def test_the_same_as_on_hardware(deploy, measure):
    measurement = measure(deploy("tiny"))
    assert measurement.median("bit_exact", "run") == 1.0
"""


def test_a_test_written_for_hardware_runs_behind_a_virtual_probe(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_job.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "hil", "--lab-no-report"]
    command += ["--lab-config", str(config_dir() / "probed.yaml"), "--lab-strict", "--lab-device", "m4f-swd, m4f-rtt"]
    private = environment(tmp_path / "lab", cache_dir())
    done = subprocess.run(command, cwd=tmp_path, env=private, capture_output=True, text=True, check=False)
    assert re.search(r"\b2 passed", done.stdout), done.stdout + done.stderr
    with Store(tmp_path / "lab/store") as store:
        runs = {run.provenance.device: run for run in store.runs()}
    assert set(runs) == {"m4f-swd", "m4f-rtt"}
    assert all(run.provenance.clock == "virtual" for run in runs.values())
    assert all(run.provenance.emulator.startswith("QEMU ") for run in runs.values())
    metered = {record.metric for record in runs["m4f-swd"].records}
    assert {"energy", "latency", "peak_ram"} <= metered


def test_a_device_of_the_bench_ends_with_its_emulator(private_lab: Path) -> None:
    entry = probed_entry("m4f-swd")
    with connected(entry, cache_dir()) as device:
        assert (device.identity.source, device.identity.board) == ("emulated", "mps2-an386")
        assert {"meter", "fpu"} <= device.identity.capabilities
        assert list((private_lab / "state/emulated").glob("*.json"))
    assert not list((private_lab / "state/emulated").glob("*.json"))
