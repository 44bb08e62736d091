"""Whatever the lab starts listens on the loopback address only: read from the kernel's own tables."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import tiny_workload
from helpers.inner_session import descendants
from helpers.toolchain import needs_qemu

from lab.bench import Bench
from lab.devices.connect import connected
from lab.runs import deploy
from lab.transports.swd_settings import open_swd

pytestmark = needs_qemu

_BENCH = """
devices:
  ppk2: {board: mps2-an386, emulated: true, meter: {kind: ppk2, emulated: true, voltage_v: 3.3}}
  lpm01a: {board: mps2-an386, emulated: true, meter: {kind: lpm01a, emulated: true, voltage_v: 3.3}}
  otii: {board: mps2-an386, emulated: true, meter: {kind: otii, emulated: true, voltage_v: 3.3}}
  scpi: {board: mps2-an386, emulated: true, meter: {kind: scpi, emulated: true, model: n6705, voltage_v: 3.3}}
  probed: {board: mps2-an386, emulated: true, swd: {emulated: true}}
  loopback: {board: linux-x86-64, emulated: true}
"""
_LISTENS = "0A"


def _listeners() -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Address and port of every TCP socket that this process or one below it listens at (proc_net(5))."""
    inodes = set()
    for pid in {os.getpid(), *descendants(os.getpid())}:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            # Descriptors and processes may end while they are looked at.
            with contextlib.suppress(OSError):
                if match := re.match(r"socket:\[(\d+)\]", os.readlink(path)):
                    inodes.add(match[1])
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                yield _address(address), int(port, 16)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel prints words of 32 bits in its own byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))


def _beyond(listeners: Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]) -> list[str]:
    return [f"{address} port {port}" for address, port in listeners if not address.is_loopback]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_search_finds_one_that_listens_to_all(family: socket.AddressFamily) -> None:
    with socket.socket(family) as server:
        try:
            server.bind(("", 0))
        except OSError:
            pytest.skip("this computer has no IPv6")
        server.listen()
        port = server.getsockname()[1]
        assert any(one.endswith(f" port {port}") for one in _beyond(_listeners()))
    assert not any(one.endswith(f" port {port}") for one in _beyond(_listeners()))


@pytest.mark.parametrize("name", ["ppk2", "lpm01a", "otii", "scpi", "probed", "loopback"])
def test_emulators_meters_and_servers(tmp_path: Path, private_lab: Path, shared_cache: Path, name: str) -> None:
    if name == "loopback" and not Path("/usr/sbin/sshd").exists():
        pytest.skip("OpenSSH's server is not installed")
    tiny_workload.register()
    (tmp_path / "bench.yaml").write_text(_BENCH)
    entry = Bench.load(tmp_path / "bench.yaml").get(name)
    before = set(_listeners())
    with ExitStack() as stack:
        device = stack.enter_context(connected(entry, shared_cache))
        deploy(entry, device, "tiny", shared_cache)
        if name == "probed":
            _serve_gdb(device, stack)
        new = set(_listeners()) - before
        assert new, "what was started listens somewhere"
        assert _beyond(iter(new)) == []
    assert set(_listeners()) - before == set()


def _serve_gdb(device: object, stack: ExitStack) -> None:
    settings = device._target._settings  # type: ignore[attr-defined]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    swd = stack.enter_context(open_swd(settings, "attach"))
    stack.enter_context(swd.serving_gdb(port))
    assert port in {listening for _, listening in _listeners()}


def test_guests_of_linux_are_forwarded_to_from_the_loopback_address_only() -> None:
    """They have tests of their own; here it is their command line that counts."""
    root = Path(__file__).resolve().parents[2] / "lab"
    forwards = [line for path in root.rglob("*.py") for line in path.read_text().splitlines() if "hostfwd=" in line]
    assert forwards
    assert all("hostfwd=tcp:127.0.0.1:" in line for line in forwards)
