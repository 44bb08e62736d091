"""Nordic's ``.ppk2``, as its Power Profiler saves and loads it.

A zip archive of ``metadata.json`` (samples per second, wall-clock start in ms, format version 2) and ``session.raw``:
per sample a little-endian float32 of the current in µA and a **big-endian** uint16 with two bits for each of D0 to D7:
01 low, 10 high, 11 both within the sample, 00 not known. ``minimap.raw``, the application's overview curve, is needed
by it to open a file, so it is written too. Source: nRF Connect Power Profiler, ``src/globals.ts``,
``saveFileHandler.ts``, ``bitConversion.ts``, ``foldingBuffer.ts`` (2026-03).

The format holds no voltage: files of this lab carry it, with start and losses, under a key of their own, which the
application passes over. Currents go through µA in float32 and come back within 2 parts in 10⁷. A logic input that was
both low and high counts as high. A voltage per sample is not kept.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from measurements.record import Trace, UInt8Array
from measurements.traces_io.files import check_shapes, count_lost, damaged, replacing, voltage_of

KIND = "PPK2 recording (.ppk2)"
VERSION = 2
_FRAME = np.dtype([("current_ua", "<f4"), ("bits", ">u2")])
_METADATA, _SESSION, _MINIMAP = "metadata.json", "session.raw", "minimap.raw"
_OURS = "hilLab"
_MINIMAP_ELEMENTS = 10_000
_LEAST_SHOWN_NA = 200.0

UInt16Array = npt.NDArray[np.uint16]


def read(path: Path, voltage_v: float | None) -> Trace:
    """As :func:`measurements.traces_io.read_trace`."""
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read(_METADATA))
            session = archive.read(_SESSION)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise damaged(path, KIND, str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    rate_hz, own = _facts(path, metadata)
    if len(session) % _FRAME.itemsize:
        raise damaged(path, KIND, f"{_SESSION} has {len(session)} bytes, no multiple of {_FRAME.itemsize}")
    frames = np.frombuffer(session, _FRAME)
    current = (frames["current_ua"].astype(np.float64) * 1e-6).astype(np.float32)
    return Trace(
        t0_s=own.get("t0_s", 0.0),
        dt_s=own.get("dt_s", 1.0 / rate_hz),
        voltage_v=voltage_of(path, own.get("voltage_v"), voltage_v),
        current_a=current,
        logic=high_bits(frames["bits"].astype(np.uint16)),
        lost=count_lost(current),
    )


def write(path: Path, trace: Trace) -> None:
    """As :func:`measurements.traces_io.write_trace`."""
    check_shapes(trace, path)
    frames = np.empty(trace.current_a.size, _FRAME)
    frames["current_ua"] = trace.current_a.astype(np.float64) * 1e6
    frames["bits"] = np.where(np.isnan(trace.current_a), 0, bit_pairs(trace.logic))
    metadata = {
        "metadata": {"samplesPerSecond": round(1.0 / trace.dt_s)},
        "formatVersion": VERSION,
        _OURS: {"t0_s": trace.t0_s, "dt_s": trace.dt_s, "voltage_v": trace.voltage_v},
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_SESSION, frames.tobytes())
        archive.writestr(_MINIMAP, json.dumps(_minimap(trace)))
        archive.writestr(_METADATA, json.dumps(metadata))


def bit_pairs(logic: UInt8Array) -> UInt16Array:
    """Levels D0..D7 as Nordic's pairs of bits: 10 for high, 01 for low."""
    return np.asarray(_PAIRS[logic], np.uint16)


def high_bits(pairs: UInt16Array) -> UInt8Array:
    """Nordic's pairs as levels: high where high was seen."""
    low_byte, high_byte = _HIGHS[pairs & 0xFF], _HIGHS[pairs >> 8]
    return np.asarray(low_byte | high_byte << 4, np.uint8)


def _pair_table() -> UInt16Array:
    levels = np.arange(256, dtype=np.uint16)
    pairs = np.zeros(256, np.uint16)
    for bit in range(8):
        pairs |= ((levels >> bit & 1) + 1) << 2 * bit
    return pairs


def _high_table() -> UInt8Array:
    pairs = np.arange(256, dtype=np.uint8)
    highs = [(pairs >> 2 * bit + 1 & 1) << bit for bit in range(4)]
    return np.asarray(np.bitwise_or.reduce(highs), np.uint8)


_PAIRS, _HIGHS = _pair_table(), _high_table()


def _facts(path: Path, metadata: object) -> tuple[float, dict[str, float]]:
    """Samples per second, and the facts that this lab adds."""
    inner = metadata.get("metadata") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(inner, dict):
        raise damaged(path, KIND, f"{_METADATA} has no 'metadata'")
    version = metadata.get("formatVersion", VERSION)
    if version != VERSION:
        raise ConfigError(
            f"{path}: is a .ppk2 file of format version {version!r}; {VERSION} is known",
            hint="save it with a Power Profiler of 4.x, or export CSV",
        )
    rate = inner.get("samplesPerSecond")
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate <= 1e9:
        raise damaged(path, KIND, f"samplesPerSecond is {rate!r}")
    own = metadata.get(_OURS)
    numbers = own.items() if isinstance(own, dict) else ()
    return float(rate), {key: float(value) for key, value in numbers if isinstance(value, int | float)}


def _minimap(trace: Trace) -> dict[str, object]:
    """The application's overview: extremes (nA) of stretches of a power of two samples, and their times (µs)."""
    size = trace.current_a.size
    fold = 1
    while -(-size // fold) >= _MINIMAP_ELEMENTS:
        fold *= 2
    begins = np.arange(0, size, fold)
    # The application draws on a logarithmic axis from 200 nA.
    shown = np.maximum(trace.current_a.astype(np.float64) * 1e9, _LEAST_SHOWN_NA)
    least = np.fmin.reduceat(shown, begins) if size else shown
    greatest = np.fmax.reduceat(shown, begins) if size else shown
    middle_us = (begins + (np.minimum(begins + fold, size) - 1 - begins) / 2) * trace.dt_s * 1e6
    return {
        "lastElementFoldCount": size % fold,
        "data": {
            "length": len(begins),
            "min": _points(middle_us, np.nan_to_num(least, nan=1.7976931348623157e308)),
            "max": _points(middle_us, np.nan_to_num(greatest, nan=-1.7976931348623157e308)),
        },
        "maxNumberOfElements": _MINIMAP_ELEMENTS,
        "numberOfTimesToFold": fold,
    }


def _points(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> list[dict[str, float]]:
    return [{"x": a, "y": b} for a, b in zip(x.tolist(), y.tolist(), strict=True)]
