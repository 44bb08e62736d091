"""Devices as users get them, from an entry of the bench to results and back from every failure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from helpers.toolchain import (
    SAMPLE_BYTES,
    built,
    counting_plugin,
    entry,
    machine_of,
    model_of,
    needs_host_compiler,
    needs_qemu,
    running,
    tiny_model,
    tiny_output,
)

from lab.artifact import Artifact
from lab.connection_config import SerialPort
from lab.devices.base import Counting, Device, Identity
from lab.devices.connect import connected
from lab.devices.emulated_mcu import EmulatedTarget, qemu_target
from lab.devices.mcu import Mcu
from lab.devices.wired_mcu import SerialTarget
from lab.emulators.qemu import Qemu
from lab.errors import (
    ConfigError,
    Crash,
    DeviceError,
    EmulatorError,
    Hang,
    OutOfMemory,
    ProbeError,
    ProtocolError,
    TransportError,
)
from lab.events import Done, Event, Job, RegionEvent, ResultEvent
from lab.paths import cache_dir

pytestmark = [needs_qemu, needs_host_compiler]

EMULATED = ("m4f", "m7", "m55")
DEVICES = (*EMULATED, "host")
SAMPLES = random.Random(2).randbytes(8 * SAMPLE_BYTES)
JOB = Job("infer", SAMPLES, 8, quiet_us=200)
EXPECTED = [tiny_output(SAMPLES[at : at + SAMPLE_BYTES]) for at in range(0, len(SAMPLES), SAMPLE_BYTES)]


def job(name: str, count: int = 1) -> Job:
    return Job(name, b"", count)


@contextmanager
def deployed(name: str) -> Iterator[tuple[Device, Artifact]]:
    """A device of the bench, without its meter, that runs the tiny model."""
    found = entry(name)
    found = replace(found, config=found.config.model_copy(update={"meter": None}))
    artifact = built(found.board.kind)
    with connected(found, cache_dir()) as device:
        device.deploy(artifact)
        yield device, artifact


def results(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, ResultEvent)]


def works(device: Device) -> bool:
    return results(list(device.run(JOB))) == EXPECTED


@contextmanager
def emulated(board: str = "mps2-an386") -> Iterator[tuple[Mcu, EmulatedTarget, Artifact]]:
    """An emulated device whose target the test may touch."""
    artifact = built(board)
    target = qemu_target(machine_of(board))
    device = Mcu(Identity("m", board, "emulated", "QEMU", frozenset()), target)
    try:
        device.deploy(artifact)
        yield device, target, artifact
    finally:
        device.close()


def qemu_of(target: EmulatedTarget) -> Qemu:
    qemu = target.emulator
    assert isinstance(qemu, Qemu)
    return qemu


# ---- all devices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEVICES)
def test_deploy_run_reset(name: str) -> None:
    with deployed(name) as (device, artifact):
        assert works(device)
        assert works(device)
        for kind in ("soft", "power"):
            hello = device.reset(kind)
            assert (hello.build_id, hello.board) == (artifact.build_id, artifact.board)
            assert works(device)


@pytest.mark.parametrize("name", EMULATED)
def test_every_device_answers_with_the_same_bytes(name: str) -> None:
    random_jobs = [replace(JOB, blob=random.Random(seed).randbytes(len(SAMPLES))) for seed in range(3)]
    with deployed("host") as (host, _), deployed(name) as (device, _):
        for one in random_jobs:
            assert results(list(device.run(one))) == results(list(host.run(one)))


@pytest.mark.parametrize("name", DEVICES)
def test_an_image_for_another_board(name: str) -> None:
    with deployed(name) as (device, artifact):
        other = replace(artifact, board="nucleo-f446re")
        with pytest.raises(ConfigError, match=rf"{name} is a {artifact.board}; the image was built for nucleo-f446re"):
            device.deploy(other)
        assert works(device)


@pytest.mark.parametrize("name", DEVICES)
def test_nothing_runs_before_deploy_nor_after_close(name: str) -> None:
    found = entry(name)
    found = replace(found, config=found.config.model_copy(update={"meter": None}))
    with connected(found, cache_dir()) as device:
        for use in (lambda: list(device.run(JOB)), lambda: device.reset("soft"), lambda: device.reset("power")):
            with pytest.raises(ProtocolError, match="nothing is deployed"):
                use()
        assert device.meter() is None
        device.close()
        device.close()


@pytest.mark.parametrize("name", DEVICES)
def test_a_job_left_in_the_middle_leaves_nothing_behind(name: str) -> None:
    """Its frames must not be taken for those of the next job."""
    with deployed(name) as (device, _):
        abandoned = device.run(replace(JOB, blob=bytes(len(SAMPLES)), repeats=3))
        next(abandoned)
        assert works(device)


@pytest.mark.parametrize("name", DEVICES)
def test_a_job_the_image_does_not_have(name: str) -> None:
    with deployed(name) as (device, _):
        with pytest.raises(ProtocolError, match="'unknown' at run: this image has no such job"):
            list(device.run(job("dance")))
        with pytest.raises(ProtocolError, match="'input' at infer"):
            list(device.run(replace(JOB, count=9)))
        assert works(device)


@pytest.mark.parametrize("name", EMULATED)
def test_counts_are_a_capability(name: str) -> None:
    counting_plugin()
    with deployed(name) as (device, artifact):
        assert "counts" in device.identity.capabilities
        assert device.identity.emulator.startswith("QEMU ")
        assert isinstance(device, Counting)
        counts = device.count(artifact, replace(JOB, profile=True))
        assert [count.region for count in counts] == ["inference"] * 8 + ["layer"] * 16
        assert works(device), "counting has an instance of its own"


def test_a_phone_that_cannot_be_reached() -> None:
    found = entry("host")
    phone = replace(found, board=found.board.model_copy(update={"device_class": "phone"}), origin="bench.yaml:3")
    refused = pytest.raises(ConfigError, match=r"bench.yaml:3: device 'host' has no way to be reached")
    with refused, connected(phone, cache_dir()):
        pass


# ---- failures, and the way back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMULATED)
def test_after_a_crash(name: str) -> None:
    with deployed(name) as (device, _):
        with pytest.raises(Crash) as error:
            list(device.run(job("crash")))
        assert error.value.report.location.startswith("job_crash at ")
        assert re.search(r"job_test\.c:\d+", error.value.report.location)
        assert error.value.report.region == "inference"
        assert "in region 'inference'" in str(error.value)
        assert "bfar=0x5fff0000" in str(error.value)
        # The firmware has restarted by itself: talking to it again is enough.
        assert device.recover() == "resync"
        assert works(device)


def test_after_a_hang() -> None:
    with emulated() as (device, _, _artifact):
        with pytest.raises(Hang, match=r"the core is at job_hang at .*job_test\.c:\d+"):
            list(device.run(job("hang"), silence_s=0.3))
        assert device.recover() == "soft-reset"
        assert works(device)


def test_after_a_lockup() -> None:
    with emulated() as (device, _, _artifact):
        with pytest.raises(Crash, match="locked up") as error:
            list(device.run(job("lockup")))
        assert "port_lockup" in error.value.report.location
        assert device.recover() == "re-deploy"
        assert works(device)


def test_after_qemu_died() -> None:
    with emulated() as (device, target, _):
        events = device.run(replace(job("clock", 200), repeats=1_000_000))
        next(events)
        qemu_of(target)._process.kill()  # type: ignore[union-attr]
        with pytest.raises(EmulatorError, match="ended with status -9"):
            list(events)
        with pytest.raises(EmulatorError):
            list(device.run(JOB))
        assert device.recover() == "re-deploy"
        assert works(device)


@pytest.mark.parametrize("name", EMULATED)
def test_after_an_overflow(name: str) -> None:
    with deployed(name) as (device, _):
        with pytest.raises(OutOfMemory, match="stack"):
            list(device.run(job("recurse", 1_000_000)))
        assert device.recover() == "resync"
        with pytest.raises(OutOfMemory, match="arena"):
            list(device.run(job("overrun")))
        assert works(device), "a job that overran its arena has ended; the next one paints it anew"


def test_recover_with_nothing_deployed() -> None:
    target = qemu_target(machine_of("mps2-an386"))
    device = Mcu(Identity("m", "mps2-an386", "emulated", "QEMU", frozenset()), target)
    with pytest.raises(ProtocolError, match="nothing is deployed"):
        device.recover()


def test_the_host_process_dies_and_comes_back() -> None:
    with deployed("host") as (device, _):
        with pytest.raises(DeviceError) as error:
            list(device.run(job("crash")))
        assert isinstance(error.value, Crash)
        assert str(error.value).splitlines()[0].endswith("the process took a signal in region 'inference'")
        assert "SIGNAL SIGSEGV" in str(error.value)
        assert device.recover() == "resync", "it has executed itself anew"
        assert works(device)


def test_the_host_process_hangs_and_comes_back() -> None:
    with deployed("host") as (device, _):
        with pytest.raises(Hang, match="'hang' sent nothing"):
            list(device.run(job("hang"), silence_s=0.2))
        assert device.recover() == "restart"
        assert works(device)


def test_time_is_told_by_the_clock() -> None:
    """Twice the work costs twice the cycles; the clock's own overhead is taken out, so nothing costs nothing."""
    with emulated() as (device, _, _artifact):
        spent = {
            count: [e.cycles for e in device.run(replace(job("clock", count), repeats=3)) if isinstance(e, RegionEvent)]
            for count in (0, 1000, 2000, 3000)
        }
    assert all(len(set(cycles)) == 1 for cycles in spent.values())
    first, second, third = (spent[count][0] for count in (1000, 2000, 3000))
    assert third - second == second - first > 1000
    assert spent[0][0] <= 3


