"""Import and export of traces: lossless where the format allows, one clear error for anything else."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyjls  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import ConfigError
from measurements.record import Trace
from measurements.traces_io import read_trace, suffixes, write_trace
from measurements.traces_io.ppk2 import bit_pairs, high_bits

WRITTEN = suffixes()
LOSSLESS = tuple(suffix for suffix in WRITTEN if suffix != ".ppk2")


def sample(count: int = 2500, *, measured: bool = False) -> Trace:
    """Nanoampere to ampere, both signs, with lost samples and all logic levels."""
    rng = np.random.default_rng(count)
    current = (10.0 ** rng.uniform(-9, 0, count) * rng.choice((1, -1), count)).astype(np.float32)
    logic = rng.integers(0, 256, count).astype(np.uint8)
    current[7::500], logic[7::500] = np.nan, 0
    volts = rng.normal(3.3, 0.01, count).astype(np.float32) if measured else None
    return Trace(0.25, 1e-5, 3.3, current, logic, int(np.isnan(current).sum()), volts)


def facts(trace: Trace) -> tuple[float, float, float, int]:
    return trace.t0_s, trace.dt_s, trace.voltage_v, trace.lost


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_every_bit_comes_back(suffix: str, measured: bool, tmp_path: Path) -> None:
    trace = sample(measured=measured)
    write_trace(tmp_path / f"t{suffix}", trace)
    loaded = read_trace(tmp_path / f"t{suffix}")
    np.testing.assert_array_equal(loaded.current_a, trace.current_a, strict=True)
    np.testing.assert_array_equal(loaded.logic, trace.logic, strict=True)
    assert facts(loaded) == facts(trace)
    assert (loaded.measured_v is None) == (not measured)
    if loaded.measured_v is not None and trace.measured_v is not None:
        np.testing.assert_array_equal(loaded.measured_v, trace.measured_v, strict=True)
    assert [path.name for path in tmp_path.iterdir()] == [f"t{suffix}"]


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_stored_trace_is_written_in_every_format(suffix: str, tmp_path: Path) -> None:
    """Arrays that were read from a Parquet file are read-only."""
    write_trace(tmp_path / "stored.parquet", sample(measured=suffix != ".ppk2"))
    stored = read_trace(tmp_path / "stored.parquet")
    assert not stored.current_a.flags.writeable
    write_trace(tmp_path / f"t{suffix}", stored)
    np.testing.assert_allclose(read_trace(tmp_path / f"t{suffix}").current_a, stored.current_a, rtol=2e-7)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=50),
    t0_s=st.floats(-1e9, 1e9),
    dt_s=st.floats(1e-9, 10.0),
)
def test_csv_keeps_any_float32_and_any_clock(values: list[float], t0_s: float, dt_s: float, tmp_path: Path) -> None:
    current = np.array(values, np.float32)
    trace = Trace(t0_s, dt_s, 1.8, current, np.zeros(current.size, np.uint8), 3)
    write_trace(tmp_path / "t.csv", trace)
    loaded = read_trace(tmp_path / "t.csv")
    np.testing.assert_array_equal(loaded.current_a, current, strict=True)
    assert facts(loaded) == facts(trace)


# --- CSV of others


def test_units_of_other_programs_tables_are_read(tmp_path: Path) -> None:
    lines = ["Timestamp(ms),Current(uA),D0,D1,D2,D3,D4,D5,D6,D7", "0.0,1000.5,0,0,0,0,0,0,0,0"]
    lines += ["0.01,2000,1,0,0,0,0,0,0,1", "0.02,-3.25,0,1,0,0,0,0,0,0"]
    (tmp_path / "nordic.csv").write_text("\n".join(lines) + "\n")
    trace = read_trace(tmp_path / "nordic.csv", voltage_v=3.0)
    assert trace.current_a == pytest.approx([1.0005e-3, 2e-3, -3.25e-6], rel=1e-7)
    assert trace.logic.tolist() == [0, 0x81, 2]
    assert trace.dt_s == pytest.approx(1e-5)
    assert (trace.t0_s, trace.voltage_v, trace.lost) == (0.0, 3.0, 0)


def test_a_measured_voltage_of_a_table_gives_the_nominal_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Time [s],Voltage [mV],Current [mA]\n1,3300,1\n2,3290,2\n3,3310,nan\n")
    trace = read_trace(tmp_path / "t.csv")
    assert trace.measured_v is not None
    assert trace.measured_v == pytest.approx([3.3, 3.29, 3.31])
    assert trace.voltage_v == pytest.approx(3.3)
    assert (trace.t0_s, trace.dt_s, trace.lost) == (1.0, 1.0, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line with the names"),
        ("a,b\n1,2\n", "no column of time with a unit, only 'a', 'b'"),
        ("time_s,current\n1,2\n", "no column of current with a unit"),
        ("time_s,current_A\n0,1\n1,x\n", "conversion error"),
        ("time_s,current_A\n0,1\n1\n", "Expected 2 columns, got 1"),
        ("time_s,current_A\n0,1\n1,1\n3,1\n", "not evenly spaced"),
        ("time_s,current_A\n0,1\n", "1 samples with a time; at least two"),
        ("time_s,current_A\n2,1\n1,1\n", "not evenly spaced"),
    ],
)
def test_a_table_that_is_no_trace_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_trace(tmp_path / "t.csv", voltage_v=3.3)


# --- Nordic


def test_bit_pairs_are_those_of_nordics_own_comment() -> None:
    assert bit_pairs(np.array([0, 0xFF], np.uint8)).tolist() == [0b0101010101010101, 0b1010101010101010]
    levels = np.arange(256, dtype=np.uint8)
    assert high_bits(bit_pairs(levels)).tolist() == levels.tolist()
    assert high_bits(np.array([0, 0xFFFF], np.uint16)).tolist() == [0, 0xFF]


def test_ppk2_comes_back_within_two_roundings(tmp_path: Path) -> None:
    trace = sample()
    write_trace(tmp_path / "t.ppk2", trace)
    loaded = read_trace(tmp_path / "t.ppk2")
    np.testing.assert_allclose(loaded.current_a, trace.current_a, rtol=2.4e-7)
    np.testing.assert_array_equal(loaded.logic, trace.logic, strict=True)
    assert facts(loaded) == facts(trace)


def test_ppk2_is_laid_out_as_nordics_application_does(tmp_path: Path) -> None:
    """Read with struct and the sources' rules alone: float32 little-endian in µA, uint16 big-endian."""
    current = np.array([1e-3, np.nan, 20e-6], np.float32)
    write_trace(tmp_path / "t.ppk2", Trace(0.0, 1e-5, 3.3, current, np.array([1, 0, 0x80], np.uint8), 1))
    with zipfile.ZipFile(tmp_path / "t.ppk2") as archive:
        assert sorted(archive.namelist()) == ["metadata.json", "minimap.raw", "session.raw"]
        session = archive.read("session.raw")
        metadata = json.loads(archive.read("metadata.json"))
        minimap = json.loads(archive.read("minimap.raw"))
    rows = [(*struct.unpack_from("<f", session, k), *struct.unpack_from(">H", session, k + 4)) for k in (0, 6, 12)]
    assert [row[0] for row in rows] == pytest.approx([1000.0, np.nan, 20.0], nan_ok=True)
    assert [row[1] for row in rows] == [0b0101010101010110, 0, 0b1001010101010101]
    assert (metadata["formatVersion"], metadata["metadata"]["samplesPerSecond"]) == (2, 100_000)
    assert minimap["data"]["length"] == len(minimap["data"]["min"]) == len(minimap["data"]["max"]) == 3
    assert [point["y"] for point in minimap["data"]["max"]] == pytest.approx([1e6, -1.7976931348623157e308, 2e4])
    assert [point["x"] for point in minimap["data"]["min"]] == pytest.approx([0.0, 10.0, 20.0])


