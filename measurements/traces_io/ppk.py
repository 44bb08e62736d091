"""Nordic's older ``.ppk``, which its Power Profiler still converts: read only.

Raw deflate around a BSON document with the options, then, each after its length as uint32, float32 currents in µA and,
from the PPK2 on, uint16 bit pairs (as in :mod:`measurements.traces_io.ppk2`, here little-endian). Files from before the
document had a ``version`` have a second document with the state of the chart. Source: nRF Connect Power Profiler,
``src/utils/loadFileHandler.ts`` (2026-03).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from lab.errors import ConfigError
from measurements.record import Trace
from measurements.traces_io.files import count_lost, damaged, voltage_of
from measurements.traces_io.ppk2 import high_bits

KIND = "PPK recording (.ppk)"
_MAX_DEPTH = 16

# Sizes of BSON values that are not looked into (bsonspec.org, version 1.1); strings and documents tell their own.
_FIXED = {0x06: 0, 0x07: 12, 0x09: 8, 0x0A: 0, 0x11: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}


def read(path: Path, voltage_v: float | None) -> Trace:
    """As :func:`measurements.traces_io.read_trace`."""
    try:
        content = zlib.decompress(path.read_bytes(), wbits=-zlib.MAX_WBITS)
        options, at = _document(content, 0)
        if "version" not in options:
            _, at = _document(content, at)
        inner = options.get("options", options)
        currents, at = _chunk(content, at)
        pairs, _ = _chunk(content, at) if at < len(content) else (b"", at)
        if len(currents) % 4 or len(pairs) not in (0, len(currents) // 2):
            raise ValueError(f"{len(currents)} bytes of currents and {len(pairs)} of logic inputs do not fit")
    except (zlib.error, struct.error, ValueError, IndexError) as error:
        raise damaged(path, KIND, str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    rate = inner.get("samplesPerSecond") if isinstance(inner, dict) else None
    if not isinstance(rate, int | float) or not 0 < rate <= 1e9:
        raise damaged(path, KIND, f"samplesPerSecond is {rate!r}")
    current = (np.frombuffer(currents, "<f4").astype(np.float64) * 1e-6).astype(np.float32)
    logic = high_bits(np.frombuffer(pairs, "<u2").astype(np.uint16)) if pairs else np.zeros(current.size, np.uint8)
    return Trace(0.0, 1.0 / rate, voltage_of(path, None, voltage_v), current, logic, count_lost(current))


def write(path: Path, trace: Trace) -> None:
    """Refused: the format is obsolete and holds less than its successor."""
    raise ConfigError(f"{path}: the older .ppk format is only read", hint="write .ppk2")


def _chunk(content: bytes, at: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from("<I", content, at)
    end = at + 4 + size
    if end > len(content):
        raise ValueError(f"it ends {end - len(content)} bytes too early")
    return content[at + 4 : end], end


def _document(content: bytes, at: int, depth: int = 0) -> tuple[dict[str, object], int]:
    """A BSON document and where it ends; only numbers and documents in it are kept."""
    (size,) = struct.unpack_from("<i", content, at)
    end = at + size
    if size < 5 or end > len(content) or depth > _MAX_DEPTH:
        raise ValueError(f"no document at byte {at}")
    found: dict[str, object] = {}
    at += 4
    while content[at]:
        kind, name_end = content[at], content.index(0, at + 1)
        name, at = content[at + 1 : name_end].decode("utf-8", "replace"), name_end + 1
        match kind:
            case 0x01:
                (found[name],) = struct.unpack_from("<d", content, at)
                at += 8
            case 0x10:
                (found[name],) = struct.unpack_from("<i", content, at)
                at += 4
            case 0x12:
                (found[name],) = struct.unpack_from("<q", content, at)
                at += 8
            case 0x03 | 0x04:
                found[name], at = _document(content, at, depth + 1)
            case 0x08:
                at += 1
            case 0x02 | 0x0D | 0x0E:
                (length,) = struct.unpack_from("<I", content, at)
                at += 4 + length
            case 0x05:
                (length,) = struct.unpack_from("<I", content, at)
                at += 5 + length
            case _ if kind in _FIXED:
                at += _FIXED[kind]
            case _:
                raise ValueError(f"value of unknown kind 0x{kind:02x} at byte {at}")
        if at >= end:
            raise ValueError(f"a document ends inside its value {name!r}")
    return found, end
