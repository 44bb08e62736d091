"""The mirror's client side against a stub server: what each answer does to the outbox."""

from __future__ import annotations

import builtins
import gzip
import math
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from lab.errors import ConfigError, ToolMissing
from measurements.record import Provenance, Run
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.influx import InfluxConfig, flush, retry_after_s
from measurements.store.lines import run_lines

TOKEN = "very-s3cret-token"


class Stub(ThreadingHTTPServer):
    """Answers the first requests with ``answers`` and all others with 204; keeps what it was sent."""

    daemon_threads = True

    def __init__(self, answers: Sequence[tuple[int, bytes, Mapping[str, str]]], delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _StubHandler)
        self.answers = list(answers)
        self.delay_s = delay_s
        self.turn = threading.Lock()
        self.clients: set[object] = set()
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _StubHandler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        # Several connections are served at once: each answer belongs to the block that came in its turn.
        with self.server.turn:
            self.server.bodies.append(body)
            self.server.paths.append(self.path)
            self.server.headers.append(dict(self.headers))
            self.server.clients.add(self.client_address)
            status, words, headers = self.server.answers.pop(0) if self.server.answers else (204, b"", {})
        time.sleep(self.server.delay_s)
        self.send_response(status)
        if status != 204:
            headers = {"Content-Length": str(len(words)), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(words)
        # An answer that was cut short must end.
        self.close_connection = headers.get("Content-Length") == "100000"

    def do_GET(self) -> None:
        self.server.bodies.append(b"a redirect was followed")
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def stub(
    *answers: tuple[int, bytes], headers: Mapping[str, str] | None = None, delay_s: float = 0.0
) -> Iterator[Stub]:
    server = Stub([(status, words, headers or {}) for status, words in answers], delay_s)
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


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_to_come_back_is_waited_for(store: Store, status: int) -> None:
    waits: list[float] = []
    with stub((status, b"busy"), (status, b"busy"), headers={"Retry-After": "7"}) as server:
        result = flush(store, config(server.url), patience_s=20, wait=waits.append)
    assert (result.sent, result.set_aside, result.kept, result.problem) == (3, 0, 0, "")
    assert waits == [7.0, 7.0]
    assert len(server.bodies) == 5
    assert len(set(server.bodies)) == 3, "each block arrives as it was, and no other does"


@pytest.mark.parametrize(("patience_s", "waited"), [(20.0, [7.0, 7.0]), (6.0, []), (0.0, [])])
def test_a_server_that_asks_for_more_than_our_patience_keeps_everything(
    store: Store, patience_s: float, waited: list[float]
) -> None:
    waits: list[float] = []
    with stub(*[(429, b"slow down")] * 9, headers={"Retry-After": "7"}) as server:
        result = flush(store, config(server.url), patience_s=patience_s, wait=waits.append)
    assert (result.sent, result.kept, waits) == (0, 3, waited)
    assert "answered 429 (asks to come back in 7 s): slow down" in result.problem


def test_a_server_that_says_now_for_ever_is_left_at_last(store: Store) -> None:
    waits: list[float] = []
    with stub(*[(503, b"")] * 99, headers={"Retry-After": "0"}) as server:
        result = flush(store, config(server.url), patience_s=5, wait=waits.append)
    assert (result.kept, waits) == (3, [1.0] * 5)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_retry_after_means_nothing_on_other_answers(store: Store, status: int) -> None:
    with stub((status, b"no"), headers={"Retry-After": "1"}) as server:
        result = flush(store, config(server.url), wait=lambda _: pytest.fail("it waited"))
    assert (result.kept, len(server.bodies)) == (3, 1)


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        ("120", 120.0), ("0", 1.0), ("", None), ("soon", None), ("-5", None), ("1.5", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0),
    ],
)  # fmt: skip
def test_when_to_come_back(value: str, expected_s: float | None) -> None:
    assert retry_after_s({"Retry-After": value}) == expected_s
    assert retry_after_s({}) is None


def test_when_to_come_back_as_a_date() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert retry_after_s({"Retry-After": moment}) == pytest.approx(90, abs=5)


def test_a_server_that_answers_drop_by_drop_does_not_hold_the_flush(store: Store) -> None:
    """Each drop comes in time, so that no time-out of a socket ends it."""
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 204 No Content\r\n")
            while not ended.wait(0.02):
                try:
                    connection.sendall(b"X-Drop: 1\r\n")
                except OSError:
                    return

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        result = flush(store, config(f"http://127.0.0.1:{server.getsockname()[1]}"), timeout_s=0.2)
        ended.set()
        thread.join()
    assert (result.sent, result.kept) == (0, 3)
    assert "no whole answer came in time" in result.problem


def test_a_slow_server_gets_everything(store: Store) -> None:
    with stub(delay_s=0.05) as server:
        result = flush(store, config(server.url), timeout_s=5)
    assert (result.sent, result.kept, result.problem) == (3, 0, "")


def test_many_blocks_go_over_two_connections_and_arrive_once(tmp_path: Path, store: Store) -> None:
    (run,) = store.runs(limit=1)
    for number in range(100):
        store.save(replace(run, run_id=f"more-{number}", started_ns=2000 + number))
    sent = {block.lines for block in store.pending(limit=1000)}
    with stub(delay_s=0.001) as server:
        assert flush(store, config(server.url)).sent == 103
    assert len(server.bodies) == 103
    assert set(server.bodies) == sent
    assert 1 < len(server.clients) <= 2


def test_a_failure_among_many_keeps_exactly_what_was_not_confirmed(store: Store) -> None:
    (run,) = store.runs(limit=1)
    for number in range(60):
        store.save(replace(run, run_id=f"more-{number}", started_ns=2000 + number))
    with stub(*[(204, b"")] * 40, *[(500, b"broken")] * 5) as server:
        result = flush(store, config(server.url))
    assert (result.sent, result.kept) == (40, 23)
    assert "answered 500: broken" in result.problem
    assert not {block.lines for block in store.pending()} & set(server.bodies[:40])
    with stub() as server:
        assert flush(store, config(server.url)).sent == 23


def test_refused_blocks_can_be_sent_again(store: Store) -> None:
    with stub((422, b"out of retention")) as server:
        flush(store, config(server.url))
        assert store.outbox_sizes() == (0, 1)
        assert store.retry_refused() == 1
        assert store.outbox_sizes() == (1, 0)
        assert flush(store, config(server.url)).sent == 1
    assert server.bodies[0] == server.bodies[-1]


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
