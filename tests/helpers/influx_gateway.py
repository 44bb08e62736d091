"""TEST HELPER, no part of the product: Debian's InfluxDB 1.6 dressed up as a server with the v2 write interface.

influxdb-client writes to ``/api/v2/write``, which InfluxDB has from 1.8 on; Debian ships 1.6.7, which has only
``/write``. :class:`Gateway` maps the one to the other (bucket to database and retention policy, ``Token user:password``
to basic authentication), passes InfluxQL queries on, and passes the server's answer through, status and words.
:class:`InfluxServer` runs the real ``influxd`` on ports from the kernel in a folder of its own; it dies with the
process that started it, however that ends.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

DATABASE = "lab"
START_TIMEOUT_S = 60.0
_LISTENING = re.compile(r"Listening on HTTP.*addr=\S*?:(\d+)")
_PRECISION = {"ns": "n", "us": "u", "ms": "ms", "s": "s"}

_CONFIG = """\
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:0"
  log-enabled = false
[[udp]]
  enabled = false
"""


def influxd() -> str | None:
    """Path of Debian's server, None where it is not installed."""
    return shutil.which("influxd")


class InfluxServer:
    """A private ``influxd``. Kill and start it as often as needed; its data stays in ``folder``.

    Raises:
        RuntimeError: it did not start; the text holds the end of its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "influxdb.conf").write_text(_CONFIG.format(folder=folder))

    def __enter__(self) -> Self:
        self.start()
        self.query(f"CREATE DATABASE {DATABASE}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server and wait until it listens."""
        self._starts += 1
        log = self.folder / f"log-{self._starts}"
        # setpriv makes the kernel kill the server when this process dies, even by kill -9.
        command = ["setpriv", "--pdeathsig", "KILL", "influxd", "-config", str(self.folder / "influxdb.conf")]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while (found := _LISTENING.search(log.read_text(errors="replace"))) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"influxd did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)
        self.port = int(found.group(1))

    def kill(self) -> None:
        """kill -9; safe to call twice."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def query(self, text: str) -> list[dict[str, list[object]]]:
        """Answer of an InfluxQL query: one column-wise table per series, tag values and times (ns) included."""
        body = urllib.parse.urlencode({"db": DATABASE, "q": text, "epoch": "ns"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/query", body, timeout=30) as response:
            answer = json.load(response)["results"][0]
        if "error" in answer:
            raise RuntimeError(answer["error"])
        tables = []
        for series in answer.get("series", ()):
            columns: dict[str, list[object]] = {name: [] for name in series["columns"]}
            for row in series["values"]:
                for name, value in zip(series["columns"], row, strict=True):
                    columns[name].append(value)
            tables.append(columns)
        return tables


class _Handler(BaseHTTPRequestHandler):
    server: Gateway
    protocol_version = "HTTP/1.1"
    _upstream: http.client.HTTPConnection | None = None

    def do_GET(self) -> None:
        """A query, with the token as the basic authentication that 1.6 knows; from 1.8 on it takes the token itself."""
        token = self.headers.get("Authorization", "").removeprefix("Token ")
        headers = {"Authorization": f"Basic {base64.b64encode(token.encode()).decode()}"}
        try:
            status, words = self._ask("GET", self.path, b"", headers)
        except (OSError, http.client.HTTPException) as error:
            status, words = 503, json.dumps({"error": str(error)}).encode()
        self._answer(status, words)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        target = urllib.parse.urlsplit(self.path)
        if target.path != "/api/v2/write":
            self._answer(404, b'{"code":"not found"}')
            return
        self.server.requests += 1
        status, words = self._forward(urllib.parse.parse_qs(target.query), body)
        if self.server.drop_next_answer:
            self.server.drop_next_answer = False
            self.close_connection = True
            return
        self._answer(status, words)

    def _forward(self, asked: dict[str, list[str]], body: bytes) -> tuple[int, bytes]:
        database, _, policy = asked["bucket"][0].partition("/")
        query = {"db": database, "precision": _PRECISION[asked.get("precision", ["ns"])[0]]}
        if policy:
            query["rp"] = policy
        token = self.headers.get("Authorization", "").removeprefix("Token ")
        headers = {"Authorization": f"Basic {base64.b64encode(token.encode()).decode()}"}
        if encoding := self.headers.get("Content-Encoding"):
            headers["Content-Encoding"] = encoding
        try:
            return self._ask("POST", f"/write?{urllib.parse.urlencode(query)}", body, headers)
        except (OSError, http.client.HTTPException) as error:
            return 503, json.dumps({"code": "unavailable", "message": str(error)}).encode()

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Ask influxd over a connection that lasts as long as the client's, and as this start of the server."""
        if self._upstream is None or self._upstream.port != self.server.influx.port:
            self._upstream = http.client.HTTPConnection("127.0.0.1", self.server.influx.port, timeout=30)
        try:
            self._upstream.request(method, path, body, headers)
            with self._upstream.getresponse() as response:
                return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._upstream = None
            raise

    def _answer(self, status: int, words: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(words)))
        self.end_headers()
        if status != 204:
            self.wfile.write(words)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Gateway(ThreadingHTTPServer):
    """The v2 write interface in front of an :class:`InfluxServer`, on a port from the kernel.

    Attributes:
        requests: writes seen.
        drop_next_answer: forward the next write, then hang up without an answer.
    """

    daemon_threads = True

    def __init__(self, influx: InfluxServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.influx = influx
        self.requests = 0
        self.drop_next_answer = False
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *ending: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


