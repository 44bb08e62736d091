"""The mirror against Debian's real influxd behind the v2 gateway: everything arrives, once, whatever is killed."""

from __future__ import annotations

import gzip
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.influx_gateway import DATABASE, Gateway, InfluxServer, influxd

from measurements.record import Provenance, Run, Trace
from measurements.statistics import make_record
from measurements.store import Store
from measurements.store.influx import InfluxConfig, flush

pytestmark = pytest.mark.skipif(influxd() is None, reason="influxd is not installed (Debian package influxdb)")

START_NS = 1_700_000_000_000_000_000
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


def config(gateway: Gateway, bucket: str = DATABASE) -> InfluxConfig:
    return InfluxConfig(url=gateway.url, bucket=bucket, token=TOKEN)


def make_run(number: int, *, device: str = "mcu-0") -> Run:
    provenance = Provenance(
        device=device, board="mps2-an386", clock="virtual", clock_hz=25e6, emulator="qemu", meter="",
        meter_uncertainty=0, energy_model="", workload="kws, small", variant="int8=ptq", parameters={}, seed=0,
        dataset="", dataset_digest="", artifact_digest="", build_id="", toolchain="", flags="", git_commit="c0ffee",
        git_dirty=False, lab_version="0",
    )  # fmt: skip
    return Run(
        run_id=f"run-{number:04}",
        session_id="s",
        started_ns=START_NS + number * 1_000_000,
        status="passed",
        provenance=provenance,
        records=(
            make_record("inference", "latency", "s", "emulated", [0.01 * number + 0.001, 0.02]),
            make_record("layer/00 conv 1", "latency", "s", "emulated", [float(number)]),
            make_record("inference", "cycles", "cycles", "emulated", [1000.0 + number]),
        ),
    )


def column(server: InfluxServer, query: str, name: str) -> list[object]:
    tables = server.query(query)
    return tables[0][name] if tables else []


def test_every_record_arrives_with_its_tags_and_fields(server: InfluxServer, gateway: Gateway, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run(3))
        result = flush(store, config(gateway))
        assert (result.sent, result.set_aside, result.kept, result.problem) == (1, 0, 0, "")
        assert store.outbox_sizes() == (0, 0)
    (latency,) = server.query("SELECT * FROM latency WHERE region = 'inference'")
    assert {name: values[0] for name, values in latency.items()} == {
        "time": START_NS + 3_000_000, "board": "mps2-an386", "device": "mcu-0", "region": "inference",
        "source": "emulated", "variant": "int8=ptq", "workload": "kws, small", "run": "run-0003", "commit": "c0ffee",
        "unit": "s", "n": 2, "median": pytest.approx(0.0255), "ci_low": 0.02, "ci_high": 0.031, "first": 0.031,
        "p95": pytest.approx(0.03045), "p99": pytest.approx(0.03089), "lost_fraction": 0,
    }  # fmt: skip
    assert column(server, "SELECT median FROM latency WHERE region = 'layer/00 conv 1'", "median") == [3]
    tags = {values for table in server.query("SHOW TAG KEYS FROM latency") for values in table["tagKey"]}
    assert tags == {"board", "device", "region", "source", "variant", "workload"}
    kinds = {kind for table in server.query("SHOW FIELD KEYS") for kind in table["fieldType"]}
    assert kinds == {"float", "string"}


def test_a_replay_changes_nothing(server: InfluxServer, gateway: Gateway, tmp_path: Path) -> None:
    with Store(tmp_path / "one") as store, Store(tmp_path / "other") as other:
        for number in range(20):
            store.save(make_run(number))
            other.save(make_run(number))
        assert flush(store, config(gateway)).sent == 20
        before = server.query("SELECT * FROM latency, cycles")
        assert flush(other, config(gateway)).sent == 20
    assert server.query("SELECT * FROM latency, cycles") == before
    assert column(server, "SELECT count(median) FROM latency", "count") == [40]


def test_an_answer_that_is_lost_costs_nothing(server: InfluxServer, gateway: Gateway, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run(1))
        store.save(make_run(2))
        gateway.drop_next_answer = True
        first = flush(store, config(gateway))
        assert (first.sent, first.kept) == (0, 2)
        assert "cannot be reached" in first.problem
        assert flush(store, config(gateway)).sent == 2
    assert column(server, "SELECT count(median) FROM cycles", "count") == [2]