@pytest.mark.parametrize("samples", [0, 9_999, 10_000, 10_001, 25_000, 70_001])
def test_the_overview_of_ppk2_has_the_size_the_application_makes(samples: int, tmp_path: Path) -> None:
    """Its own way of adding one sample after the other, doubling what a point stands for when it is full."""
    length, count, fold = 0, 0, 1
    for _ in range(samples):
        length += count == 0
        count += 1
        count = 0 if count == fold else count
        if length == 10_000:
            length, fold = length // 2, fold * 2
    trace = Trace(0.0, 1e-5, 3.3, np.ones(samples, np.float32), np.zeros(samples, np.uint8))
    write_trace(tmp_path / "t.ppk2", trace)
    with zipfile.ZipFile(tmp_path / "t.ppk2") as archive:
        minimap = json.loads(archive.read("minimap.raw"))
    assert (minimap["numberOfTimesToFold"], minimap["maxNumberOfElements"]) == (fold, 10_000)
    assert abs(minimap["data"]["length"] - length) <= 1


def nordic(path: Path, document: object, session: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps(document))
        archive.writestr("session.raw", session)
    return path


GOOD = {"metadata": {"samplesPerSecond": 10_000, "startSystemTime": 1763750000000}, "formatVersion": 2}


def test_a_file_of_nordics_application_is_read_with_the_voltage_given(tmp_path: Path) -> None:
    session = struct.pack("<f", 1500.0) + struct.pack(">H", 0b0101010101011010)
    path = nordic(tmp_path / "t.ppk2", GOOD, session)
    trace = read_trace(path, voltage_v=1.8)
    assert trace.current_a == pytest.approx([1.5e-3])
    assert (trace.logic.tolist(), trace.dt_s, trace.voltage_v) == ([0b11], 1e-4, 1.8)
    with pytest.raises(ConfigError, match="no supply voltage"):
        read_trace(path)


