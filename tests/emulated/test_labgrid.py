"""Boards of other hosts: a real labgrid coordinator and a real exporter, in processes of their own on loopback."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep

import pytest
from click.testing import CliRunner
from helpers import tiny_workload
from helpers.labgrid_site import LabgridSite, WaitingHost, free_port, ssh_to
from helpers.toolchain import machine_of, needs_qemu

from lab.artifact import Artifact
from lab.bench import Bench
from lab.build import build
from lab.cli import main
from lab.connection_config import SshHost
from lab.console import listen
from lab.devices.connect import connected
from lab.emulator_config import LoopbackEmulator
from lab.emulators.pty_link import PtyLink
from lab.emulators.qemu import Qemu
from lab.emulators.sshd import LoopbackSshd
from lab.errors import ConfigError, InfrastructureError, LeaseLost, ToolMissing, TransportError
from lab.interrupt import interruptible
from lab.inventory import Device
from lab.labgrid.client import Coordinator, CoordinatorLost
from lab.labgrid.config import LabgridConfig
from lab.labgrid.environment import labgrid_python
from lab.labgrid.lease import PlaceLease
from lab.labgrid.line import RANKS
from lab.labgrid.records import PURPOSE
from lab.labgrid.wiring import switch_of
from lab.lease import lease_of
from lab.paths import cache_dir, store_dir
from lab.runs import deploy, measure
from lab.switch_config import ShellyPlug
from lab.waiting_line import Priority
from measurements.store import Store

try:
    labgrid_python()
    _without = ""
except ToolMissing as missing:
    _without = str(missing)

pytestmark = [
    needs_qemu,
    pytest.mark.skipif(bool(_without), reason=_without or "all there"),
    pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning"),
]
BOARD = "mps2-an386"
TTL_S = 5.0
PATIENCE_S = 45.0
"""Below the minute after which labgrid itself forgets whoever waits and says nothing."""
# 127.0.0.1, and the same as IPv6 has it, as /proc/net writes them.
_LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
_IDLE = {
    "NetworkService": {"address": "127.0.0.1", "username": "nobody", "port": 1},
    "NetworkPowerPort": {"model": "shelly_gen2", "host": "http://192.0.2.3", "index": 1},
}
_HOLD = """
import sys, time
from pathlib import Path
from lab.bench import Bench
from lab.lease import lease_of
held = lease_of(Bench.load(Path(sys.argv[1])).get("idle"), "a nightly", 30.0)
print(held.token, held._held._coordinator._process.pid, flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class Desk:
    """A site: place ``board`` has the UART of a board in QEMU, ``box`` an SSH server, ``idle`` what is not there.

    Attributes:
        site: coordinator and exporter.
        image: runs on the board.
        box: the SSH server, which serves as a host on the way as well.
        qemu: the board.
    """

    site: LabgridSite
    image: Artifact
    box: SshHost
    qemu: Qemu


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("labgrid")
    image = build(tiny_workload.model(), BOARD, cache=cache_dir())
    kinds = {"board": BOARD, "box": "linux-x86-64", "idle": "raspberry-pi-5"}
    places = {name: {"board": kind, "site": "desk"} for name, kind in kinds.items()} | {"shelf": {}}
    with ExitStack() as stack:
        qemu = stack.enter_context(Qemu(machine_of(BOARD), image.path))
        link = stack.enter_context(PtyLink(qemu.open_serial()))
        qemu.release()
        server = LoopbackSshd(LoopbackEmulator(kind="sshd"), cache_dir())
        stack.callback(server.stop)
        box = server.start()
        service = {"address": "127.0.0.1", "username": str(box.user), "port": box.port, "password": "canary"}
        resources = {
            "board": {"RawSerialPort": {"port": link.path, "speed": 115200}},
            "box": {"NetworkService": service},
            "idle": _IDLE,
        }
        yield Desk(stack.enter_context(LabgridSite(folder, places, resources, TTL_S)), image, box, qemu)


@pytest.fixture(autouse=True)
def _whole(desk: Desk, request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails leaves the site as it happens to be; those behind it get a whole one."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        desk.site.anew()
        desk.qemu.reset()


@pytest.fixture(autouse=True)
def _private(private_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image that runs on the board is in the user's cache, where it is built again from."""
    tiny_workload.register()
    monkeypatch.delenv("LAB_CACHE")


def _entry(desk: Desk, folder: Path, name: str, **section: object) -> Device:
    board = BOARD if name == "board" else "raspberry-pi-5"
    devices = {name: {"board": board, "place": name}}
    return Bench.load(desk.site.bench(folder / "bench.yaml", devices=devices, **section)).get(name)


def _take(entry: Device, wait_s: float = 30.0) -> PlaceLease:
    taken = lease_of(entry, "a test", wait_s)
    assert isinstance(taken, PlaceLease)
    return taken


def _session(desk: Desk) -> Coordinator:
    return Coordinator(LabgridConfig(coordinator=desk.site.address))


def test_places_are_devices_and_what_is_none_says_why(desk: Desk, tmp_path: Path) -> None:
    bench = desk.site.bench(tmp_path / "bench.yaml")
    found = {device.name: device for device in Bench.load(bench).devices}
    assert set(found) == {"board", "box", "idle"}
    assert (found["board"].board.kind, found["board"].tags) == (BOARD, ("site-desk",))
    assert found["board"].needs_lease
    listed = CliRunner().invoke(main, ["--config", str(bench), "labgrid", "places"]).output
    (shelf,) = [line for line in listed.splitlines() if line.startswith("shelf")]
    assert "nothing that is there" in shelf
    assert "it has no tag board" in shelf
    (idle,) = [line for line in listed.splitlines() if line.startswith("idle")]
    assert idle.split()[1:4] == ["power", "ssh", "-"]
    with _session(desk) as session:
        (power,) = [one for one in session.resources if one.cls == "NetworkPowerPort"]
    assert switch_of(power) == ShellyPlug(kind="shelly", host="192.0.2.3", generation=2, outlet=1)


def test_one_holder_among_hosts_and_labgrids_own_client_sees_and_ends_it(desk: Desk, tmp_path: Path) -> None:
    entry = _entry(desk, tmp_path, "idle")
    with _take(entry) as first:
        # Another host is another folder of leases.
        os.environ["LAB_STATE"] = str(tmp_path / "other-host")
        with pytest.raises(LeaseLost, match=rf"place 'idle' is held by .* \(pid {os.getpid()}\) for 'a test' since"):
            _take(entry, 0.0)
        shown = desk.site.client("-p", "idle", "show")
        assert f"lab_fence={first.token}" in shown
        assert "lab_purpose=a test" in shown
        assert "+lab-" in shown
        with pytest.raises(LeaseLost, match="given back for this process by somebody else"), interruptible():
            _wait_after(lambda: desk.site.client("-p", "idle", "release", "--kick"))
        with pytest.raises(LeaseLost):
            first.check()
        with _take(entry) as second:
            assert second.token > first.token
            second.check()
    assert "acquired: None" in desk.site.client("-p", "idle", "show")


@pytest.mark.parametrize("helper_lives", [True, False])
def test_a_client_killed_with_9_gives_back_what_it_held(desk: Desk, tmp_path: Path, helper_lives: bool) -> None:
    """With its helper alive at once; with both dead, as when a host loses power, after the time-to-live."""
    entry = _entry(desk, tmp_path, "idle")
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "bench.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        token, helper = (int(word) for word in client.stdout.readline().split())
        if not helper_lives:
            client.send_signal(signal.SIGSTOP)
            os.kill(helper, signal.SIGKILL)
            with _session(desk) as session:
                place = session.place("idle")
                assert place is not None
                assert place.acquired, "labgrid itself keeps it for ever"
        client.kill()
    with _take(entry, 60.0) as held:
        assert held.token > token


def test_a_holder_that_lives_keeps_its_place_for_longer_than_the_time_to_live(desk: Desk, tmp_path: Path) -> None:
    entry = _entry(desk, tmp_path, "idle")
    with _take(entry) as first:
        os.environ["LAB_STATE"] = str(tmp_path / "other-host")
        with pytest.raises(LeaseLost, match="is held by"):
            _take(entry, 1.2 * TTL_S)
        first.check()


def test_hosts_get_a_place_in_the_order_in_which_they_came(desk: Desk, tmp_path: Path) -> None:
    """A nightly, three runs and a person: the second run's host dies, the person comes on the nightly's host.

    The person goes before all, also before the nightly that stands in the line for their host. The dead host stops
    nobody for longer than its time-to-live. The coordinator is killed while the person has the place: they keep it, and
    who waits stands where it stood.
    """
    entry = _entry(desk, tmp_path, "idle", reconnect=120.0)
    with ExitStack() as stack:
        session = stack.enter_context(_session(desk))

        def comes(purpose: str, priority: Priority, host: str, ranks: list[float]) -> WaitingHost:
            one = WaitingHost(tmp_path / "bench.yaml", "idle", purpose, priority, tmp_path / host)
            stack.callback(one.end)
            _until(lambda: [waiting.priority for waiting in session.line()] == ranks, f"{purpose} waits")
            return one

        with _take(entry):
            night = comes("night", "nightly", "host-1", [-1.0])
            first = comes("first", "normal", "host-2", [0.0, -1.0])
            comes("dies", "normal", "host-3", [0.0, 0.0, -1.0]).lose_power()
            third = comes("third", "normal", "host-4", [0.0, 0.0, 0.0, -1.0])
            person = comes("person", "interactive", "host-1", [1.0, 0.0, 0.0])
        _until(lambda: _had_for(session, "person"), "the person has it")
        desk.site.kill("coordinator")
        session = stack.enter_context(_returned(desk))
        _until(lambda: _had_for(session, "person") and len(session.line()) == 2, "all are back")
        assert all(RANKS["normal"] < waiting.priority < RANKS["interactive"] for waiting in session.line())
        for host, purpose in ((person, "first"), (first, "third"), (third, "night")):
            host.give_back()
            _until(partial(_had_for, session, purpose), f"{purpose} has it")
        night.give_back()
        assert session.line() == []


def test_what_a_holder_started_uses_its_place_and_gives_nothing_back(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = _entry(desk, tmp_path, "idle")
    with _take(entry) as held:
        monkeypatch.setenv("LAB_LEASE", f"idle:{held.token}")
        with _take(entry) as lent:
            assert lent.token == held.token
            lent.check()
        held.check()
        with _session(desk) as session:
            place = session.place("idle")
            assert place is not None
            assert place.by_lab


def test_coordinator_and_board_are_reached_through_ssh(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_to(desk.box, tmp_path, monkeypatch)
    entry = _entry(desk, tmp_path, "board", tunnel="hub")
    with _take(entry) as held, connected(entry, cache_dir(), held) as device:
        wired = held.wired(entry).config.serial
        assert wired is not None
        with _session(desk) as session:
            (direct,) = [one for one in session.resources if one.acquired == "board"]
        assert f":{direct.params['port']}?" not in str(wired.port)
        deploy(entry, device, tiny_workload.NAME, cache_dir())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the board of the loopback is an x86-64 Linux")
def test_a_run_on_a_computer_that_an_exporter_names(desk: Desk, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{desk.box.port} {desk.box.host_key}\n")
    ssh = {"key": str(desk.box.key), "known_hosts": str(known)}
    bench = desk.site.bench(tmp_path / "bench.yaml", ssh=ssh)
    done = CliRunner().invoke(main, ["--config", str(bench), "run", "tiny", "--device", "box"])
    assert done.exit_code == 0, done.output
    assert "canary" not in done.output
    with Store(store_dir()) as store:
        (run,) = store.runs()
    assert {record.metric: record.median for record in run.records}["bit_exact"] == 1.0


def test_a_whole_run_on_a_board_that_an_exporter_exports(desk: Desk, tmp_path: Path) -> None:
    bench = desk.site.bench(tmp_path / "bench.yaml")
    done = CliRunner().invoke(main, ["--config", str(bench), "run", "tiny", "--device", "board"])
    assert done.exit_code == 0, done.output
    with Store(store_dir()) as store:
        (run,) = store.runs()
    figures = {(record.region, record.metric): record for record in run.records}
    assert figures["run", "bit_exact"].median == 1.0
    # The line goes over a network: this computer's clock says nothing of when the board began.
    assert ("round_trip", "latency") not in figures
    assert "acquired: None" in desk.site.client("-p", "board", "show")


@pytest.mark.parametrize("service", ["exporter", "coordinator"])
def test_a_run_goes_on_after_a_service_was_killed_and_came_back(desk: Desk, tmp_path: Path, service: str) -> None:
    entry = _entry(desk, tmp_path, "board", reconnect=120.0)
    waiting = Coordinator(LabgridConfig(coordinator=desk.site.address), "elsewhere/person")
    with interruptible(), _take(entry) as held, connected(entry, cache_dir(), held) as device, waiting:
        # Who waits gets nothing of it, although the place has to be given back for an instant.
        waiting.reserve("board", RANKS["interactive"])
        deployment = deploy(entry, device, tiny_workload.NAME, cache_dir())
        desk.site.kill(service)
        with Store(store_dir()) as store:
            measurement = measure(deployment, store, "session")
        held.check()
        token = held.token
        with _session(desk) as session:
            place = session.place("board")
            assert place is not None
            assert (place.by_lab, place.fence) == (True, token), "the same lease, not a new one"
    figures = {(record.region, record.metric): record for record in measurement.run.records}
    assert figures["run", "bit_exact"].median == 1.0
    (retry,) = measurement.run.retries
    assert "recovered by re-deploy" in retry


def test_an_exporter_that_dies_in_mid_job_ends_it_as_infrastructure(desk: Desk, tmp_path: Path) -> None:
    entry = _entry(desk, tmp_path, "board", reconnect=0.0)
    job = replace(tiny_workload.Tiny().prepare(cache_dir()).job, repeats=2000)
    with interruptible(), _take(entry) as held, connected(entry, cache_dir(), held) as device:
        deploy(entry, device, tiny_workload.NAME, cache_dir())
        events = device.run(job)
        next(events)
        port = _serial_port(held, entry)
        assert port in {at for _, at in _listening()}

        def lose_it() -> None:
            # The news may come while the site still waits for the end of the process.
            desk.site.kill_for_good("exporter")
            list(events)

        with pytest.raises(TransportError):
            lose_it()
        with pytest.raises(InfrastructureError, match="not back within 0 s"):
            _wait_after(held.check)
        # A port that went on serving the board would be one that nobody holds.
        _until(lambda: port not in {at for _, at in _listening()}, "the board's port is closed")
    with pytest.raises(TransportError, match="no exporter offers bench/board"):
        _take(entry, 0.0)
    desk.site.start_exporter()
    with _take(entry) as held, connected(entry, cache_dir(), held) as device:
        deploy(entry, device, tiny_workload.NAME, cache_dir())


def test_a_coordinator_that_does_not_come_back_is_infrastructure_within_seconds(desk: Desk, tmp_path: Path) -> None:
    entry = _entry(desk, tmp_path, "idle", reconnect=0.0)
    with pytest.raises(TransportError, match="not back within 0 s"), interruptible(), _take(entry):
        _wait_after(lambda: desk.site.kill_for_good("coordinator"))
    with pytest.raises(CoordinatorLost):
        _take(entry, 0.0)
    desk.site.start_coordinator()
    with _take(entry, 60.0) as held:
        held.check()


def test_nothing_listens_beyond_loopback_unless_asked(desk: Desk, tmp_path: Path) -> None:
    with _take(_entry(desk, tmp_path, "board")) as held:
        port = _serial_port(held, _entry(desk, tmp_path, "board"))
        coordinator = int(desk.site.address.rpartition(":")[2])
        assert {address for address, at in _listening() if at in (port, coordinator)} <= _LOOPBACK
        assert {port, coordinator} <= {at for _, at in _listening()}
    for arguments in (
        ["coordinator", "--listen", f"0.0.0.0:{free_port()}"],
        ["exporter", str(desk.site.folder / "exporter.yaml"), "--address", "0.0.0.0"],
    ):
        refused = CliRunner().invoke(main, ["labgrid", *arguments])
        assert refused.exit_code == 1
        assert "neither labgrid nor ser2net asks who is there" in refused.output


def test_a_console_holds_the_place_while_it_listens(desk: Desk, tmp_path: Path) -> None:
    lines = listen(_entry(desk, tmp_path, "board"), tiny_workload.NAME, cache_dir(), None)
    assert next(lines).startswith("# board on rfc2217://127.0.0.1:")
    with _session(desk) as session:
        place = session.place("board")
        assert place is not None
        assert "'lab console'" in place.describe()
    lines.close()
    with _take(_entry(desk, tmp_path, "board"), 0.0):
        pass
    with pytest.raises(ConfigError, match="its place has no serial port"):
        next(listen(_entry(desk, tmp_path, "idle"), tiny_workload.NAME, cache_dir(), None))


def test_a_place_that_does_not_exist_is_named_with_those_that_do(desk: Desk, tmp_path: Path) -> None:
    bench = desk.site.bench(tmp_path / "bench.yaml", devices={"x": {"board": BOARD, "place": "bord"}})
    with pytest.raises(ConfigError, match=r"no place 'bord'; did you mean 'board'.*board, box, idle, shelf"):
        lease_of(Bench.load(bench).get("x"), "a test", 0.0)


def _wait_after(act: Callable[[], object]) -> None:
    """Do something, then wait in a system call for ever, as one who waits for a board does."""
    act()
    signal.pause()


def _serial_port(held: PlaceLease, entry: Device) -> int:
    wired = held.wired(entry).config.serial
    assert wired is not None
    assert wired.port is not None
    return int(wired.port.partition("?")[0].rpartition(":")[2])


def _until(happened: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + PATIENCE_S
    while not happened():
        assert monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        sleep(0.1)


def _had_for(session: Coordinator, purpose: str) -> bool:
    place = session.place("idle")
    return place is not None and place.by_lab and place.tags.get(PURPOSE) == purpose


def _returned(desk: Desk) -> Coordinator:
    """A session with a coordinator that is being started again."""
    while True:
        try:
            return _session(desk)
        except CoordinatorLost:
            sleep(0.5)


def _listening() -> list[tuple[str, int]]:
    """Address (hexadecimal, as the kernel has it) and port of every TCP socket that listens."""
    found = []
    for file in ("tcp", "tcp6"):
        for line in Path("/proc/net", file).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                address, _, port = local.partition(":")
                found.append((address, int(port, 16)))
    return found