def test_nothing_is_lost_when_the_server_is_killed_in_between(
    server: InfluxServer, gateway: Gateway, tmp_path: Path
) -> None:
    rng = random.Random(7)
    saved = 0
    with Store(tmp_path) as store:
        for _ in range(4):
            for _ in range(rng.randrange(3, 9)):
                store.save(make_run(saved))
                saved += 1
            flush(store, config(gateway))
            server.kill()
            store.save(make_run(saved))
            saved += 1
            down = flush(store, config(gateway))
            assert (down.sent, down.set_aside, down.kept) == (0, 0, 1)
            assert "answered 503" in down.problem
            server.start()
        assert flush(store, config(gateway)).problem == ""
        assert len(store.runs()) == saved
        assert store.outbox_sizes() == (0, 0)
    runs = column(server, "SELECT run, median FROM cycles", "run")
    assert runs == [f"run-{number:04}" for number in range(saved)]


def test_two_flushers_at_once_send_everything_once(server: InfluxServer, gateway: Gateway, tmp_path: Path) -> None:
    with Store(tmp_path) as store, Store(tmp_path) as other:
        for number in range(10):
            store.save(make_run(number))
        page = other.pending()
        assert flush(store, config(gateway)).sent == 10
        other.confirm([block.block for block in page])
        assert flush(other, config(gateway)).sent == 0
    assert column(server, "SELECT count(median) FROM cycles", "count") == [10]


def test_a_refused_block_is_set_aside_with_the_servers_words(
    server: InfluxServer, gateway: Gateway, tmp_path: Path
) -> None:
    spoiler = b"latency,board=mps2-an386 median=\"text\" 1700000000000000001"
    with Store(tmp_path) as store:
        store.save(make_run(1))
        assert flush(store, config(gateway)).sent == 1
        store.save(make_run(2))
        store.save(make_run(3))
        _spoil(tmp_path, "run-0002", spoiler)
        result = flush(store, config(gateway))
        assert (result.sent, result.set_aside, result.kept, result.problem) == (1, 1, 0, "")
        (aside,) = store.set_aside()
        assert aside.run_id == "run-0002"
        assert aside.answer.startswith("400: ")
        assert "field type conflict" in aside.answer
        assert flush(store, config(gateway)).set_aside == 0, "it was sent again"
        assert [run.run_id for run in store.runs()] == ["run-0001", "run-0002", "run-0003"]
    assert column(server, "SELECT run, median FROM cycles", "run") == ["run-0001", "run-0003"]


def _spoil(folder: Path, run_id: str, lines: bytes) -> None:
    with sqlite3.connect(folder / "lab.sqlite") as db:
        db.execute("UPDATE outbox SET lines = ? WHERE run_id = ?", (gzip.compress(lines), run_id))


def test_an_unknown_database_keeps_everything(gateway: Gateway, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run(1))
        result = flush(store, config(gateway, "nowhere"))
        assert (result.sent, result.set_aside, result.kept) == (0, 0, 1)
        assert "answered 404" in result.problem
        assert "database not found" in result.problem


def test_text_that_line_protocol_must_escape_arrives(server: InfluxServer, gateway: Gateway, tmp_path: Path) -> None:
    run = make_run(1, device="a=b, c\nd \\")
    run = replace(run, provenance=replace(run.provenance, git_commit='say "hi" \\ there', variant=" "))
    with Store(tmp_path) as store:
        store.save(run)
        assert flush(store, config(gateway)).set_aside == 0
    (table,) = server.query("SELECT * FROM cycles")
    assert table["device"] == ["a=b, c d /"]
    assert table["commit"] == ['say "hi" \\ there']
    assert table["variant"] == ["-"]


def test_the_buckets_of_a_trace_add_up_to_its_energy(server: InfluxServer, gateway: Gateway, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    current = rng.lognormal(-5, 1, 25_037).astype(np.float32)
    current[5_000:5_100] = np.nan
    current[7] = np.nan
    trace = Trace(0.0, 1e-5, 3.3, current, np.zeros(current.size, np.uint8), lost=101)
    with Store(tmp_path, mirror_traces=True) as store:
        store.save(make_run(1), trace)
        assert flush(store, config(gateway)).sent == 2
    (table,) = server.query("SELECT count(mean), sum(energy), max(max), min(min) FROM current WHERE run = 'run-0001'")
    assert table["count"] == [250]
    assert table["sum"] == [pytest.approx(float(np.nansum(current.astype(np.float64))) * 3.3e-5, rel=1e-11)]
    assert np.array(table["max"], np.float32) == np.nanmax(current)
    assert np.array(table["min"], np.float32) == np.nanmin(current)


def test_the_secret_is_in_no_text(gateway: Gateway, tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run(1))
        result = flush(store, config(gateway, "nowhere"))
    assert TOKEN not in f"{result} {config(gateway)}"
    assert b"s3cret" not in b"".join(path.read_bytes() for path in tmp_path.glob("lab.sqlite*"))
