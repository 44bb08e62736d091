"""Power streams: PPK2 decode, 1 ms buckets, and 2 MS/s decoded, bucketed and written to a trace file, on one core.

Compared in turns of one run, on the same samples: decoding with ``ppk2-api`` (unmodified, fed in blocks as it reads
them from its port), bucketing with pandas (``resample``, and ``groupby`` of bucket numbers, which is its faster way).
Times are processor time of this process. There is no meter of 2 MS/s here: the chain is fed PPK2 words twenty times as
fast as a PPK2 sends them, which costs more per sample than the float32 blocks that a Joulescope's library delivers.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from common import Claim, spread, verdict
from ppk2_api.ppk2_api import PPK2_API

from lab.power.ppk2_stream import SAMPLE_RATE_HZ, Calibration, StreamDecoder
from measurements.buckets import Bucketer, joined
from measurements.store.traces import TraceWriter, read_trace

VOLTAGE_V = 3.3
TURNS = 5
FAST_HZ = 2_000_000
FAST_S = 4.0
BLOCK_S = 0.02
"""Of a stream, per block: what a driver that wakes 50 times a second finds."""
API_SAMPLES = 100_000

UInt32Array = npt.NDArray[np.uint32]


def words(count: int) -> UInt32Array:
    """PPK2 words of a load that sleeps and works: noise on ADC values, ranges that change every 5 ms, a marker."""
    rng = np.random.default_rng(86)
    index = np.arange(count, dtype=np.uint32)
    stretch = index // 500 % 4
    adc = rng.integers(2000, 12000, count, dtype=np.uint32)
    return np.asarray(adc | (stretch << 14) | (index % 64 << 18) | ((stretch > 1).astype(np.uint32) << 24), np.uint32)


def calibration() -> Calibration:
    """Nominal constants, which are those that ``ppk2-api`` starts with."""
    return Calibration.parse("Calibrated: 0\nEND\n", "benchmark")


def blocks(data: bytes, block: int) -> list[bytes]:
    return [data[begin : begin + block] for begin in range(0, len(data), block)]


def decode(data: Sequence[bytes]) -> int:
    """Ours; how many samples came out."""
    decoder = StreamDecoder(calibration().currents(VOLTAGE_V))
    return sum(decoder.feed(block).current_a.size for block in data) + decoder.finish().current_a.size


def decode_api(data: Sequence[bytes], client: PPK2_API) -> int:
    """``ppk2-api``'s."""
    return sum(len(client.get_samples(block)[0]) for block in data)


def bucket(current: npt.NDArray[np.float32]) -> int:
    """Ours; how many buckets."""
    bucketer = Bucketer(1.0 / FAST_HZ, VOLTAGE_V)
    step = round(FAST_HZ * BLOCK_S)
    parts = [bucketer.feed(current[begin : begin + step]) for begin in range(0, current.size, step)]
    found = joined([*parts, bucketer.finish()])
    return found.energy_j.size


