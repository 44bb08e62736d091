"""The ADB server of this computer, and what it knows of phones.

The server is the one that ``adb`` uses as well: at port 5037, or where ``ANDROID_ADB_SERVER_PORT`` says. It is started
where none runs, as ``adb`` does, and left running. Services are those of the platform tools' SERVICES.TXT.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import cast

from adbutils import AdbClient, AdbConnection, AdbError, AdbTimeout, adb_path

from lab.errors import PhoneOffline, PhoneUnauthorized, ToolMissing, TransportError

_ANSWER_S = 15.0
_START_S = 30.0
_LOOK_EVERY_S = 0.05
# States through which a phone passes while it connects, as the server names them; others last.
_PASSING = ("connecting", "authorizing", "offline", "not found")
_STATES = (*_PASSING, "unauthorized", "no permissions")


class AdbServer:
    """The server of this computer.

    Raises:
        ToolMissing: none runs, and there is no ``adb`` to start one.
        TransportError: it cannot be started.
    """

    def __init__(self) -> None:
        self._client = AdbClient()
        self._place = (self._client.host, self._client.port)
        self._ensure()

    def open(self, serial: str, service: str) -> socket.socket:
        """A connection on which a phone's service goes on.

        Raises:
            TransportError: the server or the phone refuses it, or breaks off.
        """
        with self._connection(serial) as connection:
            for request in (f"host:transport:{serial}", service):
                connection.send_command(request)
                connection.check_okay()
            link = cast(socket.socket, connection.conn)
            link.settimeout(None)
            # Small messages of the wire must not wait for the acknowledgement of those before them (RFC 896).
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return link

    def connect(self, address: str) -> None:
        """Have the server connect to a phone's daemon, unless it is connected.

        Raises:
            PhoneOffline: nothing listens there, or what listens does not answer as a phone.
            TransportError: there is no server.
        """
        try:
            said = self._ask(address, f"host:connect:{address}")
        except TransportError as error:
            if not isinstance(error.__cause__, AdbTimeout):
                raise
            said = f"it did not answer within {_ANSWER_S:g} s"
        # A phone that does not trust us is connected to as well; its state tells.
        if not said.startswith(("connected", "already connected", "failed to authenticate")):
            raise PhoneOffline(
                f"phone {address}: {said}",
                hint="is it awake and on this network? `adb tcpip 5555` over the cable lets it listen until it reboots",
                transient=True,
            )

    def disconnect(self, address: str) -> None:
        """Have the server forget a phone's daemon."""
        with contextlib.suppress(TransportError):
            self._ask(address, f"host:disconnect:{address}")

    def wait_for(self, serial: str, timeout_s: float) -> None:
        """Wait until a phone can be used.

        Raises:
            PhoneUnauthorized: it does not trust this computer's key.
            PhoneOffline: it does not answer, or the server does not know it.
            TransportError: there is no server, or it may not use the phone.
        """
        deadline = time.monotonic() + timeout_s
        while (state := self._state(serial)) != "device":
            passing = any(word in state for word in _PASSING)
            if not passing or time.monotonic() >= deadline:
                raise _unusable(serial, state)
            time.sleep(_LOOK_EVERY_S)

    def forward(self, serial: str, port: int) -> int:
        """Pass a port of this computer on to one of the phone; gives the port here.

        Raises:
            TransportError: the server or the phone refuses it.
        """
        with self._connection(serial) as connection:
            connection.send_command(f"host-serial:{serial}:forward:tcp:0;tcp:{port}")
            connection.check_okay()
            connection.check_okay()
            here = int(connection.read_string_block())
            connection.close()
        return here

    def end_forward(self, serial: str, here: int) -> None:
        """Pass a port of this computer on no longer."""
        with contextlib.suppress(TransportError), self._connection(serial) as connection:
            connection.send_command(f"host-serial:{serial}:killforward:tcp:{here}")
            connection.check_okay()
            connection.close()

    def _state(self, serial: str) -> str:
        """A phone's state, or why it has none, in the server's words."""
        try:
            return self._ask(serial, f"host-serial:{serial}:get-state")
        except TransportError as error:
            if isinstance(error.__cause__, AdbError):
                return str(error.__cause__)
            raise

    def _ask(self, serial: str, request: str) -> str:
        with self._connection(serial) as connection:
            connection.send_command(request)
            connection.check_okay()
            answer = str(connection.read_string_block())
            connection.close()
        return answer

    @contextlib.contextmanager
    def _connection(self, serial: str) -> Iterator[AdbConnection]:
        """A connection to the server, closed where something goes wrong."""
        self._ensure()
        connection: AdbConnection | None = None
        try:
            connection = self._client.make_connection(timeout=_ANSWER_S)
            yield connection
        except (AdbError, OSError, EOFError, ValueError) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, AdbError) and any(word in str(error) for word in _STATES):
                raise _unusable(serial, str(error)) from error
            raise TransportError(f"phone {serial}: {error or 'the ADB server broke off'}", transient=True) from error

    def _ensure(self) -> None:
        """Start the server where none answers; the library would, but lets it write on our standard output."""
        with contextlib.suppress(OSError), socket.create_connection(self._place, timeout=_ANSWER_S):
            return
        try:
            command = (adb_path(), "-P", str(self._place[1]), "start-server")
            environment = {**os.environ, "ADB_MDNS": "0"}
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_START_S, env=environment, check=False
            )
        except AdbError as error:
            raise ToolMissing("adb is not installed", hint="apt-get install adb") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TransportError(f"the ADB server cannot be started: {error}", transient=True) from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise TransportError(f"the ADB server at port {self._place[1]} does not start: {said}", transient=True)


def _unusable(serial: str, state: str) -> TransportError:
    """The error of a phone that cannot be used, from the server's word for its state."""
    if "unauthorized" in state or "authorizing" in state:
        return PhoneUnauthorized(
            f"phone {serial} does not trust this computer",
            hint="unlock it and allow USB debugging in the question it asks; if it asks nothing, revoke USB debugging "
            "authorizations in its developer options and connect it again",
        )
    if "no permissions" in state:
        return TransportError(
            f"phone {serial}: {state}",
            hint="udev rules for Android are missing: apt-get install android-sdk-platform-tools-common",
        )
    if "not found" in state:
        return PhoneOffline(
            f"phone {serial} is not known to the ADB server",
            hint="is it plugged in, with USB debugging allowed in its developer options? `adb devices` lists phones",
            transient=True,
        )
    return PhoneOffline(
        f"phone {serial} is connected and does not answer: {state}",
        hint="wake it up, or plug it in again; `adb reconnect offline` helps at times",
        transient=True,
    )
