"""The mirror's client side against a stub server: what each answer does to the outbox."""

from __future__ import annotations

import builtins
import gzip
import math
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from lab.errors import ConfigError, ToolMissing
from measurements.record import Provenance, Run
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.influx import InfluxConfig, flush
from measurements.store.lines import run_lines

TOKEN = "very-s3cret-token"


class Stub(ThreadingHTTPServer):
    """Answers the first requests with ``answers`` and all others with 204; keeps what it was sent."""

    daemon_threads = True

    def __init__(self, answers: Sequence[tuple[int, bytes, Mapping[str, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), _StubHandler)
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _StubHandler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers))
        status, words, headers = self.server.answers.pop(0) if self.server.answers else (204, b"", {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(words)

    def do_GET(self) -> None:
        self.server.bodies.append(b"a redirect was followed")
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def stub(*answers: tuple[int, bytes], headers: Mapping[str, str] | None = None) -> Iterator[Stub]:
    server = Stub([(status, words, headers or {}) for status, words in answers])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    provenance = Provenance(
        device="mcu-0", board="host", clock="dwt", clock_hz=1e6, emulator="", meter="", meter_uncertainty=0,
        energy_model="", workload="kws", variant="", parameters={}, seed=0, dataset="", dataset_digest="",
        artifact_digest="", build_id="", toolchain="", flags="", git_commit="c", git_dirty=False, lab_version="0",
    )  # fmt: skip
    with Store(tmp_path) as opened:
        for number in range(3):
            records = (make_record("inference", "latency", "s", "hardware", [number + 0.5]),)
            opened.save(Run(f"run-{number}", "s", 1000 + number, "passed", provenance, records))
        yield opened


def config(url: str) -> InfluxConfig:
    return InfluxConfig(url=url, bucket="lab", token=TOKEN, org="bench")


def test_what_is_sent(store: Store) -> None:
    with stub() as server:
        assert flush(store, config(server.url)).sent == 3
    server.bodies.sort(key=gzip.decompress)
    assert server.paths == ["/api/v2/write?org=bench&bucket=lab&precision=ns"] * 3
    assert {headers["Authorization"] for headers in server.headers} == {f"Token {TOKEN}"}
    assert {headers["Content-Encoding"] for headers in server.headers} == {"gzip"}
    assert gzip.decompress(server.bodies[1]).decode() == (
        "latency,board=host,device=mcu-0,region=inference,source=hardware,variant=-,workload=kws n=1.0,median=1.5,"
        'ci_low=1.5,ci_high=1.5,p95=1.5,p99=1.5,first=1.5,lost_fraction=0.0,run="run-1",commit="c",unit="s" 1001'
    )


def test_numbers_that_are_not_finite_are_left_out(store: Store) -> None:
    (run,) = store.runs(limit=1)
    odd = replace(run.records[0], median=math.nan, p95=math.inf)
    (line,) = run_lines(replace(run, records=(odd,)))
    assert " n=1.0,ci_low=2.5,ci_high=2.5,p99=2.5,first=2.5,lost_fraction=0.0,run=" in line


def test_blocks_are_the_same_bytes_whenever_they_are_made(tmp_path: Path, store: Store) -> None:
    with Store(tmp_path / "copy") as other:
        for run in store.runs():
            other.save(run)
        assert [block.lines for block in other.pending()] == [block.lines for block in store.pending()]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_sets_aside_and_goes_on(store: Store, status: int) -> None:
    with stub((status, b'{"message":"cannot take this"}')) as server:
        result = flush(store, config(server.url))
    assert (result.sent, result.set_aside, result.kept, result.problem) == (2, 1, 0, "")
    (aside,) = store.set_aside()
    assert (aside.run_id, aside.answer) == ("run-0", f'{status}: {{"message":"cannot take this"}}')


@pytest.mark.parametrize("status", [200, 202, 301, 302, 307, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504])
def test_any_other_answer_keeps_everything_and_stops(store: Store, status: int) -> None:
    with stub((status, b"some words"), headers={"Location": "/elsewhere"}) as server:
        result = flush(store, config(server.url))
        assert (result.sent, result.set_aside, result.kept) == (0, 0, 3)
        assert f"answered {status}" in result.problem
        assert len(server.bodies) == 1, "it was tried again, or a redirect was followed"
        assert server.bodies[0] == store.pending()[0].lines
        assert flush(store, config(server.url)).sent == 3


def test_a_failure_in_the_middle_keeps_the_rest(store: Store) -> None:
    with stub((204, b""), (503, b"busy"), (503, b"busy")) as server:
        result = flush(store, config(server.url))
    assert (result.sent, result.kept) == (1, 2)
    assert [block.run_id for block in store.pending()] == ["run-1", "run-2"]


def test_an_answer_that_is_not_text_keeps_everything(store: Store) -> None:
    with stub((500, b"\xff\xfe\x00")) as server:
        result = flush(store, config(server.url))
    assert (result.sent, result.kept) == (0, 3)
    assert result.problem


def test_no_server_keeps_everything(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        result = flush(store, config(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert (result.sent, result.kept) == (0, 3)
    assert "cannot be reached" in result.problem


def test_a_server_that_never_answers_keeps_everything(store: Store) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        result = flush(store, config(f"http://127.0.0.1:{silent.getsockname()[1]}"), timeout_s=0.2)
    assert (result.sent, result.kept) == (0, 3)
    assert "cannot be reached" in result.problem


def test_an_answer_cut_short_keeps_everything(store: Store) -> None:
    with stub((400, b"only part"), headers={"Content-Length": "100000"}) as server:
        result = flush(store, config(server.url))
    assert (result.sent, result.set_aside, result.kept) == (0, 0, 3)


def test_a_token_that_the_server_echoes_is_hidden(store: Store) -> None:
    words = f"bad token {TOKEN}".encode()
    with stub((400, words), (401, words)) as server:
        result = flush(store, config(server.url))
    assert "***" in result.problem
    assert TOKEN not in result.problem
    assert store.set_aside()[0].answer == "400: bad token ***"
    assert TOKEN not in repr(config(server.url))


def test_the_missing_extra_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> ModuleType:
        if name.startswith("influxdb_client"):
            raise ModuleNotFoundError(name)
        return real_import(name, *rest, **more)  # type: ignore[arg-type]

    for name in [name for name in sys.modules if name.startswith("influxdb_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ToolMissing, match="influxdb-client") as caught:
        flush(store, config("http://127.0.0.1:1"))
    assert "hil-lab[influx]" in caught.value.hint


def test_the_environment_configures_the_mirror() -> None:
    environment = {"LAB_INFLUX_URL": "http://h:8086", "LAB_INFLUX_BUCKET": "lab/autogen", "LAB_INFLUX_TOKEN": TOKEN}
    assert InfluxConfig.from_env(environment) == InfluxConfig("http://h:8086", "lab/autogen", TOKEN, "-")
    assert InfluxConfig.from_env({**environment, "LAB_INFLUX_ORG": "o"}) == InfluxConfig(
        "http://h:8086", "lab/autogen", TOKEN, "o"
    )
    assert InfluxConfig.from_env({}) is None
    assert InfluxConfig.from_env({"LAB_INFLUX_TOKEN": TOKEN}) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"LAB_INFLUX_TOKEN": ""}, "LAB_INFLUX_TOKEN is not"),
        ({"LAB_INFLUX_TOKEN": "", "LAB_INFLUX_BUCKET": ""}, "LAB_INFLUX_BUCKET and LAB_INFLUX_TOKEN are not"),
        ({"LAB_INFLUX_URL": "host:8086"}, "must be like http"),
        ({"LAB_INFLUX_URL": f"http://user:{TOKEN}@h"}, "holds credentials"),
    ],
)
def test_a_broken_environment_is_named_without_its_secrets(change: dict[str, str], words: str) -> None:
    environment = {"LAB_INFLUX_URL": "http://h:8086", "LAB_INFLUX_BUCKET": "lab", "LAB_INFLUX_TOKEN": TOKEN}
    with pytest.raises(ConfigError, match=words) as caught:
        InfluxConfig.from_env(environment | change)
    assert TOKEN not in str(caught.value)