def bucket_resample(current: npt.NDArray[np.float32]) -> int:
    index = pd.to_timedelta(np.arange(current.size) * (10**9 // FAST_HZ), unit="ns")
    grouped = pd.Series(current, index).resample("1ms").agg(["min", "max", "mean", "sum"])
    return (grouped["sum"] * (VOLTAGE_V / FAST_HZ)).size


def bucket_groupby(current: npt.NDArray[np.float32]) -> int:
    number = np.arange(current.size) // (FAST_HZ // 1000)
    grouped = pd.Series(current).groupby(number, sort=False).agg(["min", "max", "mean", "sum"])
    return (grouped["sum"] * (VOLTAGE_V / FAST_HZ)).size


def chain(data: Sequence[bytes], path: Path) -> int:
    """Decode, bucket, write; how many samples."""
    decoder = StreamDecoder(calibration().currents(VOLTAGE_V))
    bucketer = Bucketer(1.0 / FAST_HZ, VOLTAGE_V)
    parts = []
    with TraceWriter(path, t0_s=0.0, dt_s=1.0 / FAST_HZ, voltage_v=VOLTAGE_V) as writer:
        for piece in data:
            block = decoder.feed(piece)
            parts.append(bucketer.feed(block.current_a))
            writer.append(block.current_a, block.logic, lost=block.lost)
        last = decoder.finish()
        parts += [bucketer.feed(last.current_a), bucketer.finish()]
        writer.append(last.current_a, last.logic, lost=last.lost)
    return int(joined(parts).samples.sum())


def cost_s(work: Callable[[], int], expected: int) -> float:
    """Processor time of one turn, seconds; what it yields must be ``expected``."""
    begin = time.process_time()
    found = work()
    cost = time.process_time() - begin
    if found != expected:
        raise SystemExit(f"{work} yielded {found} instead of {expected}")
    return cost


def main() -> int:
    fast = words(round(FAST_HZ * FAST_S))
    fast_blocks = blocks(fast.astype("<u4").tobytes(), round(FAST_HZ * BLOCK_S) * 4)
    slow_block = round(SAMPLE_RATE_HZ * BLOCK_S) * 4
    slow_blocks = blocks(fast[: FAST_HZ // 2].astype("<u4").tobytes(), slow_block)
    api_blocks = blocks(fast[:API_SAMPLES].astype("<u4").tobytes(), slow_block)
    current = calibration().currents(VOLTAGE_V)[fast & 0x1FFFF]
    leader, follower = os.openpty()
    client = PPK2_API(os.ttyname(follower))
    client.current_vdd = round(VOLTAGE_V * 1000)
    buckets = round(FAST_S * 1000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fast.parquet"
        turns: dict[str, tuple[Callable[[], int], int]] = {
            "decode": (partial(decode, slow_blocks), FAST_HZ // 2),
            "api": (partial(decode_api, api_blocks, client), API_SAMPLES),
            "bucket": (partial(bucket, current), buckets),
            "resample": (partial(bucket_resample, current), buckets),
            "groupby": (partial(bucket_groupby, current), buckets),
            "chain": (partial(chain, fast_blocks, path), fast.size),
        }
        costs: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(TURNS):
            for name, (work, expected) in turns.items():
                costs[name].append(cost_s(work, expected))
        written = path.stat().st_size / fast.size
        if not np.array_equal(read_trace(path).current_a, current):
            raise SystemExit("the trace file does not hold what was fed")
    os.close(leader)
    os.close(follower)
    return verdict(claims(costs, written))


def claims(costs: dict[str, list[float]], bytes_per_sample: float) -> list[Claim]:
    """What has to hold."""
    middle = {name: statistics.median(values) for name, values in costs.items()}
    ours_s = middle["decode"] / (FAST_HZ // 2)
    api_s = middle["api"] / API_SAMPLES
    load = [value / FAST_S for value in costs["chain"]]
    return [
        Claim(
            "PPK2 decode, times real time",
            f"{spread([value / (FAST_HZ // 2) for value in costs['decode']], 'ns/sample', 1e9)}",
            1.0 / (ours_s * SAMPLE_RATE_HZ), 30.0, at_least=True,
        ),
        Claim(
            "PPK2 decode against ppk2-api",
            f"{ours_s * 1e9:.0f} ns to {api_s * 1e9:.0f} ns per sample",
            api_s / ours_s, 30.0, at_least=True,
        ),
        Claim(
            "1 ms buckets of 2 MS/s against pandas resample",
            f"{spread(costs['bucket'], 'ms', 1e3)} to {spread(costs['resample'], 'ms', 1e3)}",
            middle["resample"] / middle["bucket"], 3.0, at_least=True,
        ),
        Claim(
            "1 ms buckets of 2 MS/s against pandas groupby",
            f"{spread(costs['bucket'], 'ms', 1e3)} to {spread(costs['groupby'], 'ms', 1e3)}",
            middle["groupby"] / middle["bucket"], 3.0, at_least=True,
        ),
        Claim(
            "2 MS/s decoded, bucketed and written, of one core",
            f"{spread(load, 'cores')}, {bytes_per_sample:.2f} bytes per sample in the file",
            statistics.median(load), 1.0,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