@pytest.mark.parametrize(
    ("document", "session", "said"),
    [
        ({**GOOD, "formatVersion": 3}, b"", "format version 3; 2 is known"),
        ([], b"", "has no 'metadata'"),
        ({"metadata": {"samplesPerSecond": "fast"}}, b"", "samplesPerSecond is 'fast'"),
        ({"metadata": {"samplesPerSecond": 0}}, b"", "samplesPerSecond is 0"),
        (GOOD, bytes(7), "7 bytes, no multiple of 6"),
    ],
)
def test_a_ppk2_that_says_nonsense_is_refused(document: object, session: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_trace(nordic(tmp_path / "t.ppk2", document, session), voltage_v=3.3)


def bson(**values: float | dict[str, object] | str | bool) -> bytes:
    """A BSON document, written from the specification."""
    body = b""
    for name, value in values.items():
        key = name.encode() + b"\0"
        match value:
            case bool():
                body += b"\x08" + key + bytes([value])
            case int():
                body += b"\x10" + key + struct.pack("<i", value)
            case float():
                body += b"\x01" + key + struct.pack("<d", value)
            case str():
                body += b"\x02" + key + struct.pack("<I", len(value) + 1) + value.encode() + b"\0"
            case dict():
                body += b"\x03" + key + bson(**value)  # type: ignore[arg-type]
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def ppk(path: Path, *parts: bytes) -> Path:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(deflate.compress(b"".join(parts)) + deflate.flush())
    return path


def chunk(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


CURRENTS = struct.pack("<3f", 1.0, 2.0, 1e6)


def test_both_ages_of_ppk_are_read(tmp_path: Path) -> None:
    options: dict[str, object] = {"samplesPerSecond": 7692.0, "timestamp": 1.0, "name": "x", "on": True}
    pairs = chunk(struct.pack("<3H", 0x5555, 0x5556, 0xAAAA))
    newer = ppk(tmp_path / "new.ppk", bson(version=1, options=options), chunk(CURRENTS), pairs)
    older = ppk(tmp_path / "old.ppk", bson(**options), bson(chart=1.0), chunk(CURRENTS))  # type: ignore[arg-type]
    for path, logic in ((newer, [0, 1, 0xFF]), (older, [0, 0, 0])):
        trace = read_trace(path, voltage_v=3.0)
        assert trace.current_a == pytest.approx([1e-6, 2e-6, 1.0])
        assert trace.logic.tolist() == logic
        assert trace.dt_s == pytest.approx(1.3e-4, rel=1e-4)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((b"\x05\0\0\0\x01",), "no whole PPK"),
        ((bson(version=1, options={"samplesPerSecond": 1.0}), chunk(CURRENTS)[:-3]), "ends 3 bytes too early"),
        ((bson(version=1, options={}), chunk(CURRENTS)), "samplesPerSecond is None"),
        ((bson(version=1), chunk(CURRENTS), chunk(b"\0\0")), "12 bytes of currents and 2"),
        ((struct.pack("<i", 12) + b"\x42a\0" + bytes(5),), "unknown kind 0x42"),
    ],
)
def test_a_damaged_ppk_is_refused(parts: tuple[bytes, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_trace(ppk(tmp_path / "t.ppk", *parts), voltage_v=3.0)


def test_ppk_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only read\n.*write \.ppk2"):
        write_trace(tmp_path / "t.ppk", sample())


# --- Joulescope


def joulescope(path: Path, *, rate_v: int = 1000, offset_v: int = 0, current: str = "current") -> Path:
    """A file as Joulescope's own software lays it out: its library writes it, with signals of its names."""
    with pyjls.Writer(str(path)) as writer:
        writer.source_def(source_id=1, name="JS220-0", vendor="Jetperch", model="JS220", version="1", serial_number="0")
        for number, (name, rate, unit) in enumerate(((current, 1000, "A"), ("voltage", rate_v, "V")), 1):
            writer.signal_def(number, 1, pyjls.SignalType.FSR, pyjls.DataType.F32, rate, name=name, units=unit)
        writer.fsr(1, 0, np.arange(100, dtype=np.float32))
        writer.fsr(2, offset_v, np.full(100, 3.0, np.float32))
        writer.signal_def(3, 1, pyjls.SignalType.FSR, pyjls.DataType.U1, 1000, name="gpi[1]", units="")
        writer.fsr(3, 0, np.packbits(np.arange(104) // 10 % 2, bitorder="little"))
    return path


def test_a_joulescope_recording_gives_current_voltage_and_inputs(tmp_path: Path) -> None:
    trace = read_trace(joulescope(tmp_path / "t.jls", offset_v=7))
    assert trace.current_a.tolist() == list(range(7, 100)), "what both signals cover"
    assert trace.measured_v is not None
    assert trace.measured_v.tolist() == [3.0] * 93
    assert trace.logic.tolist() == [2 * (k // 10 % 2) for k in range(7, 100)]
    assert (trace.dt_s, trace.voltage_v, trace.lost) == (1e-3, 3.0, 0)


def test_signals_of_different_rates_or_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="differ in samples per second"):
        read_trace(joulescope(tmp_path / "r.jls", rate_v=500))
    with pytest.raises(ConfigError, match="no signal 'current', only amperes, gpi"):
        read_trace(joulescope(tmp_path / "n.jls", current="amperes"))


def test_a_damaged_recording_ends_its_reader_and_not_us(tmp_path: Path) -> None:
    whole = joulescope(tmp_path / "t.jls").read_bytes()
    rng = np.random.default_rng(3)
    for attempt in range(4):
        torn = np.frombuffer(whole, np.uint8).copy()
        torn[32 + rng.integers(0, len(whole) - 32, 2000)] = 0xFF
        path = tmp_path / f"d{attempt}.jls"
        path.write_bytes(torn.tobytes())
        with pytest.raises(ConfigError, match=r"no whole Joulescope recording \(\.jls\)"):
            read_trace(path)


def test_a_reader_that_dies_of_a_signal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = joulescope(tmp_path / "t.jls")
    run = subprocess.run

    def crash(command: list[str], **options: object) -> object:
        return run([sys.executable, "-c", "import os; os.abort()"], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", crash)
    with pytest.raises(ConfigError, match="its reader died of signal 6"):
        read_trace(path)


def test_version_1_and_odd_rates_are_named(tmp_path: Path) -> None:
    (tmp_path / "old.jls").write_bytes(b"\xd3tagfmt \r\n \n  \x1a\x1c" + bytes(64))
    with pytest.raises(ConfigError, match="version 1, which pyjls does not read"):
        read_trace(tmp_path / "old.jls")
    with pytest.raises(ConfigError, match="whole samples per second"):
        write_trace(tmp_path / "t.jls", replace(sample(), dt_s=0.4))


# --- all


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("content", [b"", b"no trace at all\n", bytes(range(256)) * 8])
def test_a_foreign_file_is_one_config_error(suffix: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"t{suffix}").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"t\{suffix}: "):
        read_trace(tmp_path / f"t{suffix}", voltage_v=3.3)


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITTEN if suffix != ".jls"])
def test_a_cut_or_flipped_file_is_a_config_error_or_a_trace(suffix: str, tmp_path: Path) -> None:
    write_trace(tmp_path / f"t{suffix}", sample(300))
    whole = (tmp_path / f"t{suffix}").read_bytes()
    rng = np.random.default_rng(11)
    refused = 0
    for attempt in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole))] if attempt % 2 else whole)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        (tmp_path / f"t{suffix}").write_bytes(damaged)
        try:
            assert read_trace(tmp_path / f"t{suffix}", voltage_v=3.3).current_a.dtype == np.float32
        except ConfigError:
            refused += 1
    assert refused >= (5 if suffix == ".csv" else 28)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_arrays_that_do_not_fit_are_written_nowhere(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shape"):
        write_trace(tmp_path / f"t{suffix}", replace(sample(), logic=np.zeros(3, np.uint8)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_missing_folder_is_a_config_error(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="written"):
        write_trace(tmp_path / "gone" / f"t{suffix}", sample(10))


def test_unknown_endings_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in '\.xls'\n.*\.parquet, \.csv"):
        write_trace(tmp_path / "t.xls", sample(3))
    with pytest.raises(ConfigError, match="there is no such file"):
        read_trace(tmp_path / "t.csv")
