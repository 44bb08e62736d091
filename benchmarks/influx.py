"""Throughput of the InfluxDB mirror against influxdb-client's default path, on one server in one run.

The outbox's blocks are sent by :func:`measurements.store.influx.flush`, the reference by ``write_api()`` with its
default batching and ``Point`` objects, both through the same gateway into the same ``influxd``, by turns. The server
and the gateway need both cores of the machine, so what counts is each path's best turn: other load only slows a turn.
Exit status 1 if a claim fails. The server is that of the tests: ``PYTHONPATH=tests python benchmarks/influx.py
[points]``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Claim, spread, verdict
from helpers.influx_gateway import DATABASE, Gateway, InfluxServer, influxd
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point

from measurements.record import Provenance, Run, Trace
from measurements.store import Store
from measurements.store.influx import InfluxConfig, flush

START_NS = 1_700_000_000_000_000_000
TOKEN = "user:password"
DEFAULT_POINTS = 500_000
REFERENCE_SHARE = 5  # the default path gets a fifth of the points: it is slow
TURNS = 4
LEAST_RATE = 250_000.0
LEAST_RATIO = 2.5
SAMPLES_PER_POINT = 4


def make_run() -> Run:
    provenance = Provenance(
        device="mcu-0", board="mps2-an386", clock="virtual", clock_hz=25e6, emulator="qemu", meter="",
        meter_uncertainty=0, energy_model="", workload="kws", variant="int8", parameters={}, seed=0, dataset="",
        dataset_digest="", artifact_digest="", build_id="", toolchain="", flags="", git_commit="c0ffee",
        git_dirty=False, lab_version="0",
    )  # fmt: skip
    return Run("run-0", "s", START_NS, "passed", provenance, ())


def make_trace(points: int) -> Trace:
    samples = points * SAMPLES_PER_POINT
    current = np.random.default_rng(0).lognormal(-5, 1, samples).astype(np.float32)
    return Trace(0.0, 1e-3 / SAMPLES_PER_POINT, 3.3, current, np.zeros(samples, np.uint8))


def rate(server: InfluxServer, points: int, send: Callable[[], None]) -> float:
    """Points per second of ``send``, which must leave exactly ``points`` points on the empty server."""
    server.query(f"DROP DATABASE {DATABASE}")
    server.query(f"CREATE DATABASE {DATABASE}")
    begin = time.perf_counter()
    send()
    elapsed_s = time.perf_counter() - begin
    (table,) = server.query("SELECT count(mean) FROM current")
    if table["count"] != [points]:
        raise SystemExit(f"sent {points} points, the server has {table['count']}")
    return points / elapsed_s


def send_points(gateway: Gateway, points: int) -> None:
    """What influxdb-client's documentation shows first."""
    with (
        InfluxDBClient(url=gateway.url, token=TOKEN, org="-") as client,
        client.write_api() as write_api,
    ):
        for k in range(points):
            point = Point("current").tag("board", "mps2-an386").tag("device", "mcu-0")  # type: ignore[no-untyped-call]
            point.field("min", 1e-3).field("max", 2e-2).field("mean", 5e-3 + k).field("energy", 1.5e-5)
            point.time(START_NS + k * 1_000_000)
            write_api.write(bucket=DATABASE, record=point)


def main() -> int:
    points = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_POINTS
    if influxd() is None:
        raise SystemExit("influxd is not installed (Debian package influxdb)")
    with (
        tempfile.TemporaryDirectory() as folder,
        InfluxServer(Path(folder) / "influxd") as server,
        Gateway(server) as gateway,
        Store(Path(folder) / "store", mirror_traces=True) as store,
    ):
        config = InfluxConfig(gateway.url, DATABASE, TOKEN)
        begin = time.perf_counter()
        store.save(make_run(), make_trace(points))
        print(f"saving a run with {points} mirrored points: {time.perf_counter() - begin:.2f} s")
        ours, default = [], []
        few = points // REFERENCE_SHARE
        for turn in range(TURNS):
            if turn:
                store.resend(["run-0"])
            ours.append(rate(server, points, lambda: print(flush(store, config, timeout_s=60))))
            default.append(rate(server, few, lambda: send_points(gateway, few)))
    seen = f"blocks {spread(ours, 'k points/s', 1e-3)}, default path {spread(default, 'k points/s', 1e-3)}"
    claims = [
        Claim("mirror with blocks, points/s", seen, max(ours), LEAST_RATE, at_least=True),
        Claim("mirror with blocks over the default path", seen, max(ours) / max(default), LEAST_RATIO, at_least=True),
    ]
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
