"""ADB: a real ADB server of this computer, at a port of its own, before a phone's daemon that is written in Python."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import remote_conformance as conformance
from helpers.adb_peer import AdbPeer, Fault

from lab.connection_config import AdbDevice
from lab.errors import PhoneOffline, PhoneUnauthorized, ToolMissing, TransportError
from lab.transports import adb_remote, adb_server
from lab.transports.adb import open_adb
from lab.transports.adb_remote import Adb
from lab.transports.local import LocalRemote
from lab.transports.remote_files import RemoteFiles

adbutils = pytest.importorskip("adbutils", reason="adbutils is not installed")


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An ADB server of our own: the user's goes on undisturbed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("HOME", str(home))
        yield
        adbutils.AdbClient().server_kill()


@pytest.fixture
def peer() -> Iterator[AdbPeer]:
    with AdbPeer() as started:
        yield started


@pytest.fixture
def phone(peer: AdbPeer) -> Iterator[Adb]:
    with open_adb(AdbDevice(address=peer.address)) as remote:
        yield remote


@pytest.fixture
def own() -> str:
    return f"3600.{uuid.uuid4().int % 10**12}"


def test_arguments_arrive_as_they_are(phone: Adb) -> None:
    conformance.check_arguments_arrive(phone)


def test_statuses_are_those_of_shells(phone: Adb) -> None:
    conformance.check_statuses(phone)


def test_streams_carry_any_bytes(phone: Adb) -> None:
    conformance.check_streams(phone)


def test_a_command_is_spoken_to(phone: Adb) -> None:
    conformance.check_conversation(phone)


def test_last_words(phone: Adb) -> None:
    conformance.check_last_words(phone)


def test_what_does_not_end_is_killed_with_all_it_started(phone: Adb, own: str) -> None:
    conformance.check_timeout_kills(phone, own)


def test_kill_reaches_what_ignores_signals(phone: Adb, own: str) -> None:
    conformance.check_kill(phone, own)


def test_files_by_digest(phone: Adb, tmp_path: Path) -> None:
    conformance.check_files(phone, str(tmp_path / "device"), tmp_path)


def test_files_that_cannot_be(phone: Adb, tmp_path: Path) -> None:
    conformance.check_file_refusals(phone, str(tmp_path / "device"), tmp_path)


def test_hostile_names(phone: Adb, tmp_path: Path) -> None:
    conformance.check_hostile_names(phone, str(tmp_path / "device"), tmp_path)


def test_close_ends_what_runs(phone: Adb, own: str) -> None:
    conformance.check_close_ends_all(phone, LocalRemote(), own)


def test_a_port_of_the_phone(phone: Adb) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        here = phone.forward(service.getsockname()[1])

        def echo() -> None:
            connection, _ = service.accept()
            with connection:
                connection.sendall(connection.recv(100)[::-1])

        threading.Thread(target=echo, daemon=True).start()
        with socket.create_connection(("127.0.0.1", here), timeout=20) as client:
            client.sendall(b"abc")
            assert client.recv(100) == b"cba"
    phone.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", here), timeout=20).close()


def test_files_of_the_kernel_and_the_folder(phone: Adb) -> None:
    files = RemoteFiles(phone)
    read = files.read_many(["/proc/sys/kernel/random/boot_id", "/nowhere"])
    assert str(read[0]).strip() == phone.boot_id
    assert isinstance(read[1], FileNotFoundError)
    files.close()
    assert phone.folder == "/data/local/tmp/hil-lab"


def test_a_terminal(phone: Adb) -> None:
    process = phone.terminal("vt100", 100, 30)
    process.write(b"echo answer $((6 * 7)); exit 5\n")
    process.end_input()
    assert process.wait(20.0) == 5
    assert b"answer 42" in process.read(0.0)
    process.close()


# ---- faults ----


def test_a_phone_that_trusts_nobody() -> None:
    with AdbPeer("unauthorized") as peer:
        with pytest.raises(PhoneUnauthorized, match="does not trust this computer") as caught:
            open_adb(AdbDevice(address=peer.address), origin="bench.yaml:5")
        assert str(caught.value).startswith("bench.yaml:5: phone 127.0.0.1:")
        assert not caught.value.transient
        assert "allow USB debugging" in caught.value.hint
        # Once somebody says yes on its screen, it is a phone like others.
        peer.fault = None
        adbutils.AdbClient().disconnect(peer.address)
        with open_adb(AdbDevice(address=peer.address)) as remote:
            assert remote.run(("echo", "yes")).text == "yes"


@pytest.mark.parametrize("fault", ["offline", "garbage"])
def test_a_phone_that_does_not_answer(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_server, "_ANSWER_S", 1.0)
    with AdbPeer(fault) as peer:
        with pytest.raises(PhoneOffline, match=f"phone {peer.address}: it did not answer within 1 s") as caught:
            open_adb(AdbDevice(address=peer.address))
        assert caught.value.transient
        assert peer.connections >= 1


def test_no_phone_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_remote, "_READY_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(PhoneOffline, match=f"phone {address}: .*refused") as caught:
        open_adb(AdbDevice(address=address))
    assert "tcpip" in caught.value.hint
    with pytest.raises(PhoneOffline, match="phone 0123456789ABCDEF is not known") as caught:
        open_adb(AdbDevice(serial="0123456789ABCDEF"))
    assert "adb devices" in caught.value.hint


def test_a_phone_that_goes_away_in_mid_stream(peer: AdbPeer, phone: Adb, own: str) -> None:
    process = phone.start(("sh", "-c", f"trap '' HUP TERM; echo ready; sleep {own}"))
    assert conformance.read_all(process, 6) == b"ready\n"
    peer.fault = "offline"
    peer.cut()
    calls: tuple[Callable[[], object], ...] = (
        lambda: process.read(20.0), lambda: process.write(b"x"), process.poll, lambda: process.wait(20.0),
        lambda: phone.run(("true",)),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(TransportError) as caught:
            call()
        assert caught.value.transient
    # The server says of such a phone what it is.
    with pytest.raises(PhoneOffline):
        phone.run(("true",))
    process.kill()
    peer.fault = None
    # What ran on is killed by the next connection: nothing of it may disturb the next run.
    phone.reconnect(30.0)
    assert conformance.gone(LocalRemote(), own)
    assert phone.run(("echo", "again")).text == "again"


def test_a_push_that_was_cut_off_goes_on(peer: AdbPeer, phone: Adb, tmp_path: Path) -> None:
    data = os.urandom(2 << 20)
    source = tmp_path / "source"
    source.write_bytes(data)
    peer.break_after = 1 << 20
    with pytest.raises(TransportError) as caught:
        phone.push(source, f"{tmp_path}/there/file")
    assert caught.value.transient
    peer.break_after = None
    (part,) = (tmp_path / "there").iterdir()
    assert conformance.gone(LocalRemote(), part.name)
    kept = part.stat().st_size
    assert 0 < kept < len(data)
    phone.reconnect(30.0)
    assert phone.push(source, f"{tmp_path}/there/file").sent_bytes == len(data) - kept
    assert (tmp_path / "there/file").read_bytes() == data


def test_a_phone_that_waits_for_an_answer_when_it_comes_back(peer: AdbPeer, phone: Adb) -> None:
    peer.fault = "unauthorized"
    peer.cut()
    with pytest.raises(PhoneUnauthorized):
        phone.reconnect(30.0)


def test_no_adb_and_no_adbutils(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise adbutils.AdbError("No adb exe could be found")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(listener.getsockname()[1]))
    monkeypatch.setattr(adb_server, "adb_path", missing)
    with pytest.raises(ToolMissing, match="adb is not installed"):
        open_adb(AdbDevice(serial="0123"))
    monkeypatch.setattr(adb_server, "adb_path", lambda: "false")
    with pytest.raises(TransportError, match="does not start"):
        open_adb(AdbDevice(serial="0123"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolMissing, match="adbutils is not installed"):
        open_adb(AdbDevice(serial="0123"))


def test_the_server_is_started_without_a_word(capfd: pytest.CaptureFixture[str], peer: AdbPeer) -> None:
    adbutils.AdbClient().server_kill()
    with open_adb(AdbDevice(address=peer.address)) as remote:
        assert remote.run(("echo", "in")).text == "in"
    said = capfd.readouterr()
    assert said.out + said.err == ""
