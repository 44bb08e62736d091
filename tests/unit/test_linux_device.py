"""Linux devices: what is sent, what is refused, how runners end, and every rung of the ladder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.desk_remote import DeskRemote
from helpers.toolchain import SAMPLE_BYTES, built, needs_host_compiler, tiny_output

import lab.devices.machine
from lab.artifact import Artifact
from lab.connection_config import AdbDevice, SshHost
from lab.devices.base import Identity, Rung
from lab.devices.hosted import check_machine, ended, function_at, signal_name
from lab.devices.linux import Linux
from lab.devices.machine import EmulatedMachine, RealMachine
from lab.environment_config import EnvironmentConfig
from lab.errors import (
    ConfigError,
    Crash,
    EmulatorError,
    Hang,
    HostKeyChanged,
    InfrastructureError,
    OutOfMemory,
    ProtocolError,
    TransportError,
)
from lab.events import Done, Job, LogEvent, RegionEvent, ResultEvent
from lab.transports.remote import Finished

SAMPLES = bytes(range(SAMPLE_BYTES)) * 3
INFER = Job("infer", SAMPLES, 3)
PANIC = "Kernel panic - not syncing: Attempted to kill init!"


class Desk:
    """A machine whose parts fail as the test says."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.remote = DeskRemote(home)
        self.failure: Exception | None = None
        self.reboots: Exception | None = None
        self.switch = True
        self.cycles = 0

    def connect(self) -> DeskRemote:
        if not self.remote.connected:
            self.remote = DeskRemote(self.home)
        return self.remote

    def check_alive(self) -> None:
        if self.failure is not None:
            raise self.failure

    def reboot(self, remote: object) -> None:
        if self.reboots is not None:
            raise self.reboots
        self.remote.comes_back = True
        self.remote.reconnect(1.0)

    def power_cycle(self) -> bool:
        self.failure = None
        self.cycles += self.switch
        return self.switch

    def close(self) -> None:
        self.remote.close()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def image() -> Artifact:
    return built("linux-x86-64")


@pytest.fixture
def device(desk: Desk) -> Iterator[Linux]:
    identity = Identity("board", "linux-x86-64", "hardware", "", frozenset())
    linux = Linux(identity, desk, ".cache/hil-lab")
    yield linux
    linux.close()


def outputs(device: Linux) -> dict[int, bytes]:
    events = list(device.run(INFER))
    assert isinstance(events[-1], Done)
    return {event.index: event.data for event in events if isinstance(event, ResultEvent)}


@needs_host_compiler
def test_run_and_skip_if_present(device: Linux, desk: Desk, image: Artifact) -> None:
    hello = device.deploy(image)
    assert (hello.board, hello.clock, hello.clock_hz) == ("linux-x86-64", "monotonic", 10**9)
    expected = {index: tiny_output(SAMPLES[:SAMPLE_BYTES]) for index in range(3)}
    assert outputs(device) == expected
    assert desk.remote.sent == [f".cache/hil-lab/builds/{image.digest[:32]}/runner"]
    device.deploy(image)
    assert len(desk.remote.sent) == 1
    assert outputs(device) == expected
    assert device.reset("soft").build_id == device.reset("power").build_id == image.build_id


@needs_host_compiler
def test_wrong_architecture_is_refused_before_anything_is_sent(device: Linux, desk: Desk, image: Artifact) -> None:
    desk.remote.answers = {("uname", "-m"): lambda: Finished(0, b"aarch64\n", b"")}
    with pytest.raises(ConfigError, match=r"board is a aarch64 .*runs on x86_64, amd64") as caught:
        device.deploy(image)
    assert "firmware_board: linux-aarch64" in caught.value.hint
    assert desk.remote.sent == []


def test_machines() -> None:
    check_machine("pi", "linux-armv7", "armv7l")
    check_machine("pi", "linux-aarch64", "aarch64")
    with pytest.raises(ConfigError, match="riscv64") as caught:
        check_machine("pi", "linux-aarch64", "riscv64")
    assert "there are: linux-aarch64, linux-armv7, linux-x86-64" in caught.value.hint
    with pytest.raises(ConfigError, match="does not say what it is"):
        check_machine("pi", "linux-aarch64", "")


