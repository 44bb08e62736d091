"""A webhook and a mail server that write down what they are told, on ports from the kernel."""

from __future__ import annotations

import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class _Served:
    """Serves in a thread while the context lasts."""

    def __init__(self, server: socketserver.TCPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *ending: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Webhook(_Served):
    """Answers every POST with ``status``.

    Attributes:
        bodies: what was posted.
    """

    def __init__(self, status: int = 200) -> None:
        bodies: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.bodies = bodies
        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))


class MailServer(_Served):
    """As much of SMTP (RFC 5321) as a client needs to hand over a letter.

    Attributes:
        letters: header and body of each, as text.
    """

    def __init__(self) -> None:
        letters: list[str] = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 ready")
                while line := self.rfile.readline():
                    word = line.split()[0].upper() if line.split() else b""
                    if word == b"DATA":
                        self._say("354 go on")
                        letters.append(self._letter())
                    self._say({b"QUIT": "221 bye"}.get(word, "250 ok"))
                    if word == b"QUIT":
                        return

            def _letter(self) -> str:
                lines = []
                while (line := self.rfile.readline().rstrip(b"\r\n")) != b".":
                    lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
                return b"\n".join(lines).decode()

            def _say(self, text: str) -> None:
                self.wfile.write(text.encode() + b"\r\n")

        self.letters = letters
        super().__init__(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))