# ---- a board on a serial port -------------------------------------------------------------------------------------


def test_a_real_board_is_used_as_it_is() -> None:
    """QEMU's port plays a board that somebody has flashed."""
    artifact = built("mps2-an386")
    with running("mps2-an386", artifact) as (_, port, _session):
        port.close()
        identity = Identity("bench", "mps2-an386", "hardware", "", frozenset())
        device = Mcu(identity, SerialTarget(SerialPort(port=port.name)))
        try:
            assert device.deploy(artifact).build_id == artifact.build_id
            assert works(device)
            assert device.reset("soft").build_id == artifact.build_id
            assert works(device)
            assert device.reset("power").build_id == artifact.build_id
            with pytest.raises(Crash):
                list(device.run(job("crash")))
            assert device.recover() == "resync"
            assert works(device)
            with pytest.raises(EmulatorError, match="loads and stores cannot be counted"):
                device.count(artifact, JOB)
        finally:
            device.close()


def test_a_real_board_with_another_image_names_the_file_to_flash() -> None:
    artifact = built("mps2-an386")
    other = built("mps2-an386", model_of("other", {**tiny_model().sources, "note.h": "/* other */"}, 96))
    assert other.build_id != artifact.build_id
    with running("mps2-an386", artifact) as (_, port, _session):
        port.close()
        target = SerialTarget(SerialPort(port=port.name))
        with pytest.raises(ProbeError, match=rf"runs build {artifact.build_id} \(tiny\); .*{other.build_id}") as error:
            target.load(other)
        assert str(other.path) in error.value.hint
        # The port was let go: the right image can be used at once.
        target.load(artifact).close()


def test_a_real_board_that_is_not_there() -> None:
    with pytest.raises(TransportError, match=r"socket://127\.0\.0\.1:1 cannot be opened"):
        SerialTarget(SerialPort(port="socket://127.0.0.1:1")).load(built("mps2-an386"))


def test_the_end_of_a_job_says_what_it_took() -> None:
    with emulated() as (device, _, artifact):
        done = list(device.run(JOB))[-1]
    assert isinstance(done, Done)
    assert done.arena_high_water == 64, "the tiny model's intermediate tensor"
    assert 0 < done.stack_high_water < artifact.memory.stack_bytes
    assert (done.events, done.results) == (8, 8)
