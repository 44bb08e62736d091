"""Stands in for Renode: replays a recorded dialogue, strictly, over XML-RPC, and echoes on the UART's port.

Run as the program that ``RENODE`` names; the dialogue and how to misbehave come from ``peer.json`` beside that program:

* ``dialogue``: file of pairs. Any other command than the next one is refused and noted in ``peer.wrong``.
* ``silent``: never opens its server. ``dies_at``: ends with status 3 when this many commands were answered.
* ``deaf``: does not open the UART's port.

``peer.done`` holds how many commands were answered.
"""

from __future__ import annotations

import json
import os
import re
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any
from xmlrpc.server import SimpleXMLRPCServer


class Peer:
    """Answers what comes next in the dialogue."""

    def __init__(self, folder: Path, settings: dict[str, Any], dialogue: dict[str, Any]) -> None:
        self._folder = folder
        self._settings = settings
        self._pairs = dialogue["pairs"]
        self._values: dict[str, str] = {}
        self._done = 0
        self._asked_for_names = 0

    def get_keyword_names(self) -> list[str]:
        # As Renode, which loads its keywords one group after the other while it already serves.
        self._asked_for_names += 1
        return ["StopRemoteServer"] if self._asked_for_names == 1 else ["ExecuteCommand", "StopRemoteServer"]

    def run_keyword(self, keyword: str, arguments: list[str]) -> dict[str, Any]:
        if self._done == self._settings.get("dies_at"):
            print("Fatal error: the peer was told to die here", flush=True)
            os._exit(3)
        (command,) = arguments
        wanted = self._pairs[self._done]["command"] if self._done < len(self._pairs) else "nothing more"
        if keyword != "ExecuteCommand" or not self._fits(wanted, command):
            (self._folder / "peer.wrong").write_text(f"came: {command}\nthe dialogue has: {wanted}\n")
            return {"status": "FAIL", "error": f"not in the dialogue: {command!r}; it has {wanted!r}", "traceback": ""}
        answer: dict[str, Any] = self._pairs[self._done]["answer"]
        self._done += 1
        (self._folder / "peer.done").write_text(str(self._done))
        if command.startswith("emulation CreateServerSocketTerminal") and not self._settings.get("deaf"):
            _serve_uart(int(self._values["serial_port"]))
        return answer

    def _fits(self, wanted: str, command: str) -> bool:
        """Whether a command is the one wanted; what differs in each run is the same throughout this one."""
        parts = re.split(r"(\{\w+\})", wanted)
        anything = r"(?:\\ |[^ ])+?"
        pattern = "".join(f"(?P<{part[1:-1]}>{anything})" if part[:1] == "{" else re.escape(part) for part in parts)
        found = re.fullmatch(pattern, command)
        if found is None:
            return False
        return all(self._values.setdefault(name, value) == value for name, value in found.groupdict().items())


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(data)


def _serve_uart(port: int) -> None:
    server = socketserver.ThreadingTCPServer(("0.0.0.0", port), _Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    settings = json.loads((folder / "peer.json").read_text())
    dialogue = json.loads(Path(settings["dialogue"]).read_text())
    if arguments == ["--version"]:
        print(f"{dialogue['version']}\n  build: none (a replayed dialogue)")
        return
    port = int(arguments[arguments.index("--robot-server-port") + 1])
    (folder / "peer.started").write_text(json.dumps({"arguments": arguments, "environment": dict(os.environ)}))
    print("the peer runs", flush=True)
    if settings.get("silent"):
        socket.create_server(("0.0.0.0", port))
        time.sleep(3600)
    peer = Peer(folder, settings, dialogue)
    server = SimpleXMLRPCServer(("0.0.0.0", port), logRequests=False, allow_none=True)
    server.register_function(peer.get_keyword_names, "get_keyword_names")
    server.register_function(peer.run_keyword, "run_keyword")
    server.serve_forever()


if __name__ == "__main__":
    main()