def test_another_boards_image(device: Linux) -> None:
    with pytest.raises(ConfigError, match="built for mps2-an386"):
        device.deploy(replace(built("mps2-an386"), board="mps2-an386"))


def test_nothing_deployed(device: Linux) -> None:
    with pytest.raises(ProtocolError, match="nothing is deployed"):
        list(device.run(INFER))
    with pytest.raises(ProtocolError, match="nothing is deployed"):
        device.recover()


@needs_host_compiler
def test_disk_full(device: Linux, desk: Desk, image: Artifact) -> None:
    desk.remote.full = True
    with pytest.raises(InfrastructureError, match="no room"):
        device.deploy(image)


@needs_host_compiler
def test_crash_tells_signal_address_and_function(device: Linux, image: Artifact) -> None:
    device.deploy(image)
    with pytest.raises(Crash) as caught:
        list(device.run(Job("crash", b"", 0)))
    assert caught.value.report.location == "job_crash"
    assert [fault.name for fault in caught.value.report.faults][:1] == ["SIGSEGV"]
    assert caught.value.report.registers["pc_low"] != 0
    # The runner has executed itself anew.
    assert device.recover() == "resync"


@needs_host_compiler
def test_stack_overflow_is_out_of_memory(device: Linux, image: Artifact) -> None:
    device.deploy(image)
    with pytest.raises(OutOfMemory):
        list(device.run(Job("recurse", b"", 1_000_000)))


@needs_host_compiler
def test_killed_runner(device: Linux, desk: Desk, image: Artifact) -> None:
    device.deploy(image)
    desk.remote.processes[-1].kill()
    with pytest.raises(Crash, match=r"the runner on board was ended by SIGKILL") as caught:
        outputs(device)
    assert "somebody's kill" in caught.value.hint
    assert device.recover() == "restart"
    assert len(outputs(device)) == 3


@needs_host_compiler
def test_abort_says_what_the_runner_said(device: Linux, image: Artifact) -> None:
    device.deploy(image)
    with pytest.raises(Crash, match="SIGABRT"):
        list(device.run(Job("lockup", b"", 0)))


@needs_host_compiler
def test_hang_is_ended_by_a_restart(device: Linux, image: Artifact) -> None:
    device.deploy(image)
    with pytest.raises(Hang):
        list(device.run(Job("hang", b"", 0), silence_s=0.2))
    assert device.recover() == "restart"
    assert len(outputs(device)) == 3


@needs_host_compiler
def test_lost_image_is_sent_again(device: Linux, desk: Desk, image: Artifact) -> None:
    device.deploy(image)
    desk.remote.processes[-1].kill()
    (desk.home / desk.remote.sent[0]).write_bytes(b"#!/bin/false\n")
    assert device.recover() == "re-deploy"
    assert len(outputs(device)) == 3


@needs_host_compiler
def test_lost_connection_is_transient_and_reconnected(device: Linux, desk: Desk, image: Artifact) -> None:
    device.deploy(image)
    events = device.run(replace(INFER, repeats=200_000))
    assert isinstance(next(events), RegionEvent)
    desk.remote.cut()
    with pytest.raises(TransportError, match="connection is lost") as caught:
        list(events)
    assert caught.value.transient
    assert device.recover() == "reconnect"
    assert desk.remote.reconnections == 1
    assert len(outputs(device)) == 3


@needs_host_compiler
@pytest.mark.parametrize("rung", ["reboot", "power-cycle"])
def test_device_that_does_not_come_back_by_itself(
    device: Linux, desk: Desk, image: Artifact, rung: Rung
) -> None:
    device.deploy(image)
    desk.remote.cut(comes_back=False)
    if rung == "power-cycle":
        desk.reboots = InfrastructureError("may not reboot")
    assert device.recover() == rung
    assert desk.cycles == (rung == "power-cycle")
    assert len(outputs(device)) == 3


