"""A small SSH server of paramiko's, for what OpenSSH's cannot be made to do as any user: passwords, odd endings."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from types import TracebackType
from typing import Self

import paramiko


class _Rules(paramiko.ServerInterface):
    def __init__(self, peer: SshPeer) -> None:
        self._peer = peer

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        right = username == "user" and password == self._peer.password
        return paramiko.common.AUTH_SUCCESSFUL if right else paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        room = self._peer.most_channels is None or self._peer.channels < self._peer.most_channels
        if kind != "session" or not room:
            return paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        self._peer.channels += 1
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._peer.serve_command, args=(channel, command), daemon=True).start()
        return True


class SshPeer:
    """An SSH server on 127.0.0.1 that runs commands in this computer's shell.

    Args:
        password: of the user ``user``.
        shell: what takes a command line.
        most_channels: commands it allows over its life; None for any number.
        end_without_status: it closes commands without saying how they ended.
        key_type: of its host key.

    Attributes:
        port: where it listens.
        key: its host key.
    """

    def __init__(
        self,
        password: str,
        *,
        shell: tuple[str, ...] = ("sh", "-c"),
        most_channels: int | None = None,
        end_without_status: bool = False,
    ) -> None:
        self.password = password
        self.most_channels = most_channels
        self.channels = 0
        self._shell = shell
        self._end_without_status = end_without_status
        self.key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._transports: list[paramiko.Transport] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def serve_command(self, channel: paramiko.Channel, command: bytes) -> None:
        """Run a command in a session of its own, as sshd does."""
        process = subprocess.Popen(
            (*self._shell, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        output, complaint = process.communicate(b"")
        with contextlib.suppress(OSError, EOFError):
            channel.sendall(output)
            channel.sendall_stderr(complaint)
            if not self._end_without_status:
                channel.send_exit_status(process.returncode & 0xFF)
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()
        for transport in self._transports:
            transport.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self.key)
            self._transports.append(transport)
            # A client that goes away while keys are exchanged is what some tests do.
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=_Rules(self))
