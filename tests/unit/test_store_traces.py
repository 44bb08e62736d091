"""Trace files: bit-exact, compact, and whole or not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import StoreError
from measurements.record import Trace
from measurements.store.traces import TraceWriter, read_trace, trace_digest, write_trace

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.integers(0, 2**32 - 1), max_size=200),
    levels=st.lists(st.integers(0, 255), min_size=200, max_size=200),
    times=st.tuples(FINITE, FINITE, FINITE),
    lost=st.integers(0, 2**40),
)
def test_any_bits_round_trip(
    tmp_path: Path, words: list[int], levels: list[int], times: tuple[float, float, float], lost: int
) -> None:
    current = np.array(words, dtype=np.uint32).view(np.float32)  # every float there is, signalling NaNs included
    trace = Trace(*times, current, np.array(levels[: len(words)], dtype=np.uint8), lost)
    write_trace(tmp_path / "t.parquet", trace)
    loaded = read_trace(tmp_path / "t.parquet")
    assert loaded.current_a.tobytes() == current.tobytes()
    assert loaded.logic.tobytes() == trace.logic.tobytes()
    assert (loaded.t0_s, loaded.dt_s, loaded.voltage_v, loaded.lost) == (*times, lost)
    assert (loaded.current_a.dtype.name, loaded.logic.dtype.name) == ("float32", "uint8")
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_a_long_trace_of_several_row_groups_and_strided_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(5e-3, 1e-5, (2_500_000, 2)).astype(np.float32)
    logic = (np.arange(2_500_000) // 1000 % 2).astype(np.uint8)
    write_trace(tmp_path / "t.parquet", Trace(0.0, 1e-5, 3.3, wide[:, 0], logic))
    loaded = read_trace(tmp_path / "t.parquet")
    np.testing.assert_array_equal(loaded.current_a, wide[:, 0])
    np.testing.assert_array_equal(loaded.logic, logic)
    assert (tmp_path / "t.parquet").stat().st_size < 0.75 * (wide[:, 0].nbytes + logic.nbytes)


def test_the_file_is_encoded_as_the_design_says(tmp_path: Path) -> None:
    current = np.linspace(0, 1, 1000, dtype=np.float32)
    write_trace(tmp_path / "t.parquet", Trace(0.5, 1e-5, 3.3, current, np.zeros(1000, np.uint8), lost=2))
    group = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0)
    columns = {group.column(k).path_in_schema: group.column(k) for k in range(group.num_columns)}
    assert set(columns) == {"current_a", "logic"}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert "BYTE_STREAM_SPLIT" in columns["current_a"].encodings
    metadata = pq.read_metadata(tmp_path / "t.parquet").metadata
    assert (metadata[b"t0_s"], metadata[b"dt_s"], metadata[b"voltage_v"], metadata[b"lost"]) == (
        b"0.5", b"1e-05", b"3.3", b"2",
    )  # fmt: skip


def test_arrays_of_different_length_are_refused(tmp_path: Path) -> None:
    trace = Trace(0.0, 1e-5, 3.3, np.zeros(3, np.float32), np.zeros(4, np.uint8))
    with pytest.raises(StoreError, match=r"current has shape \(3,\) and its logic inputs \(4,\)"):
        write_trace(tmp_path / "t.parquet", trace)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    trace = Trace(0.0, 1e-5, 3.3, np.zeros(3, np.float32), np.zeros(3, np.uint8))
    with pytest.raises(StoreError, match=r"gone/t\.parquet: the trace could not be written"):
        write_trace(tmp_path / "gone" / "t.parquet", trace)


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    trace = Trace(0.0, 1e-5, 3.3, np.arange(3, dtype=np.float32), np.zeros(3, np.uint8))
    write_trace(tmp_path / "t.parquet", trace)
    broken = Trace(0.0, 1e-5, 3.3, np.zeros((3, 2), np.float32), np.zeros(3, np.uint8))
    with pytest.raises(StoreError, match="one-dimensional"):
        write_trace(tmp_path / "t.parquet", broken)
    assert read_trace(tmp_path / "t.parquet").current_a.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 not really PAR1"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(StoreError, match=r"t\.parquet: the trace cannot be read"):
        read_trace(tmp_path / "t.parquet")


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet")
    with pytest.raises(StoreError, match="not a trace of this lab"):
        read_trace(tmp_path / "t.parquet")


def test_a_measured_voltage_travels_with_the_current(tmp_path: Path) -> None:
    volts = np.linspace(3.2, 3.4, 1000, dtype=np.float32)
    trace = Trace(0.0, 1e-6, 3.3, np.ones(1000, np.float32), np.zeros(1000, np.uint8), measured_v=volts)
    write_trace(tmp_path / "t.parquet", trace)
    loaded = read_trace(tmp_path / "t.parquet")
    assert loaded.measured_v is not None
    np.testing.assert_array_equal(loaded.measured_v, volts)
    assert trace_digest(loaded) == trace_digest(trace) != trace_digest(replace(trace, measured_v=None))
    voltage = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0).column(2)
    assert "BYTE_STREAM_SPLIT" in voltage.encodings


@pytest.mark.parametrize("block", [700_000, 1_048_576, 3_000_000])
def test_a_stream_is_written_in_row_groups_and_equals_the_whole(tmp_path: Path, block: int) -> None:
    rng = np.random.default_rng(1)
    current = rng.normal(5e-3, 1e-5, 3_000_000).astype(np.float32)
    logic = (np.arange(current.size) // 977 % 2).astype(np.uint8)
    buffer = np.empty(block, np.float32)
    with TraceWriter(tmp_path / "t.parquet", t0_s=1.5, dt_s=5e-7, voltage_v=3.0) as writer:
        for begin in range(0, current.size, block):
            part = current[begin : begin + block]
            buffer[: part.size] = part
            writer.append(buffer[: part.size], logic[begin : begin + block], lost=1)
            buffer[:] = -1.0  # a driver may use its buffer again
    loaded = read_trace(tmp_path / "t.parquet")
    np.testing.assert_array_equal(loaded.current_a, current)
    np.testing.assert_array_equal(loaded.logic, logic)
    assert (loaded.t0_s, loaded.dt_s, loaded.lost) == (1.5, 5e-7, -(-current.size // block))
    assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups >= 2


def test_a_stream_that_breaks_off_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.parquet", Trace(0.0, 1e-5, 3.3, np.arange(3, dtype=np.float32), np.zeros(3, np.uint8)))

    def measured() -> None:
        with TraceWriter(tmp_path / "t.parquet", t0_s=0.0, dt_s=1e-5, voltage_v=3.3) as writer:
            writer.append(np.zeros(2_000_000, np.float32), np.zeros(2_000_000, np.uint8))
            raise KeyError("the meter went away")

    with pytest.raises(KeyError, match="the meter"):
        measured()
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    assert read_trace(tmp_path / "t.parquet").current_a.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("announced", [False, True])
def test_a_voltage_that_was_not_announced_or_does_not_come_is_refused(tmp_path: Path, announced: bool) -> None:
    ones = np.ones(3, np.float32)
    voltage = None if announced else ones
    told = "with a voltage" if announced else "without a voltage"
    with (
        pytest.raises(StoreError, match=told),
        TraceWriter(
            tmp_path / "t.parquet", t0_s=0.0, dt_s=1e-5, voltage_v=3.3, measures_voltage=announced
        ) as writer,
    ):
        writer.append(ones, np.zeros(3, np.uint8), voltage)
    assert list(tmp_path.iterdir()) == []