@needs_host_compiler
def test_end_of_the_ladder(device: Linux, desk: Desk, image: Artifact) -> None:
    device.deploy(image)
    desk.remote.cut(comes_back=False)
    desk.reboots, desk.switch = InfrastructureError("may not reboot"), False
    with pytest.raises(InfrastructureError, match="may not reboot"):
        device.recover()


@needs_host_compiler
def test_panic_is_told_and_the_next_deployment_starts_anew(device: Linux, desk: Desk, image: Artifact) -> None:
    device.deploy(image)
    desk.failure = Crash(f"the kernel panicked: {PANIC}")
    desk.remote.cut(comes_back=False)
    with pytest.raises(Crash, match="Kernel panic - not syncing"):
        outputs(device)
    device.deploy(image)
    assert desk.cycles == 1
    assert len(outputs(device)) == 3


@needs_host_compiler
def test_a_panic_that_shows_as_a_lost_connection_is_a_crash(device: Linux, desk: Desk, image: Artifact) -> None:
    def measure() -> None:
        with device.measuring():
            desk.failure = Crash(f"the kernel panicked: {PANIC}")
            desk.remote.cut(comes_back=False)
            device.remote.run(("true",))

    device.deploy(image)
    with pytest.raises(Crash, match="Kernel panic - not syncing"):
        measure()


@needs_host_compiler
def test_somebody_else_in_its_place_is_left_alone(
    device: Linux, desk: Desk, image: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_answers(timeout_s: float) -> None:
        raise HostKeyChanged("shows another key")

    device.deploy(image)
    desk.remote.cut()
    monkeypatch.setattr(desk.remote, "reconnect", another_answers)
    for step in (device.recover, lambda: device.deploy(image)):
        with pytest.raises(HostKeyChanged):
            step()
    assert (desk.cycles, desk.remote.connected) == (0, False)


@needs_host_compiler
def test_lost_between_two_runs(device: Linux, desk: Desk, image: Artifact) -> None:
    device.deploy(image)
    desk.remote.cut()
    device.deploy(image)
    assert (desk.remote.reconnections, desk.cycles) == (1, 0)


@needs_host_compiler
def test_counts_of_the_kernel(device: Linux, image: Artifact) -> None:
    """Where this kernel counts, two counts of the same pass agree; else the runner says why there are none."""
    device.deploy(image)
    first = device.instructions(INFER)
    if first:
        assert first.keys() == {"inference"}
        assert abs(device.instructions(INFER)["inference"] - first["inference"]) < 200
    else:
        said = [event.message for event in device.run(Job("count", SAMPLES, 1)) if isinstance(event, LogEvent)]
        assert [words.partition(":")[0] for words in said] == ["perf_event_open"]


@needs_host_compiler
def test_the_runner_is_held_to_its_cores(desk: Desk, image: Artifact) -> None:
    identity = Identity("board", "linux-x86-64", "hardware", "", frozenset())
    device = Linux(identity, desk, "lab", environment=EnvironmentConfig(cores=(0,)))
    device.deploy(image)
    pid = desk.remote.processes[-1].process.pid
    assert os.sched_getaffinity(pid) == {0}
    assert Path(f"/proc/{pid}/exe").resolve().name == "runner"
    (memory,) = device.process_memory()
    assert (memory.metric, memory.size_bytes > 100_000) == ("peak_ram.process", True)
    with device.measuring() as log:
        assert log.environment.at("before") is not None
    device.close()


def test_power(device: Linux, desk: Desk) -> None:
    with pytest.raises(ConfigError, match="allowed: cycle"):
        device.power("off")
    device.power("cycle")
    assert desk.cycles == 1
    desk.switch = False
    with pytest.raises(ConfigError, match="no power switch"):
        device.power("cycle")


# ---- how a runner ended ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "name"),
    [(139, "SIGSEGV"), (137, "SIGKILL"), (-9, "SIGKILL"), (159, "SIGSYS"), (0, ""), (1, ""), (255, "")],
)
def test_signal_names(status: int, name: str) -> None:
    assert signal_name(status) == name


