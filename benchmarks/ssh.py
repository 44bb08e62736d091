"""Commands and byte streams over SSH, against plain paramiko and the program ``ssh``, on this computer's loopback.

One OpenSSH server serves all; what is compared takes turns in one run, and the best turns are compared, since other
load on the machine can only slow a turn down. Plain paramiko is ``SSHClient`` as it comes, for
round trips also with Nagle's algorithm off, as ours is. The wire runs between the
same :class:`lab.wire.Session` and the same runner, once over the lab's transport and once over the program ``ssh``.

Claims: a command's round trip takes at most 1.3 times plain paramiko's; the wire moves useful bytes at no less than
80 % of its rate over ``ssh``, raw streams at no less than 80 % of plain paramiko's, in both directions.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from common import Claim, spread, verdict
from copy_model import copy_model

from lab.build import build
from lab.connection_config import SshHost
from lab.emulator_config import LoopbackEmulator
from lab.emulators.sshd import LoopbackSshd
from lab.events import Job, ResultEvent
from lab.paths import cache_dir
from lab.transports.base import ByteStream
from lab.transports.ssh import open_ssh
from lab.transports.ssh_remote import Ssh
from lab.transports.stdio import ProcessStream
from lab.wire import Session

TURNS = 15
COMMANDS = 20
RAW_BYTES = 16 << 20
BLOB_BYTES = 4 << 20
COPIES = 2
BOARD = "linux-x86-64"


@dataclass
class Turns:
    """What was seen of one way to do it, turn by turn: seconds per command, useful bytes per second."""

    command_s: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)


def plain_client(host: SshHost, *, nagle: bool = True) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        str(host.host), host.port, str(host.user), key_filename=str(host.key), look_for_keys=False, allow_agent=False
    )
    transport = client.get_transport()
    if not nagle and transport is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def plain_commands(client: paramiko.SSHClient, turns: Turns) -> None:
    begin = time.perf_counter()
    for _ in range(COMMANDS):
        _, output, _ = client.exec_command("/bin/true")
        output.read()
        if output.channel.recv_exit_status() != 0:
            raise SystemExit("plain paramiko: the command failed")
    turns.command_s.append((time.perf_counter() - begin) / COMMANDS)


def our_commands(remote: Ssh, turns: Turns) -> None:
    begin = time.perf_counter()
    for _ in range(COMMANDS):
        if remote.run(("/bin/true",)).status != 0:
            raise SystemExit("the command failed")
    turns.command_s.append((time.perf_counter() - begin) / COMMANDS)


def plain_streams(client: paramiko.SSHClient, data: bytes, turns: Turns) -> None:
    given, output, _ = client.exec_command(f"head -c {len(data)} | sha256sum")
    begin = time.perf_counter()
    given.channel.sendall(data)
    output.read()
    turns.up.append(len(data) / (time.perf_counter() - begin))
    _, output, _ = client.exec_command(f"head -c {len(data)} /dev/zero")
    begin, taken = time.perf_counter(), 0
    while taken < len(data):
        taken += len(output.channel.recv(1 << 16))
    turns.down.append(len(data) / (time.perf_counter() - begin))


def our_streams(remote: Ssh, data: bytes, turns: Turns) -> None:
    process = remote.start(("sh", "-c", f"head -c {len(data)} | sha256sum"))
    begin = time.perf_counter()
    process.write(data)
    while not process.read(60.0):
        continue
    turns.up.append(len(data) / (time.perf_counter() - begin))
    process.close()
    process = remote.start(("head", "-c", str(len(data)), "/dev/zero"))
    begin, taken = time.perf_counter(), 0
    while taken < len(data):
        taken += len(process.read(60.0))
    turns.down.append(len(data) / (time.perf_counter() - begin))
    process.close()


@contextmanager
def by_program(host: SshHost, runner: str) -> Iterator[ByteStream]:
    """The runner behind the program ``ssh``."""
    quiet = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
    command = ("ssh", *quiet, "-i", str(host.key), "-p", str(host.port), f"{host.user}@{host.host}", runner)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stream = ProcessStream(process, "ssh")
    try:
        yield stream
    finally:
        stream.close()
        process.wait()


def wire_turn(stream: ByteStream, data: bytes, turns: Turns) -> None:
    """One blob to the runner over the wire, and a result of several copies of it back."""
    session = Session(stream)
    session.open(ask=False)
    begin = time.perf_counter()
    session.put("samples", data)
    turns.up.append(len(data) / (time.perf_counter() - begin))
    job = Job("infer", data, 1, warmup=0, repeats=1, quiet_us=0)
    begin = time.perf_counter()
    results = [event.data for event in session.run(job) if isinstance(event, ResultEvent)]
    turns.down.append(COPIES * len(data) / (time.perf_counter() - begin))
    lost = session.resent_frames, session.repeated_frames, session.garbage_bytes
    if results != [COPIES * data] or any(lost):
        raise SystemExit(f"what came back is not what was sent; resent, repeated, garbage: {lost}")


def rates(what: str, ours: Turns, theirs: Turns, other: str) -> list[Claim]:
    """Claims on both directions of a stream."""
    claims = []
    for way in ("up", "down"):
        mine, others = getattr(ours, way), getattr(theirs, way)
        seen = f"{spread(mine, 'MB/s', 1e-6)}, {other} {spread(others, 'MB/s', 1e-6)}"
        direction = "to the device" if way == "up" else "from the device"
        claims.append(Claim(f"{what} {direction}", seen, max(mine) / max(others), 0.8, at_least=True))
    return claims


def main() -> int:
    artifact = build(copy_model(BLOB_BYTES, COPIES), BOARD, cache=cache_dir())
    ours, plain, prompt, our_wire, their_wire = (Turns() for _ in range(5))
    raw, blob = os.urandom(RAW_BYTES), os.urandom(BLOB_BYTES)
    with LoopbackSshd(LoopbackEmulator(kind="sshd"), cache_dir()) as server:
        host = server.start()
        with open_ssh(host) as remote, plain_client(host) as client, plain_client(host, nagle=False) as without_nagle:
            runner = remote.push(Path(artifact.path), f"{remote.folder}/runner", executable=True).path
            for _ in range(TURNS):
                our_commands(remote, ours)
                plain_commands(client, plain)
                plain_commands(without_nagle, prompt)
                our_streams(remote, raw, ours)
                plain_streams(client, raw, plain)
                process = remote.start((runner,))
                wire_turn(process, blob, our_wire)
                process.close()
                with by_program(host, runner) as stream:
                    wire_turn(stream, blob, their_wire)
    trips = [(plain, "plain paramiko"), (prompt, "plain paramiko without Nagle's delay")]
    return verdict([
        *(
            Claim(
                f"round trip of a command against {name}",
                f"{spread(ours.command_s, 'ms', 1e3)}, theirs {spread(other.command_s, 'ms', 1e3)}",
                min(ours.command_s) / min(other.command_s),
                1.3,
            )
            for other, name in trips
        ),
        *rates("the wire", our_wire, their_wire, "over ssh"),
        *rates("a raw stream", ours, plain, "plain paramiko"),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
