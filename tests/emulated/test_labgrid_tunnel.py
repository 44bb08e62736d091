"""Tunnels through a real OpenSSH server on the loopback address."""

from __future__ import annotations

import os
import select
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.labgrid_site import free_port, ssh_to

from lab.connection_config import SshHost
from lab.emulator_config import LoopbackEmulator
from lab.emulators.sshd import LoopbackSshd
from lab.errors import ToolMissing, TransportError
from lab.labgrid.tunnel import Tunnel
from lab.paths import cache_dir
from lab.transports.serial import SerialPort

_HOLD = """
import sys
from lab.labgrid.tunnel import Tunnel
tunnel = Tunnel("hub", "127.0.0.1", int(sys.argv[1]))
print(tunnel._process.pid, tunnel.port, flush=True)
sys.stdin.read()
"""


class _Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets; counts who came."""

    daemon_threads = True

    def __init__(self) -> None:
        self.visitors = 0
        super().__init__(("127.0.0.1", 0), _Echoing)


class _Echoing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Echo)
        self.server.visitors += 1
        while got := self.request.recv(4096):
            self.request.sendall(got)


@pytest.fixture(scope="module")
def server() -> Iterator[SshHost]:
    hub = LoopbackSshd(LoopbackEmulator(kind="sshd"), cache_dir())
    try:
        yield hub.start()
    finally:
        hub.stop()


@pytest.fixture
def hub(server: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    ssh_to(server, tmp_path, monkeypatch)
    return "hub"


@pytest.fixture
def echo() -> Iterator[_Echo]:
    with _Echo() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_bytes_pass_and_nobody_visits_before(hub: str, echo: _Echo) -> None:
    """A serial port that is opened only to see whether it is there may reset its board."""
    tunnel = Tunnel(hub, "127.0.0.1", echo.server_address[1])
    try:
        assert tunnel.alive
        assert echo.visitors == 0
        port = SerialPort(f"socket://127.0.0.1:{tunnel.port}")
        port.write(b"over there")
        assert port.read(30.0) == b"over there"
        port.close()
        assert echo.visitors == 1
    finally:
        tunnel.close()
        tunnel.close()
    assert not tunnel.alive


def test_it_ends_with_the_process_that_opened_it(hub: str, echo: _Echo) -> None:
    command = [sys.executable, "-c", _HOLD, str(echo.server_address[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[0])
        watched = os.pidfd_open(pid)
        process.kill()
    try:
        assert select.select([watched], [], [], 60.0)[0], "ssh outlives it"
    finally:
        os.close(watched)


def test_a_host_that_refuses_is_quoted(hub: str, server: SshHost, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    with pytest.raises(TransportError, match=r"(?s)through hub: .*Host key verification failed"):
        Tunnel(hub, "127.0.0.1", 1)


def test_nobody_there_is_told(hub: str, tmp_path: Path) -> None:
    settings = tmp_path / "ssh_config"
    settings.write_text(f"Host hub\n  HostName 127.0.0.1\n  Port {free_port()}\n")
    with pytest.raises(TransportError, match=r"through hub: .*Connection refused"):
        Tunnel(hub, "127.0.0.1", 1)


def test_without_ssh_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="ssh is not installed"):
        Tunnel("hub", "127.0.0.1", 1)


def test_a_tunnel_that_dies_is_told(hub: str, echo: _Echo) -> None:
    tunnel = Tunnel(hub, "127.0.0.1", echo.server_address[1])
    os.kill(tunnel._process.pid, signal.SIGKILL)
    tunnel._process.wait()
    assert not tunnel.alive
    tunnel.close()