def test_endings() -> None:
    assert "Android" in ended("the runner", 159, "").hint
    assert "status 3: bad things" in ended("the runner", 3, " bad things\n").message
    refused = ended("the runner", 126, "Permission denied")
    assert isinstance(refused, InfrastructureError)
    assert "noexec" in refused.hint


@needs_host_compiler
def test_functions_of_an_image(image: Artifact, tmp_path: Path) -> None:
    assert function_at(image.path, 1) == ""
    assert function_at(tmp_path / "none", 1) == ""
    # Its addresses are given out at run time.
    assert function_at(built("host").path, 0x1200) == ""


# ---- machines -------------------------------------------------------------------------------------------------------


def test_reboot_of_a_real_machine(tmp_path: Path) -> None:
    boots = iter((b"first", b"second"))
    remote = DeskRemote(
        tmp_path,
        {
            ("cat", "/proc/sys"): lambda: Finished(1, b"", b""),
            ("reboot",): lambda: Finished(1, b"", b"must be root"),
            ("sudo", "-n", "reboot"): lambda: Finished(0, b"", b""),
            ("cat",): lambda: Finished(0, next(boots), b""),
        },
    )
    RealMachine("pi", lambda: remote).reboot(remote)
    assert remote.reconnections == 1


def test_a_system_that_goes_down_slowly_is_waited_for(tmp_path: Path) -> None:
    boots = iter((b"first", b"first", b"first", b"second"))
    pauses: list[float] = []

    def goes() -> Finished:
        raise TransportError("connection lost before the status came", transient=True)

    remote = DeskRemote(tmp_path, {("reboot",): goes, ("cat",): lambda: Finished(0, next(boots), b"")})
    RealMachine("pi", lambda: remote, sleep=pauses.append).reboot(remote)
    assert (remote.reconnections, len(pauses)) == (3, 2)


def test_reboot_that_did_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.devices.machine, "REBOOT_S", -1.0)
    remote = DeskRemote(
        tmp_path, {("reboot",): lambda: Finished(0, b"", b""), ("cat",): lambda: Finished(0, b"same", b"")}
    )
    with pytest.raises(InfrastructureError, match="did not"):
        RealMachine("pi", lambda: remote).reboot(remote)


def test_reboot_that_is_not_allowed(tmp_path: Path) -> None:
    no = Finished(1, b"", b"a password is required")
    remote = DeskRemote(tmp_path, {("reboot",): lambda: no, ("sudo",): lambda: no})
    machine = RealMachine("pi", lambda: remote)
    with pytest.raises(InfrastructureError, match="a password is required"):
        machine.reboot(remote)
    assert not machine.power_cycle()
    machine.close()


class _Guest:
    kind, version = "qemu-linux", "QEMU 7.2"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.dead = False

    def start(self) -> SshHost | AdbDevice:
        self.calls.append("start")
        return SshHost(host="127.0.0.1", user="root", port=22)

    def check_alive(self) -> None:
        if self.dead:
            raise EmulatorError("QEMU ended")

    def console(self) -> str:
        return ""

    def power_cut(self) -> None:
        self.calls.append("cut")

    def stop(self) -> None:
        self.calls.append("stop")


def test_emulated_machine(tmp_path: Path) -> None:
    guest = _Guest()
    remotes: list[DeskRemote] = []

    def connect(reached: SshHost | AdbDevice) -> DeskRemote:
        remotes.append(DeskRemote(tmp_path))
        return remotes[-1]

    machine = EmulatedMachine(lambda: guest, connect)
    machine.check_alive()
    first = machine.connect()
    with pytest.raises(InfrastructureError, match="not rebooted"):
        machine.reboot(first)
    assert machine.power_cycle()
    assert machine.connect() is remotes[1]
    guest.dead = True
    with pytest.raises(EmulatorError):
        machine.check_alive()
    machine.close()
    machine.close()
    assert guest.calls == ["start", "cut", "start", "stop"]
    assert machine.emulator is None


