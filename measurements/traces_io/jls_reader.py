"""Reads one Joulescope file to an ``.npz``; run as a process, since a damaged file may end it.

``python -m measurements.traces_io.jls_reader FILE.jls OUT.npz`` writes the arrays ``current``, ``logic``, ``facts``
(JSON) and, where there is one, ``voltage``. What cannot be read ends it with status 1 and one line on standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyjls  # type: ignore[import-untyped]

from measurements.record import Float32Array
from measurements.traces_io.jls import INPUTS, USER_DATA_KIND


def main(arguments: list[str]) -> int:
    """Read ``arguments[0]``, write ``arguments[1]``."""
    source, target = map(Path, arguments)
    try:
        arrays = _arrays(source)
    except (RuntimeError, ValueError, KeyError) as error:
        print(error, file=sys.stderr)
        return 1
    np.savez(target, allow_pickle=False, **arrays)
    return 0


def _arrays(source: Path) -> dict[str, npt.NDArray[np.generic]]:
    with pyjls.Reader(str(source)) as reader:
        fixed = pyjls.SignalType.FSR
        signals = {one.name: one for one in reader.signals.values() if one.signal_type == fixed and one.length}
        if "current" not in signals:
            raise ValueError(f"it has no signal 'current', only {', '.join(sorted(signals)) or 'none'}")
        used = {name: signals[name] for name in ("current", "voltage", *_inputs()) if name in signals}
        rates = {one.sample_rate for one in used.values()}
        if len(rates) > 1 or min(rates) <= 0:
            rate_list = ", ".join(f"{name} {one.sample_rate}" for name, one in used.items())
            raise ValueError(f"its signals differ in samples per second ({rate_list}); export them at one rate")
        begin = max(one.sample_id_offset for one in used.values())
        length = min(one.sample_id_offset + one.length for one in used.values()) - begin
        if length <= 0:
            raise ValueError("its signals share no stretch of time")
        read = {name: _samples(reader, one, begin, length) for name, one in used.items()}
        facts = {**_own_facts(reader), "rate_hz": used["current"].sample_rate}
    logic = np.zeros(length, np.uint8)
    for bit, name in enumerate(_inputs()):
        if name in read:
            logic |= read[name].astype(np.uint8) << np.uint8(bit)
    arrays: dict[str, npt.NDArray[np.generic]] = {"logic": logic, "facts": np.array(json.dumps(facts))}
    return arrays | {name: read[name] for name in ("current", "voltage") if name in read}


def _inputs() -> list[str]:
    return [f"gpi[{bit}]" for bit in range(INPUTS)]


def _samples(reader: pyjls.Reader, signal: pyjls.SignalDef, begin: int, length: int) -> Float32Array:
    """Samples of one signal; a single bit each for a logic input."""
    raw = reader.fsr(signal.signal_id, begin - signal.sample_id_offset, length)
    if signal.data_type & 0xFFFF == pyjls.DataType.U1 & 0xFFFF:
        raw = np.unpackbits(raw.view(np.uint8), bitorder="little")[:length]
    return np.asarray(raw, np.float32)


def _own_facts(reader: pyjls.Reader) -> Mapping[str, float]:
    found: dict[str, float] = {}

    def take(kind: int, data: object) -> bool:
        if kind == USER_DATA_KIND and isinstance(data, str | bytes):
            found.update(json.loads(data))
        return False

    reader.user_data(take)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
