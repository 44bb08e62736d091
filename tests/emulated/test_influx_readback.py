"""The mirror read back by InfluxQL from Debian's real influxd: it holds what the store holds, whatever was killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from helpers.influx_gateway import DATABASE, Gateway, InfluxServer, influxd
from helpers.store_runs import START_NS, make_run, make_trace

from lab.cli import main
from lab.errors import ConfigError, StoreError
from measurements.frame import load
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.influx import InfluxConfig, flush
from measurements.store.remote import WINDOW_NS, missing, query, read

pytestmark = pytest.mark.skipif(influxd() is None, reason="influxd is not installed (Debian package influxdb)")

KILLS = int(os.environ.get("STORE_KILLS", "6"))  # more by hand: STORE_KILLS=50 STORE_SEED=$RANDOM
SEED = int(os.environ.get("STORE_SEED", "5"))
TOKEN = "user:s3cret-of-the-bench"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxServer]:
    with InfluxServer(tmp_path_factory.mktemp("influxd")) as running:
        yield running


@pytest.fixture
def gateway(server: InfluxServer) -> Iterator[Gateway]:
    server.query(f"DROP DATABASE {DATABASE}")
    server.query(f"CREATE DATABASE {DATABASE}")
    with Gateway(server) as running:
        yield running


def config(url: str, bucket: str = DATABASE) -> InfluxConfig:
    return InfluxConfig(url=url, bucket=bucket, token=TOKEN)


def mirrored(store: Store, gateway: Gateway) -> None:
    result = flush(store, config(gateway.url))
    assert (result.kept, result.set_aside, result.problem) == (0, 0, "")


def test_what_is_read_equals_what_is_loaded(gateway: Gateway, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number in range(20):
            store.save(make_run(number, device=f"mcu-{number % 3}", workload="kws, small"))
        mirrored(store, gateway)
    local = load(tmp_path, metric="latency").sort_values(["started", "run_id"]).reset_index(drop=True)
    remote = read(config(gateway.url), "latency", since="2023-11-14", until="2023-11-15")
    remote = remote.sort_values(["time", "run"]).reset_index(drop=True)
    assert remote["run"].tolist() == local["run_id"].tolist()
    assert remote["time"].tolist() == local["started"].tolist()
    for name in ("board", "device", "workload", "variant", "region", "source", "unit"):
        assert remote[name].tolist() == local[name].tolist()
    for name in ("n", "median", "ci_low", "ci_high", "p95", "p99", "first", "lost_fraction"):
        assert remote[name].astype(float).tolist() == local[name].astype(float).tolist()
    assert remote["commit"].tolist() == local["git_commit"].tolist()


def test_a_long_history_is_read_window_by_window_and_each_point_once(gateway: Gateway, tmp_path: Path) -> None:
    edge = START_NS // WINDOW_NS * WINDOW_NS
    starts = [edge - 1, edge, edge + WINDOW_NS - 1, edge + WINDOW_NS, edge + 9 * WINDOW_NS]
    with Store(tmp_path) as store:
        for number, start_ns in enumerate(starts):
            store.save(replace(make_run(number), started_ns=start_ns))
        mirrored(store, gateway)
        assert missing(store, config(gateway.url)) == []
    since, until = (pd.Timestamp(value, tz="UTC") for value in (edge - WINDOW_NS, edge + 10 * WINDOW_NS))
    remote = read(config(gateway.url), "cycles", since=since.to_pydatetime(), until=until.to_pydatetime())
    assert [stamp.value for stamp in remote["time"]] == starts
    nothing = read(config(gateway.url), "no such metric", since="2023-01-01", until="2023-01-09")
    assert len(nothing) == 0


def test_a_retention_policy_is_written_and_read(server: InfluxServer, gateway: Gateway, tmp_path: Path) -> None:
    server.query(f"CREATE RETENTION POLICY long ON {DATABASE} DURATION INF REPLICATION 1")
    with Store(tmp_path) as store:
        store.save(make_run(1))
        flush(store, config(gateway.url, f"{DATABASE}/long"))
    assert len(query(config(gateway.url, f"{DATABASE}/long"), "SELECT median FROM cycles")[0].columns["median"]) == 1
    assert query(config(gateway.url), "SELECT median FROM cycles") == []


def test_what_the_mirror_lost_is_named_and_sent_again(server: InfluxServer, gateway: Gateway, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number in range(6):
            store.save(make_run(number))
        mirrored(store, gateway)
        assert missing(store, config(gateway.url)) == []
        lost_ns = make_run(2).started_ns
        server.query(f"DELETE FROM latency WHERE time = {lost_ns}")
        server.query(f"DELETE FROM cycles WHERE time = {make_run(4).started_ns}")
        assert missing(store, config(gateway.url)) == ["run-mcu-0-0002", "run-mcu-0-0004"]
        store.resend(["run-mcu-0-0002"])
        assert missing(store, config(gateway.url)) == ["run-mcu-0-0004"], "what waits is not missing yet"
        store.resend(["run-mcu-0-0004"])
        mirrored(store, gateway)
        assert missing(store, config(gateway.url)) == []
    (series,) = query(config(gateway.url), "SELECT count(median) FROM latency")
    assert series.columns["count"] == [6]


def test_a_metric_whose_name_needs_quoting(gateway: Gateway, tmp_path: Path) -> None:
    odd = 'en"er\\gy, net of idle'
    with Store(tmp_path) as store:
        store.save(make_run(1, records=(make_record("inference", odd, "J", "modelled", [2.0]),)))
        mirrored(store, gateway)
        assert missing(store, config(gateway.url)) == []
    assert read(config(gateway.url), odd, since="2023-11-14", until="2023-11-15")["median"].tolist() == [2]


def test_by_hand(gateway: Gateway, server: InfluxServer, private_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("URL", gateway.url), ("BUCKET", DATABASE), ("TOKEN", TOKEN)):
        monkeypatch.setenv(f"LAB_INFLUX_{name}", value)

    def lab(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["store", *arguments])
        return result.exit_code, result.output

    with Store(private_lab / "store") as store:
        store.save(make_run(1), make_trace(1))
    assert lab("mirror") == (0, "1 blocks sent, 0 refused, 0 kept\n")
    assert lab("verify", "--mirror")[0] == 0
    server.query("DROP MEASUREMENT cycles")
    code, text = lab("verify", "--mirror", "--resend")
    assert (code, "PROBLEM  run run-mcu-0-0001: the mirror lacks figures of it" in text) == (1, True)
    assert "1 runs are in the outbox again" in text
    assert lab("mirror") == (0, "2 blocks sent, 0 refused, 0 kept\n"), "the figures, and the trace's buckets"
    assert lab("verify", "--mirror")[0] == 0
    monkeypatch.setenv("LAB_INFLUX_BUCKET", "nowhere")
    with Store(private_lab / "store") as store:
        store.save(make_run(2))
    code, text = lab("mirror")
    assert (code, "PROBLEM  " in text, "database not found" in text) == (1, True, True)
    assert TOKEN not in text


# Answers that are no answers


def test_a_query_that_the_server_refuses_is_named(gateway: Gateway) -> None:
    with pytest.raises(StoreError, match="error parsing query: found SELEC") as caught:
        query(config(gateway.url), "SELEC x")
    assert "the local store holds every figure" in caught.value.hint
    with pytest.raises(StoreError, match="database not found"):
        query(config(gateway.url, "nowhere"), "SELECT median FROM cycles")


def test_a_time_that_is_none_is_named_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match="is no time"):
        read(config("http://127.0.0.1:1"), "latency", since="last week", until="2023-01-01")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b'{"error":"authorization failed"}', "answered 401: .*authorization failed"),
        (403, b"no", "answered 403: no"),
        (500, b"", "answered 500"),
        (204, b"", "answered 204"),
        (200, b"<html>", "answered what is no InfluxQL result: <html>"),
        (200, b'{"results":[]}', "no InfluxQL result"),
        (200, b'{"results":[{"series":[{"name":"x"}]}]}', "no InfluxQL result"),
        (200, b'{"results":[{"error":"shard gone"}]}', "refused the query: shard gone"),
        (200, b'{"results":[{"series":[{"name":"x","columns":[],"values":[],"partial":true}]}]}', "cut its answer"),
        (400, TOKEN.encode(), r"answered 400: \*\*\*"),
    ],
)
def test_an_answer_that_is_none_is_named(status: int, body: bytes, words: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    stub = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=stub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        with pytest.raises(StoreError, match=words) as caught:
            query(config(f"http://127.0.0.1:{stub.server_address[1]}"), "SELECT n FROM latency")
    finally:
        stub.shutdown()
        thread.join()
        stub.server_close()
    assert caught.value.transient
    assert TOKEN not in str(caught.value)


def test_no_server_is_named() -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        query(config("http://127.0.0.1:1"), "SHOW DATABASES")


# Kills


def measure_and_mirror(folder: Path, url: str, generation: int, acknowledge: Connection) -> None:
    number = 1000 * generation
    with Store(folder) as store:
        while True:
            run = make_run(number)
            store.save(run)
            acknowledge.send(run.run_id)
            number += 1
            if number % 2 == 0:
                flush(store, config(url), timeout_s=5)


def test_produced_is_local_is_remote_whatever_was_killed(
    server: InfluxServer, gateway: Gateway, tmp_path: Path
) -> None:
    """As many kills of the controller as of the server, each at a random moment of saving and flushing."""
    rng = random.Random(SEED)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["measurements.store.influx", "influxdb_client.client.influxdb_client", "numpy", "pytest", "helpers.store_runs"]
    )
    acknowledged: list[str] = []
    for generation in range(KILLS):
        reader, writer = context.Pipe(duplex=False)
        controller = context.Process(target=measure_and_mirror, args=(tmp_path, gateway.url, generation, writer))
        controller.start()
        writer.close()
        acknowledged += [reader.recv() for _ in range(rng.randrange(1, 8))]
        gateway.drop_next_answer = rng.random() < 0.3
        time.sleep(rng.uniform(0.0, 0.02))  # not to wait for anything: the kills are to fall anywhere
        server.kill()
        time.sleep(rng.uniform(0.0, 0.02))
        controller.kill()
        try:
            while True:
                acknowledged.append(reader.recv())
        except (EOFError, OSError):
            pass
        controller.join()
        server.start()
    gateway.drop_next_answer = False
    with Store(tmp_path) as store:
        mirrored(store, gateway)
        local = store.run_ids()
        assert store.verify().problems == ()
        assert missing(store, config(gateway.url)) == []
        assert store.outbox_sizes() == (0, 0)
    remote = read(config(gateway.url), "cycles", since="2023-11-14", until="2023-11-20")
    assert set(acknowledged) <= set(local)
    assert remote["run"].tolist() == local, "each run once, in its order"
    assert remote["median"].astype(float).tolist() == load(tmp_path, metric="cycles")["median"].tolist()
