"""A connection of SSH up to where commands can run: through a jump host, host keys checked, logged in, kept alive."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import paramiko

from lab.config_fields import Text, reveal
from lab.connection_config import SshHost, SshJump
from lab.errors import TransportError
from lab.transports.ssh_keys import check_host_key, expected_key, shown, user_keys

_CONNECT_S = 15.0
_SIGKILL = 9  # which Windows has no name for
_LOST_AFTER = 3
_ROOM_S, _ROOM_PAUSE_S = 2.0, 0.02
_LOG = "lab.ssh"
_MSG_CHANNEL_REQUEST = 98  # RFC 4254, 9

_Handler: TypeAlias = Callable[[paramiko.Channel, paramiko.Message], None]

# Galois counter mode does with one pass what the others need two for; all modern servers have it.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")


def _with_signal(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """Take the end of a command by a signal, which paramiko leaves out, as status 128 + its number."""
    request = paramiko.Message(message.get_remainder())
    if request.get_text() == "exit-signal":  # RFC 4254, 6.10
        request.get_boolean()
        number = getattr(signal, f"SIG{request.get_text()}", _SIGKILL)
        channel.exit_status = 128 + int(number)
        channel.status_event.set()
        return
    paramiko.Channel._handle_request(channel, message)  # type: ignore[attr-defined]


class _Transport(paramiko.Transport):
    _channel_handler_table: ClassVar[dict[int, _Handler]] = {
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]
        _MSG_CHANNEL_REQUEST: _with_signal,
    }


class Connection:
    """A user logged in to a host.

    Args:
        config: who, where and with which keys.
        origin: ``file:line`` of the entry, for errors.

    Attributes:
        transport: paramiko's; channels are opened on it.
        name: ``user@host:port``.

    Raises:
        HostKeyUnknown, HostKeyChanged, ConfigError, TransportError: as :func:`lab.transports.ssh.open_ssh`.
    """

    def __init__(self, config: SshHost, origin: str) -> None:
        self.name = f"{shown(config.user)}@{shown(config.host)}:{config.port}"
        self._lost = ""
        with contextlib.ExitStack() as opened:
            way: socket.socket | paramiko.Channel
            if config.jump is None:
                way = _dial(config)
            else:
                jump = _login(config.jump, _dial(config.jump), config, origin)
                opened.callback(jump.close)
                way = _through(jump, config)
            self.transport = _login(config, way, config, origin)
            opened.callback(self.transport.close)
            self._opened = opened.pop_all()
        self._closed = threading.Event()
        if config.keepalive_s > 0:
            threading.Thread(
                target=self._keep_alive, args=(config.keepalive_s,), name=f"{_LOG}-keepalive", daemon=True
            ).start()

    def open_channel(self) -> paramiko.Channel:
        """A channel for one command.

        Raises:
            TransportError: the server allows no more commands at once.
            paramiko.SSHException, OSError, EOFError: the connection is lost, or the server closed the channel at once.
        """
        deadline = time.monotonic() + _ROOM_S
        while True:
            try:
                return self.transport.open_session(timeout=_CONNECT_S)
            except paramiko.ChannelException as error:
                # A server takes a moment to forget a command that ended.
                if time.monotonic() > deadline:
                    raise TransportError(
                        f"{self.name} does not let another command run: {error.text}",
                        hint="MaxSessions in its sshd_config says how many may run at once: 10 where it says nothing",
                        transient=True,
                    ) from error
            time.sleep(_ROOM_PAUSE_S)

    def lost(self, error: Exception | None = None) -> TransportError:
        """The error of a connection that broke."""
        why = self._lost or str(error or self.transport.saved_exception or "") or "it was closed"
        return TransportError(f"connection to {self.name} lost: {why}", transient=True)

    def close(self) -> None:
        """Close it; safe to call twice."""
        self._closed.set()
        self._opened.close()

    def _keep_alive(self, every_s: float) -> None:
        """Ask for an answer now and then; where none comes, end the connection, which wakes all who wait on it."""
        while not self._closed.wait(every_s) and self.transport.is_active():
            ask = threading.Thread(target=self._ask, name=f"{_LOG}-ask", daemon=True)
            ask.start()
            ask.join(_LOST_AFTER * every_s)
            if ask.is_alive() and not self._closed.is_set():
                self._lost = f"it did not answer for {_LOST_AFTER * every_s:g} s"
                self.transport.close()

    def _ask(self) -> None:
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self.transport.global_request("keepalive@openssh.com", wait=True)


def _dial(host: SshHost | SshJump) -> socket.socket:
    name = f"{shown(host.host)} port {host.port}"
    try:
        connection = socket.create_connection((reveal(host.host), host.port), timeout=_CONNECT_S)
    except socket.gaierror as error:
        raise TransportError(f"{name}: no such host: {error.strerror}") from error
    except OSError as error:
        raise TransportError(
            f"{name} cannot be reached: {error}", hint="is it on, and does its SSH server listen there?", transient=True
        ) from error
    # Small messages of the wire must not wait for the acknowledgement of those before them (RFC 896).
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _through(jump: paramiko.Transport, host: SshHost) -> paramiko.Channel:
    try:
        return jump.open_channel("direct-tcpip", (reveal(host.host), host.port), ("127.0.0.1", 0), timeout=_CONNECT_S)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise TransportError(
            f"{shown(host.host)} port {host.port} cannot be reached from its jump host: {error}", transient=True
        ) from error


def _login(
    host: SshHost | SshJump, way: socket.socket | paramiko.Channel, config: SshHost, origin: str
) -> paramiko.Transport:
    """Log in over an open connection, which is closed where that fails."""
    with contextlib.ExitStack() as opened:
        opened.callback(way.close)
        expected = expected_key(host, config.known_hosts)
        transport = _Transport(way)
        opened.callback(transport.close)
        _quiet(transport)
        options = transport.get_security_options()
        options.ciphers = [name for name in _CIPHERS if name in options.ciphers]
        first = [name for name in expected.algorithms if name in options.key_types]
        options.key_types = [*first, *(name for name in options.key_types if name not in first)]
        name = f"{shown(host.host)} port {host.port}"
        transport.banner_timeout = transport.auth_timeout = _CONNECT_S
        try:
            transport.start_client(timeout=_CONNECT_S)
            key = transport.get_remote_server_key()
        except paramiko.ssh_exception.IncompatiblePeer as error:
            raise TransportError(f"{name}: no common algorithm: {error}") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            why = str(error) or "it closed the connection"
            raise TransportError(f"{name} does not answer as an SSH server: {why}", transient=True) from error
        check_host_key(key, expected, host, origin)
        _authenticate(transport, host, config.agent, config.password if host is config else None)
        opened.pop_all()
    return transport


def _quiet(transport: paramiko.Transport) -> None:
    """What paramiko says goes to a log that nobody sees who does not ask for it: errors are ours to tell."""
    logger = logging.getLogger(_LOG)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    transport.set_log_channel(_LOG)


def _authenticate(transport: paramiko.Transport, host: SshHost | SshJump, agent: bool, password: Text | None) -> None:
    user = reveal(host.user)
    tried = []
    try:
        for label, key in user_keys(host.key, agent, password is not None):
            tried.append(label)
            with contextlib.suppress(paramiko.AuthenticationException):
                transport.auth_publickey(user, key)
            if transport.is_authenticated():
                return
        if password is not None:
            tried.append("a password")
            with contextlib.suppress(paramiko.AuthenticationException):
                transport.auth_password(user, reveal(password))
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise TransportError(
            f"{shown(host.host)} port {host.port} broke off while {shown(host.user)} logged in: "
            f"{error or 'it closed the connection'}",
            transient=True,
        ) from error
    if not transport.is_active():
        raise TransportError(
            f"{shown(host.host)} port {host.port} ended the connection while {shown(host.user)} logged in",
            transient=True,
        )
    if not transport.is_authenticated():
        raise TransportError(
            f"{shown(host.host)} port {host.port} does not let {shown(host.user)} in; tried: "
            f"{', '.join(tried) or 'nothing, for there is no key, no agent and no password'}; "
            f"it takes: {', '.join(_taken(transport, user)) or 'nothing'}",
            hint="its ~/.ssh/authorized_keys must have the key: `ssh-copy-id` puts it there",
        )


def _taken(transport: paramiko.Transport, user: str) -> list[str]:
    """The ways to log in that a server offers."""
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return error.allowed_types
    except (paramiko.SSHException, OSError, EOFError):
        return []
    return []
