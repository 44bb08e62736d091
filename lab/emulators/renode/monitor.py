"""Renode's monitor over XML-RPC: its server for Robot Framework runs monitor commands and says what they print."""

from __future__ import annotations

import http.client
import re
import xmlrpc.client
from collections.abc import Callable
from xml.parsers.expat import ExpatError

from lab.errors import EmulatorError

_KEYWORD = "ExecuteCommand"
_HEX = re.compile(r"0x([0-9A-Fa-f]+)")
_BROKEN = (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError, xmlrpc.client.ResponseError, ExpatError)


class _Transport(xmlrpc.client.Transport):
    """HTTP with a time-out; the standard library's has none."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        connection = super().make_connection(host)  # type: ignore[arg-type]
        connection.timeout = self._timeout_s
        return connection


class Monitor:
    """Runs monitor commands in a Renode.

    Args:
        port: of its server, on this computer.
        timeout_s: longest time a command may take.

    Attributes:
        explain: called where the server broke; raises what is known of why.
    """

    def __init__(self, port: int, timeout_s: float) -> None:
        self._port = port
        self.explain: Callable[[], None] = lambda: None
        self._server = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/", transport=_Transport(timeout_s))

    def is_ready(self) -> bool:
        """Whether the server answers and has loaded what runs commands."""
        try:
            names = self._server.get_keyword_names()
        except (*_BROKEN, xmlrpc.client.Fault):
            return False
        return isinstance(names, list) and _KEYWORD in names

    def execute(self, command: str) -> str:
        """Run a command; what it printed.

        Raises:
            EmulatorError: Renode refused it, with Renode's own words, or did not answer.
        """
        try:
            answer = self._ask(command)
        except xmlrpc.client.Fault as error:
            raise EmulatorError(f"Renode cannot run {command!r}: {error.faultString}") from error
        except _BROKEN as error:
            self.explain()
            raise EmulatorError(
                f"Renode's server at port {self._port} broke at {command!r}: {error}", transient=True
            ) from error
        if not isinstance(answer, dict) or answer.get("status") != "PASS":
            said = str(answer.get("error", answer)) if isinstance(answer, dict) else repr(answer)
            raise EmulatorError(f"Renode refused {command!r}: {said.strip()}")
        return str(answer.get("return", "")).strip()

    def _ask(self, command: str) -> object:
        """The server's own answer."""
        return self._server.run_keyword(_KEYWORD, [command])

    def number(self, command: str) -> int:
        """Run a command that prints one number.

        Raises:
            EmulatorError: as :meth:`execute`, or it printed something else.
        """
        said = self.execute(command)
        found = _HEX.fullmatch(said)
        if found is None and not said.isdecimal():
            raise EmulatorError(f"Renode answered {command!r} with {said!r}; a number was expected")
        return int(found[1], 16) if found else int(said)

    def numbers(self, command: str) -> list[int]:
        """Run a command that prints a list of numbers."""
        return [int(digits, 16) for digits in _HEX.findall(self.execute(command))]

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._server("close")()
